//! Chunks that go through the UNet together: what becomes of them does not depend on how many they are.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use candle_core::Tensor;
use latentsync::pipeline::Hooks;
use latentsync::{CancelToken, Error, Job, LipSync, LoadOptions, ModelChoice, Progress, Report, Stage};

use super::common::{Bench, bytes};

/// Four whole chunks and one of six frames.
const FRAMES: usize = 70;
const CHUNKS: usize = 5;
/// On a GPU the last bits of a sum depend on the batch, and each step repeats what came of it.
const GPU_TOLERANCE: f64 = 2e-2;

/// What a job showed of itself.
struct Seen {
    report: Report,
    /// By chunk.
    latents: Vec<(usize, Vec<f32>)>,
    /// By output frame.
    frames: Vec<(usize, Vec<u8>)>,
    progress: Vec<(Stage, usize, Option<usize>)>,
}

/// Remembers all, and cancels a job when one of its stages says something.
#[derive(Default)]
struct Told {
    all: Vec<(Stage, usize, Option<usize>)>,
    cancel_at: Option<(Stage, CancelToken)>,
}

impl Progress for Told {
    fn stage(&mut self, stage: Stage, done: usize, total: Option<usize>) {
        self.all.push((stage, done, total));
        if let Some((_, token)) = self.cancel_at.as_ref().filter(|(at, _)| *at == stage) {
            token.cancel();
        }
    }
}

fn model(bench: &Bench, batch_chunks: &str) -> LipSync {
    let options = LoadOptions { batch_chunks: batch_chunks.parse().unwrap(), ..LoadOptions::default() };
    LipSync::load(&ModelChoice::Directory(bench.model.clone()), &options).expect("model loads")
}

/// The anchors of woman_2s, whose last frame has no face. It is shown in the fourth chunk only, twice: forward and back.
fn anchors(bench: &Bench) -> PathBuf {
    let text = std::fs::read_to_string(bench.media.join("woman_2s.landmarks3.json")).unwrap();
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

fn run(lipsync: &LipSync, job: &Job) -> Seen {
    let (latents, frames) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    let look_at_latents = |chunk: usize, latents_of_chunk: &Tensor| {
        assert_eq!(latents_of_chunk.dims()[0], 1);
        let values = latents_of_chunk.flatten_all().and_then(|x| x.to_vec1::<f32>()).unwrap();
        latents.lock().unwrap().push((chunk, values));
    };
    let look_at_frame = |output: usize, rgb: &Tensor| frames.lock().unwrap().push((output, bytes(rgb)));
    let hooks = Hooks { latents: Some(&look_at_latents), frame: Some(&look_at_frame), ..Hooks::default() };
    let mut told = Told::default();
    let report = lipsync.run_with(job, &hooks, &mut told, &CancelToken::new()).expect("the job runs");
    Seen {
        report,
        latents: latents.into_inner().unwrap(),
        frames: frames.into_inner().unwrap(),
        progress: told.all,
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
fn the_result_does_not_depend_on_how_many_chunks_are_computed_together() {
    let Some(bench) = Bench::open() else { return };
    let anchors = anchors(&bench);
    let models = ["1", "3", "15"].map(|batch_chunks| model(&bench, batch_chunks));
    for (guidance_scale, deepcache) in [(1.0, None), (1.5, None), (1.5, Some(2))] {
        let mut job = job(&bench, &anchors);
        job.options.guidance_scale = guidance_scale;
        job.options.deepcache = deepcache;
        let [alone, some, all] = models.each_ref().map(|lipsync| run(lipsync, &job));
        assert_eq!(alone.report.batch_chunks, 1);
        let ranges = |seen: &Seen| {
            let ranges = seen.report.faces.frames_without_face.iter();
            ranges.map(|range| (range.first, range.last)).collect::<Vec<_>>()
        };
        assert_eq!(ranges(&alone), [(49, 50)]);
        for seen in [&some, &all] {
            let what = format!("guidance {guidance_scale}, DeepCache {deepcache:?}");
            // Of the five, one has fewer faces, and one fewer frames.
            assert_eq!(seen.report.batch_chunks, 3, "{what}");
            assert_eq!(seen.report.frames, FRAMES, "{what}");
            assert_eq!(ranges(seen), ranges(&alone), "{what}");
            let numbers: Vec<usize> = seen.latents.iter().map(|(chunk, _)| *chunk).collect();
            assert_eq!(numbers, (0..CHUNKS).collect::<Vec<_>>(), "{what}");
            let outputs: Vec<usize> = seen.frames.iter().map(|(output, _)| *output).collect();
            assert_eq!(outputs, (0..FRAMES).collect::<Vec<_>>(), "{what}");
            for ((chunk, together), (_, by_itself)) in seen.latents.iter().zip(&alone.latents) {
                let error = relative_error(together, by_itself);
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
fn a_batch_tells_how_far_it_is_and_never_goes_back() {
    let Some(bench) = Bench::open() else { return };
    let job = job(&bench, &anchors(&bench));
    let told = run(&model(&bench, "3"), &job).progress;
    for stage in Stage::ALL {
        let calls: Vec<_> = told.iter().filter(|call| call.0 == stage).collect();
        assert!(calls.is_sorted_by_key(|call| call.1), "{calls:?}");
        assert!(calls.last().is_some_and(|call| call.2 == Some(call.1)), "{stage:?} ends: {calls:?}");
    }
}

#[test]
fn an_interrupted_batch_leaves_nothing() {
    let Some(bench) = Bench::open() else { return };
    let (lipsync, job) = (model(&bench, "3"), job(&bench, &anchors(&bench)));
    for stage in [Stage::EncodeLatents, Stage::DenoiseLatents, Stage::DecodeLatents, Stage::MuxVideo] {
        let token = CancelToken::new();
        let mut told = Told { cancel_at: Some((stage, token.clone())), ..Told::default() };
        let result = lipsync.run(&job, &mut told, &token);
        assert!(result.as_ref().is_err_and(Error::is_interrupted), "{stage:?}: {result:?}");
        assert_eq!(bench.leftovers(&[]), [""; 0], "{stage:?}");
    }
}
