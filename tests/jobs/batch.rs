//! Several chunks in one batch of the UNet: the result does not depend on their number.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use candle_core::Tensor;
use latentsync::pipeline::Hooks;
use latentsync::{CancelToken, Error, Job, LipSync, LoadOptions, ModelChoice, Progress, Report, Stage};

use crate::common::{Bench, bytes};

/// Four full chunks and one of six frames.
const FRAMES: usize = 70;
const CHUNKS: usize = 5;
/// On a GPU the last bits of a sum depend on the batch size, and every step amplifies the difference.
const GPU_TOLERANCE: f64 = 2e-2;

/// Everything that a job reports.
struct Observed {
    report: Report,
    /// By chunk number.
    latents: Vec<(usize, Vec<f32>)>,
    /// By number of the output frame.
    frames: Vec<(usize, Vec<u8>)>,
    progress: Vec<(Stage, usize, Option<usize>)>,
}

/// Records the progress, and cancels the job at the first progress of a stage.
#[derive(Default)]
struct Recorder {
    all: Vec<(Stage, usize, Option<usize>)>,
    cancel_at: Option<(Stage, CancelToken)>,
}

impl Progress for Recorder {
    fn stage(&mut self, stage: Stage, done: usize, total: Option<usize>) {
        self.all.push((stage, done, total));
        if let Some((_, token)) = self.cancel_at.as_ref().filter(|(at, _)| *at == stage) {
            token.cancel();
        }
    }
}

fn model(bench: &Bench, batch_chunks: &str) -> LipSync {
    let options = LoadOptions { batch_chunks: batch_chunks.parse().unwrap(), ..LoadOptions::default() };
    LipSync::load(&ModelChoice::Directory(bench.model.clone()), &options).expect("the model loads")
}

/// The anchors of the clip without the face of its last frame, which is shown only in the fourth chunk, twice: at the
/// turn of ping-pong.
fn anchors(bench: &Bench) -> PathBuf {
    let text = std::fs::read_to_string(&bench.anchors).unwrap();
    let mut anchors: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    anchors[49] = serde_json::Value::Null;
    let path = bench.directory.path().join("made_anchors.json");
    std::fs::write(&path, serde_json::to_string(&anchors).unwrap()).unwrap();
    path
}

fn job(bench: &Bench, anchors: &Path) -> Job {
    let mut job = Job { anchors: Some(anchors.into()), ..bench.job(bench.hum(FRAMES * 640)) };
    job.options.steps = 3;
    job
}

fn run(lipsync: &LipSync, job: &Job) -> Observed {
    let (latents, frames) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    let on_latents = |chunk: usize, latents_of_chunk: &Tensor| {
        assert_eq!(latents_of_chunk.dims()[0], 1);
        let values = latents_of_chunk.flatten_all().and_then(|x| x.to_vec1::<f32>()).unwrap();
        latents.lock().unwrap().push((chunk, values));
    };
    let on_frame = |output: usize, rgb: &Tensor| frames.lock().unwrap().push((output, bytes(rgb)));
    let hooks = Hooks { latents: Some(&on_latents), frame: Some(&on_frame), ..Hooks::default() };
    let mut recorder = Recorder::default();
    let report = lipsync.run_with(job, &hooks, &mut recorder, &CancelToken::new()).expect("the job runs");
    Observed {
        report,
        latents: latents.into_inner().unwrap(),
        frames: frames.into_inner().unwrap(),
        progress: recorder.all,
    }
}

/// ‖a − b‖ / ‖b‖.
fn relative_error(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let norm = |values: &mut dyn Iterator<Item = f32>| {
        values.map(|value| f64::from(value) * f64::from(value)).sum::<f64>().sqrt()
    };
    norm(&mut a.iter().zip(b).map(|(a, b)| a - b)) / norm(&mut b.iter().copied())
}

#[test]
fn the_result_does_not_depend_on_the_number_of_chunks_in_a_batch() {
    let bench = Bench::open();
    let anchors = anchors(&bench);
    let models = ["1", "3", "15"].map(|batch_chunks| model(&bench, batch_chunks));
    for (guidance_scale, deepcache) in [(1.0, None), (1.5, None), (1.5, Some(2))] {
        let mut job = job(&bench, &anchors);
        job.options.guidance_scale = guidance_scale;
        job.options.deepcache = deepcache;
        let [alone, some, all] = models.each_ref().map(|lipsync| run(lipsync, &job));
        assert_eq!(alone.report.batch_chunks, 1);
        let ranges = |seen: &Observed| {
            let ranges = seen.report.faces.frames_without_face.iter();
            ranges.map(|range| (range.first, range.last)).collect::<Vec<_>>()
        };
        assert_eq!(ranges(&alone), [(49, 50)]);
        for seen in [&some, &all] {
            let what = format!("guidance {guidance_scale}, DeepCache {deepcache:?}");
            // Of the five chunks, one has fewer faces and one fewer frames.
            assert_eq!(seen.report.batch_chunks, 3, "{what}");
            assert_eq!(seen.report.frames, FRAMES, "{what}");
            assert_eq!(ranges(seen), ranges(&alone), "{what}");
            let numbers: Vec<usize> = seen.latents.iter().map(|(chunk, _)| *chunk).collect();
            assert_eq!(numbers, (0..CHUNKS).collect::<Vec<_>>(), "{what}");
            let outputs: Vec<usize> = seen.frames.iter().map(|(output, _)| *output).collect();
            assert_eq!(outputs, (0..FRAMES).collect::<Vec<_>>(), "{what}");
            for ((chunk, batched), (_, single)) in seen.latents.iter().zip(&alone.latents) {
                let error = relative_error(batched, single);
                let tolerance = if alone.report.device == "cpu" { 0.0 } else { GPU_TOLERANCE };
                assert!(error <= tolerance, "{what}: latents of chunk {chunk}: {error:.1e}");
            }
            if alone.report.device == "cpu" {
                assert!(seen.frames == alone.frames, "{what}: frames differ");
            }
        }
    }
}

#[test]
fn the_progress_of_a_batch_never_decreases() {
    let bench = Bench::open();
    let job = job(&bench, &anchors(&bench));
    let progress = run(&model(&bench, "3"), &job).progress;
    for stage in Stage::ALL {
        let calls: Vec<_> = progress.iter().filter(|call| call.0 == stage).collect();
        assert!(calls.is_sorted_by_key(|call| call.1), "{calls:?}");
        assert!(calls.last().is_some_and(|call| call.2 == Some(call.1)), "{stage:?} ends: {calls:?}");
    }
}

#[test]
fn an_interrupted_batch_leaves_no_file() {
    let bench = Bench::open();
    let (lipsync, job) = (model(&bench, "3"), job(&bench, &anchors(&bench)));
    for stage in [Stage::EncodeLatents, Stage::DenoiseLatents, Stage::DecodeLatents, Stage::MuxVideo] {
        let token = CancelToken::new();
        let mut recorder = Recorder { cancel_at: Some((stage, token.clone())), ..Recorder::default() };
        let result = lipsync.run(&job, &mut recorder, &token);
        assert!(result.as_ref().is_err_and(Error::is_interrupted), "{stage:?}: {result:?}");
        assert_eq!(bench.leftovers(&[]), [""; 0], "{stage:?}");
    }
}
