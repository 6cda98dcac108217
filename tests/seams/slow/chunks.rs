//! The seam between two chunks: the change of the latents from the last frame of a chunk to the first of the next
//! one, beside the changes within chunks. The small model is untrained: its figures show the effect of the noise and
//! of the range of temporal attention, not that of a trained model.

use std::sync::Mutex;

use candle_core::{IndexOp, Tensor};
use latentsync::options::{DurationPolicy, SyncMode};
use latentsync::pipeline::Hooks;
use latentsync::{CancelToken, Job, LipSync, LoadOptions, ModelChoice, Options};

use super::media;
use crate::shared_material;

const CHUNK: usize = 16;
const FRAMES: usize = 64;

/// Final latents of the first frames.
fn latents(lipsync: &LipSync) -> Vec<Tensor> {
    let directory = tempfile::tempdir().unwrap();
    let media = media();
    let job = Job {
        anchors: Some(media.join("man_4s.landmarks3.json")),
        options: Options {
            steps: 10,
            seed: Some(7),
            duration: DurationPolicy::from(SyncMode::CutOff),
            ..Options::default()
        },
        ..Job::new(media.join("man_4s.mp4"), media.join("demo1_audio.wav"), directory.path().join("out.mp4"))
    };
    let latents = Mutex::new(Vec::new());
    let on_latents = |_: usize, chunk: &Tensor| {
        let frames = chunk.dim(1).unwrap();
        latents.lock().unwrap().extend((0..frames).map(|frame| chunk.i((0, frame)).unwrap()));
    };
    let hooks = Hooks { latents: Some(&on_latents), ..Hooks::default() };
    lipsync.run_with(&job, &hooks, &mut (), &CancelToken::new()).expect("the job runs");
    let mut latents = latents.into_inner().unwrap();
    latents.truncate(FRAMES);
    latents
}

/// Mean absolute difference.
fn distance(a: &Tensor, b: &Tensor) -> f32 {
    (a - b).and_then(|x| x.abs()?.mean_all()?.to_scalar()).unwrap()
}

fn mean(values: impl Iterator<Item = f32>) -> f32 {
    let values: Vec<f32> = values.collect();
    values.iter().sum::<f32>() / values.len() as f32
}

#[test]
#[ignore = "a measurement, which needs the shared material"]
fn steps_within_and_between_chunks() {
    let model = shared_material::directory().join("golden/small");
    let lipsync =
        LipSync::load(&ModelChoice::Directory(model), &LoadOptions::default()).expect("model loads");
    let whole = latents(&lipsync);
    let size = mean(whole.iter().map(|x| x.abs().and_then(|x| x.mean_all()?.to_scalar()).unwrap()));
    let steps: Vec<(bool, f32)> =
        (1..whole.len()).map(|k| (k % CHUNK == 0, distance(&whole[k - 1], &whole[k]))).collect();
    let of = |boundary| mean(steps.iter().filter(|step| step.0 == boundary).map(|step| step.1));
    println!("{} frames, mean |latent| {size:.4}", whole.len());
    println!("from frame to frame: {:.4} within chunks, {:.4} between chunks", of(false), of(true));
    for step in steps.iter().filter(|step| step.0) {
        println!("  between: {:.4}", step.1);
    }
    let mut within: Vec<f32> = steps.iter().filter(|step| !step.0).map(|step| step.1).collect();
    within.sort_by(f32::total_cmp);
    println!("  within: {:.4} to {:.4}", within[0], within[within.len() - 1]);
}
