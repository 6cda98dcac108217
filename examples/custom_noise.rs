//! Replaces the noise of a job and reads its latents and frames. Needs no download: it runs the built-in model on the built-in clip.
//!
//! ```sh
//! cargo run --release --example custom_noise
//! ```
//!
//! Two runs, one with the built-in noise and one with noise that is reduced to 90 %, and how far their final latents are apart.

use std::error::Error;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::{DType, Tensor};
use latentsync::demo::{DemoInputs, Sentence};
use latentsync::pipeline::Hooks;
use latentsync::stages::noise::{NoiseFor, NoiseSource, SeededNoise};
use latentsync::weights::LatentShape;
use latentsync::{CancelToken, Job, LipSync, LoadOptions, ModelChoice, Options};

/// The initial latents of the diffusion, scaled; the samples from the VAE's posteriors as they are.
struct ScaledNoise {
    scale: f32,
    seeded: SeededNoise,
}

impl NoiseSource for ScaledNoise {
    // Values in (height, width, channels) order. They must depend on the arguments only, not on the order of calls.
    fn frame(&self, what: NoiseFor, frame: usize, shape: LatentShape) -> Vec<f32> {
        let mut values = self.seeded.frame(what, frame, shape);
        if what == NoiseFor::InitialLatents {
            values.iter_mut().for_each(|value| *value *= self.scale);
        }
        values
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let directory = std::env::temp_dir().join("latentsync-custom-noise");
    let inputs = DemoInputs::write(&directory)?;
    let job = Job {
        options: Options { steps: 4, seed: Some(7), ..Options::default() },
        anchors: Some(inputs.anchors.clone()),
        ..Job::new(inputs.face.clone(), inputs.voice(Sentence::Second), directory.join("out.mp4"))
    };
    let lipsync = LipSync::load(&ModelChoice::Demo, &LoadOptions::default())?;

    let built_in = first_latents(&lipsync, &job, 1.0)?;
    let scaled = first_latents(&lipsync, &job, 0.9)?;
    let distance = (built_in.clone() - scaled)?.sqr()?.sum_all()?.to_scalar::<f32>()?.sqrt();
    let norm = built_in.sqr()?.sum_all()?.to_scalar::<f32>()?.sqrt();
    println!("relative distance of the first chunk's latents: {:.3}", distance / norm);
    Ok(())
}

/// Runs the job and returns the final latents of its first chunk, (1, frames, height, width, channels).
fn first_latents(lipsync: &LipSync, job: &Job, scale: f32) -> Result<Tensor, Box<dyn Error>> {
    let noise = ScaledNoise { scale, seeded: SeededNoise { seed: 7 } };
    let (first, frames) = (Mutex::new(None), AtomicUsize::new(0));
    let keep_first = |chunk: usize, latents: &Tensor| {
        if chunk == 0 {
            *first.lock().expect("no thread panics with the lock") = Some(latents.clone());
        }
    };
    let count = |_frame: usize, _picture: &Tensor| {
        frames.fetch_add(1, Ordering::Relaxed);
    };
    let hooks = Hooks { noise: Some(&noise), latents: Some(&keep_first), frame: Some(&count) };
    lipsync.run_with(job, &hooks, &mut (), &CancelToken::new())?;
    println!("noise × {scale}: {} frames", frames.into_inner());
    let latents = first.into_inner()?.ok_or("the job has no chunk")?;
    Ok(latents.to_dtype(DType::F32)?)
}
