//! Stage 5: the diffusion loop over chunks of at most 16 frames, several of them together where there is
//! room.

use candle_core::{Device, Tensor};
use models::ddim::DdimSchedule;
use models::unet::{AudioContext, CachedFeature, UNet3D};

use crate::error::{Result, compute};
use crate::system::cancel::CancelToken;

/// The settings of the loop, the same for every chunk of a job.
pub struct Denoiser<'a> {
    pub unet: &'a UNet3D,
    pub schedule: &'a DdimSchedule,
    /// More than 1 computes a second prediction, without audio, at every step.
    pub guidance_scale: f64,
    /// Every how many steps the whole network runs (DeepCache); `None`: on all of them.
    pub deepcache: Option<usize>,
    pub device: &'a Device,
    pub cancel: &'a CancelToken,
}

/// What one chunk starts from; frames are those of the chunk.
pub struct ChunkInputs {
    /// (1, frames, height, width, channels)
    pub noise: Tensor,
    /// (1, frames, height, width, mask + masked + reference channels)
    pub conditioning: Tensor,
    /// (1, frames, tokens, audio channels)
    pub audio: Tensor,
}

/// Chunks between two steps, one after the other in the first dimension.
struct Batch {
    latents: Tensor,
    context: AudioContext,
    /// DeepCache's feature of the last step that ran the whole network.
    cached: Option<CachedFeature>,
}

impl Denoiser<'_> {
    /// The denoised latents of each of `chunks`, (1, frames, height, width, channels), f32 on the UNet's
    /// device. They must have equally many frames, and see nothing of each other. `after_step` is called with
    /// the number of finished steps. A cancelled job stops within a block.
    pub fn run(&self, chunks: &[ChunkInputs], mut after_step: impl FnMut(usize)) -> Result<Vec<Tensor>> {
        let stage = "denoise_latents";
        let mut batch = self.start(chunks).map_err(compute(stage))?;
        for (step, &timestep) in self.schedule.timesteps().iter().enumerate() {
            let result = self.step(step, timestep, &mut batch);
            self.cancel.check()?;
            result.map_err(compute(stage))?;
            after_step(step + 1);
        }
        let of_chunks = (0..chunks.len()).map(|chunk| batch.latents.narrow(0, chunk, 1));
        of_chunks.collect::<candle_core::Result<Vec<_>>>().map_err(compute(stage))
    }

    fn start(&self, chunks: &[ChunkInputs]) -> candle_core::Result<Batch> {
        let together = |parts: Vec<&Tensor>| Tensor::cat(&parts, 0)?.to_device(self.device);
        let audio = together(chunks.iter().map(|chunk| &chunk.audio).collect())?;
        // All chunks without audio, then all with it.
        let audio = if self.is_guided() { Tensor::cat(&[&audio.zeros_like()?, &audio], 0)? } else { audio };
        let conditioning = together(chunks.iter().map(|chunk| &chunk.conditioning).collect())?;
        Ok(Batch {
            latents: together(chunks.iter().map(|chunk| &chunk.noise).collect())?,
            context: self.unet.conditioned(self.unet.context(&audio)?, &conditioning)?,
            cached: None,
        })
    }

    fn step(&self, step: usize, timestep: usize, batch: &mut Batch) -> candle_core::Result<()> {
        // Both halves of guidance start from the same latents.
        let sample = &batch.latents;
        let predicted = match (self.deepcache, &batch.cached) {
            (Some(interval), Some(feature)) if !step.is_multiple_of(interval) => {
                self.unet.forward_shallow(sample, timestep, &batch.context, feature)?
            }
            _ => {
                let mut stop_if_cancelled = |_: &str, _: &Tensor| match self.cancel.is_cancelled() {
                    true => candle_core::bail!("cancelled"),
                    false => Ok(()),
                };
                let (predicted, feature) =
                    self.unet.forward_observed(sample, timestep, &batch.context, &mut stop_if_cancelled)?;
                batch.cached = self.deepcache.map(|_| feature);
                predicted
            }
        };
        let predicted = self.guide(predicted)?;
        batch.latents = self.schedule.step(&predicted, timestep, &batch.latents)?;
        Ok(())
    }

    fn is_guided(&self) -> bool {
        self.guidance_scale > 1.0
    }

    /// ε₀ + s (ε₁ − ε₀), the first half of the batch being the prediction without audio.
    fn guide(&self, predicted: Tensor) -> candle_core::Result<Tensor> {
        if !self.is_guided() {
            return Ok(predicted);
        }
        let chunks = predicted.dim(0)? / 2;
        let (silent, voiced) = (predicted.narrow(0, 0, chunks)?, predicted.narrow(0, chunks, chunks)?);
        &silent + ((voiced - &silent)? * self.guidance_scale)?
    }
}
