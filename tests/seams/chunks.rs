//! The seam between two chunks: is the step from one chunk's last frame to the next one's first larger than the steps
//! within? The small golden model is untrained: its figures say what the noise and the attention's reach do, not what
//! a trained model makes of them.

use std::path::Path;
use std::sync::Mutex;

use candle_core::{IndexOp, Tensor};
use latentsync::options::{DurationPolicy, SyncMode};
use latentsync::pipeline::Hooks;
use latentsync::{CancelToken, Job, LipSync, LoadOptions, ModelChoice, Options};

const CHUNK: usize = 16;
const FRAMES: usize = 64;

/// Every frame's latents.
fn latents(lipsync: &LipSync, shared: &Path) -> Vec<Tensor> {
    let directory = tempfile::tempdir().unwrap();
    let media = shared.join("media");
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
    let seen = Mutex::new(Vec::new());
    let look = |_: usize, chunk: &Tensor| {
        let frames = chunk.dim(1).unwrap();
        seen.lock().unwrap().extend((0..frames).map(|frame| chunk.i((0, frame)).unwrap()));
    };
    let hooks = Hooks { latents: Some(&look), ..Hooks::default() };
    lipsync.run_with(&job, &hooks, &mut (), &CancelToken::new()).expect("the job runs");
    let mut latents = seen.into_inner().unwrap();
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
#[ignore = "a measurement: prints a table"]
fn steps_within_and_between_chunks() {
    let Some(shared) = super::shared() else { return };
    let model = shared.join("golden/small");
    if !model.is_dir() {
        return eprintln!("skipped: no `{}`", model.display());
    }
    let lipsync =
        LipSync::load(&ModelChoice::Directory(model), &LoadOptions::default()).expect("model loads");
    let whole = latents(&lipsync, &shared);
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
