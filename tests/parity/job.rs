//! The denoise stage of a job that the original ran, without its video: log-mel and VAE posteriors in, latents out.

use std::collections::HashMap;

use candle_core::{DType, Device, Result, Tensor};
use latentsync::CancelToken;
use latentsync::face::posteriors::FacePosteriors;
use latentsync::stages::denoise_latents::{ChunkInputs, Denoiser};
use latentsync::stages::encode_latents::{ChunkFace, conditioning};
use latentsync::stages::noise::{NoiseFor, NoiseSource};
use latentsync::weights::LatentShape;
use models::ddim::DdimSchedule;
use models::mouth_mask::MouthMask;

use crate::audio::{recorded_features, window};
use crate::golden::{GoldenSet, relative_error, to_channels_last};
use crate::networks::{load_unet, load_vae};

/// Frames of one chunk: of one UNet batch, and of one VAE call of the original.
pub const CHUNK_FRAMES: usize = 16;
/// Relative error of the final latents.
pub const LATENTS_TOLERANCE: f64 = 1e-2;
/// Chunks of the job in the repository's set: a full one, and the last one, which has two frames.
pub const CHUNKS: [usize; 2] = [0, 5];

/// Noise of the golden jobs: uniform, of unit variance. Its name is the set's tag and, for the VAE, the number of
/// the call (masked, reference, masked, …).
pub struct GoldenNoise {
    pub tag: String,
}

impl NoiseSource for GoldenNoise {
    fn frame(&self, what: NoiseFor, frame: usize, shape: LatentShape) -> Vec<f32> {
        let call = frame / CHUNK_FRAMES * 2;
        let (name, index) = match what {
            NoiseFor::InitialLatents => (format!("{}.init_noise", self.tag), 0),
            NoiseFor::MaskedLatents => (format!("{}.vae_noise.{call}", self.tag), frame % CHUNK_FRAMES),
            NoiseFor::ReferenceLatents => {
                (format!("{}.vae_noise.{}", self.tag, call + 1), frame % CHUNK_FRAMES)
            }
        };
        let LatentShape { height, width, channels } = shape;
        let size = shape.elem_count();
        let values = models::synthetic::uniform(&name, (index + 1) * size);
        // The original's axis order is (channels, height, width).
        let values: Vec<f32> = values[index * size..].iter().map(|v| v * 3f32.sqrt()).collect();
        let values = Tensor::from_vec(values, (channels, height, width), &Device::Cpu).unwrap();
        values.permute((1, 2, 0)).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }
}

/// The frames of one chunk: their numbers in the output, and what the VAE says of their faces.
struct Chunk {
    model_frames: Vec<usize>,
    posteriors: Vec<FacePosteriors>,
}

impl Chunk {
    fn of(tensors: &HashMap<String, Tensor>, number: usize, shape: LatentShape) -> Result<Self> {
        let mut chunk = Self { model_frames: Vec::new(), posteriors: Vec::new() };
        let posteriors = &tensors["posteriors"];
        for (row, frame) in tensors["model_frames"].to_vec1::<i64>()?.into_iter().enumerate() {
            let frame = frame as usize;
            if frame / CHUNK_FRAMES == number {
                let values = posteriors.get(row)?.flatten_all()?.to_vec1::<f32>()?;
                let bytes: Vec<u8> = values.into_iter().flat_map(f32::to_le_bytes).collect();
                chunk.posteriors.push(FacePosteriors::from_bytes(&bytes, shape)?);
                chunk.model_frames.push(frame);
            }
        }
        Ok(chunk)
    }
}

/// Denoises the stored chunks and compares the final latents with `{prefix}_{chunk}` of the job file.
fn check_latents(steps: usize, deepcache: Option<usize>, prefix: &str) -> Result<()> {
    let set = GoldenSet::in_repository();
    let job = set.manifest.job.as_ref().expect("a job");
    let tensors = set.tensors(&job.file);
    let (unet, vae) = (load_unet(&set, DType::F32)?, load_vae(&set, "vae", DType::F32)?);
    let (_, _, height, width, channels) = tensors["posteriors"].dims5()?;
    let shape = LatentShape { height, width, channels };
    let mask = MouthMask::new(height * vae.downscale())?;
    let noise = GoldenNoise { tag: set.manifest.tag.clone() };
    let features = recorded_features(&set)?;
    let schedule = DdimSchedule::new(steps)?;
    let denoiser = Denoiser {
        unet: &unet,
        schedule: &schedule,
        guidance: models::guidance::Guidance::ClassifierFree { scale: job.guidance_scale },
        deepcache,
        device: &Device::Cpu,
        cancel: &CancelToken::new(),
    };
    for number in CHUNKS {
        let chunk = Chunk::of(&tensors, number, shape)?;
        let frames = chunk.model_frames.len();
        let faces: Vec<ChunkFace> = chunk
            .model_frames
            .iter()
            .zip(&chunk.posteriors)
            .map(|(&model_frame, posteriors)| ChunkFace { model_frame, posteriors })
            .collect();
        let windows = chunk.model_frames.iter().map(|&frame| window(&features, frame));
        let initial = Tensor::from_vec(
            noise.frame(NoiseFor::InitialLatents, 0, shape),
            (1, 1, height, width, channels),
            &Device::Cpu,
        )?;
        let inputs = ChunkInputs {
            noise: initial.repeat((1, frames, 1, 1, 1))?,
            conditioning: conditioning(&vae, &mask, &faces, &noise)?,
            audio: Tensor::stack(&windows.collect::<Result<Vec<_>>>()?, 0)?.unsqueeze(0)?,
        };
        let latents = denoiser.run(&[inputs], |_| {}).map_err(candle_core::Error::wrap)?;
        let error = relative_error(&latents[0], &to_channels_last(&tensors[&format!("{prefix}_{number}")])?)?;
        eprintln!("{prefix}_{number}: {frames} frames: relative error {error:.2e}");
        assert!(error <= LATENTS_TOLERANCE, "{prefix}_{number}: {error:.2e}");
    }
    Ok(())
}

#[test]
fn denoised_latents_equal_the_original() -> Result<()> {
    let steps = GoldenSet::in_repository().manifest.job.expect("a job").steps;
    check_latents(steps, None, "latents_chunk")
}

#[test]
fn denoised_latents_with_deepcache_equal_the_original() -> Result<()> {
    let job = GoldenSet::in_repository().manifest.job.expect("a job");
    check_latents(job.deepcache_steps, Some(job.deepcache_interval), "deepcache_latents_chunk")
}
