//! Whole jobs: latents of every chunk and final frames, with the original's own noise.

use std::sync::Mutex;

use candle_core::{DType, Device, IndexOp, Tensor};
use latentsync::options::DTypeChoice;
use latentsync::pipeline::Hooks;
use latentsync::stages::noise::{NoiseFor, NoiseSource};
use latentsync::weights::LatentShape;
use latentsync::weights::{Checkpoint, HubSettings};
use latentsync::{CancelToken, Job, LipSync, LoadOptions, ModelChoice, Options};

use crate::common::{Golden, PipelineCase, psnr, relative_error, to_channels_last};

/// Frames that the original encodes in one call of the VAE.
const CHUNK: usize = 16;

/// The noise of the golden files: uniform, of unit variance, named by the set's tag and, for the VAE, by
/// the number of the call (masked, reference, masked, …).
struct GoldenNoise {
    tag: String,
}

impl NoiseSource for GoldenNoise {
    fn frame(&self, what: NoiseFor, frame: usize, shape: LatentShape) -> Vec<f32> {
        let (name, within) = match what {
            NoiseFor::InitialLatents => (format!("{}.init_noise", self.tag), 0),
            NoiseFor::MaskedLatents => {
                (format!("{}.vae_noise.{}", self.tag, frame / CHUNK * 2), frame % CHUNK)
            }
            NoiseFor::ReferenceLatents => {
                (format!("{}.vae_noise.{}", self.tag, frame / CHUNK * 2 + 1), frame % CHUNK)
            }
        };
        let LatentShape { height, width, channels } = shape;
        let size = shape.elem_count();
        let values = models::synthetic::uniform(&name, (within + 1) * size);
        // The original's order is (channels, height, width).
        let values: Vec<f32> = values[within * size..].iter().map(|v| v * 3f32.sqrt()).collect();
        let values = Tensor::from_vec(values, (channels, height, width), &Device::Cpu).unwrap();
        values.permute((1, 2, 0)).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }
}

/// What a job computed on its way: latents by chunk, and the frames that were asked for.
struct Seen {
    latents: Vec<Tensor>,
    frames: Vec<(usize, Tensor)>,
    written: usize,
}

fn model(golden: &Golden) -> ModelChoice {
    ModelChoice::Directory(golden.path(golden.manifest.model.as_ref().expect("a pipeline needs a model")))
}

fn run(golden: &Golden, case: &PipelineCase, keep: &[usize], dtype: DTypeChoice) -> Seen {
    let model = model(golden);
    let directory = tempfile::tempdir().unwrap();
    let job = Job {
        anchors: Some(golden.path(&case.anchors)),
        options: Options {
            steps: case.steps,
            guidance_scale: case.guidance_scale,
            deepcache: case.deepcache_interval,
            seed: Some(0),
            reference_compat: true,
            ..Options::default()
        },
        ..Job::new(golden.path(&case.video), golden.path(&case.audio), directory.path().join("out.mp4"))
    };
    let options = LoadOptions { dtype, ..LoadOptions::default() };
    let lipsync = LipSync::load(&model, &options).expect("the model loads");
    let noise = GoldenNoise { tag: golden.manifest.tag.clone() };
    let (latents, frames) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    let look_at_latents = |_: usize, tensor: &Tensor| latents.lock().unwrap().push(tensor.clone());
    let look_at_frame = |index: usize, rgb: &Tensor| {
        if keep.contains(&index) {
            frames.lock().unwrap().push((index, rgb.clone()));
        }
    };
    let hooks = Hooks { noise: Some(&noise), latents: Some(&look_at_latents), frame: Some(&look_at_frame) };
    let report = lipsync.run_with(&job, &hooks, &mut (), &CancelToken::new()).expect("the job runs");
    Seen {
        latents: latents.into_inner().unwrap(),
        frames: frames.into_inner().unwrap(),
        written: report.frames,
    }
}

fn check_latents(
    name: &str,
    case: &PipelineCase,
    golden: &Golden,
    frame_index: Option<&[usize]>,
) -> Option<Seen> {
    let want = golden.tensors(case.dir.join("pipeline_golden.safetensors"))?;
    let seen = run(golden, case, frame_index.unwrap_or(&[]), DTypeChoice::F32);
    let chunks = want.keys().filter(|key| key.starts_with("latents_chunk_")).count();
    assert!(chunks > 0, "{name}: the golden file has no latents");
    assert_eq!(seen.latents.len(), chunks, "{name}: chunks");
    for (chunk, latents) in seen.latents.iter().enumerate() {
        let want = to_channels_last(&want[&format!("latents_chunk_{chunk}")]).unwrap();
        let error = relative_error(latents, &want).unwrap();
        eprintln!("{name}: latents of chunk {chunk}: relative error {error:.2e}");
        assert!(error <= 1e-2, "{name}: chunk {chunk}: {error:.2e}");
    }
    Some(seen)
}

#[test]
fn pipeline_latents_and_frames() {
    let Some(golden) = Golden::open() else { return };
    let Some(case) = &golden.manifest.pipeline else {
        return eprintln!("skipped: the golden set has no pipeline");
    };
    let Some(want) = golden.tensors(case.dir.join("pipeline_golden.safetensors")) else { return };
    let integers = |key: &str| -> Vec<usize> {
        want[key].to_vec1::<i64>().unwrap().into_iter().map(|v| v as usize).collect()
    };
    let index = integers("frame_index");
    let Some(seen) = check_latents("pipeline", case, &golden, Some(&index)) else { return };
    assert_eq!(seen.written, integers("num_output_frames")[0], "frames written");
    assert_eq!(seen.frames.len(), index.len(), "frames compared");
    for (frame, rgb) in &seen.frames {
        let position = index.iter().position(|i| i == frame).unwrap();
        let psnr = psnr(rgb, &want["frames_rgb"].i(position).unwrap()).unwrap();
        eprintln!("pipeline: frame {frame}: {psnr:.1} dB");
        assert!(psnr >= 40.0, "frame {frame}: {psnr:.1} dB");
    }
}

#[test]
fn pipeline_with_deepcache() {
    let Some(golden) = Golden::open() else { return };
    match &golden.manifest.pipeline_deepcache {
        Some(case) => {
            let Some(f32) = check_latents("pipeline_deepcache", case, &golden, None) else { return };
            // Twenty steps in bf16 do not drift away.
            let bf16 = run(&golden, case, &[], DTypeChoice::BF16);
            check_decoded(&golden, &f32, &bf16);
        }
        None => eprintln!("skipped: the golden set has no pipeline_deepcache"),
    }
}

#[test]
fn pipeline_latents_in_bf16() {
    let Some(golden) = Golden::open() else { return };
    let Some(case) = &golden.manifest.pipeline else {
        return eprintln!("skipped: the golden set has no pipeline");
    };
    let Some(want) = golden.tensors(case.dir.join("pipeline_golden.safetensors")) else { return };
    let seen = run(&golden, case, &[], DTypeChoice::BF16);
    for (chunk, latents) in seen.latents.iter().enumerate() {
        let want = to_channels_last(&want[&format!("latents_chunk_{chunk}")]).unwrap();
        let error = relative_error(latents, &want).unwrap();
        eprintln!("pipeline in bf16: latents of chunk {chunk}: relative error {error:.2e}");
        assert!(error <= 2e-2, "chunk {chunk}: {error:.2e}");
    }
}

/// Both jobs' latents, each decoded in its own number format: every pixel is generated.
fn check_decoded(golden: &Golden, f32: &Seen, bf16: &Seen) {
    let checkpoint =
        Checkpoint::open(&model(golden), &HubSettings::from_env()).expect("the checkpoint opens");
    let decoded = |seen: &Seen, chunk: usize, dtype| {
        let vae = checkpoint.vae(dtype, &Device::Cpu).unwrap();
        let latents = vae.unscale(&seen.latents[chunk].i((0, ..1)).unwrap()).unwrap();
        let image = ((vae.decode(&latents).unwrap() + 1.0).unwrap() * 127.5).unwrap();
        image.clamp(0.0, 255.0).unwrap()
    };
    for chunk in 0..f32.latents.len() {
        let error = relative_error(&bf16.latents[chunk], &f32.latents[chunk]).unwrap();
        let psnr = psnr(&decoded(bf16, chunk, DType::BF16), &decoded(f32, chunk, DType::F32)).unwrap();
        eprintln!("20 steps in bf16: chunk {chunk}: latents {error:.2e}, decoded {psnr:.1} dB");
        assert!(psnr >= 35.0, "chunk {chunk}: {psnr:.1} dB");
    }
}
