//! Stage 5: the diffusion loop over one chunk of at most 16 frames.

use candle_core::{Device, Tensor};
use models::ddim::DdimSchedule;
use models::unet::{AudioContext, CachedFeature, UNet3D};

use crate::error::{Result, compute};
use crate::report::CancelToken;

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

/// A chunk between two steps.
struct Chunk {
    latents: Tensor,
    context: AudioContext,
    /// DeepCache's feature of the last step that ran the whole network.
    cached: Option<CachedFeature>,
}

impl Denoiser<'_> {
    /// The denoised latents, (1, frames, height, width, channels), f32 on the UNet's device.
    /// `after_step` is called with the number of finished steps. A cancelled job stops within a block.
    pub fn run(&self, inputs: &ChunkInputs, mut after_step: impl FnMut(usize)) -> Result<Tensor> {
        let stage = "denoise_latents";
        let mut chunk = self.start(inputs).map_err(compute(stage))?;
        for (step, &timestep) in self.schedule.timesteps().iter().enumerate() {
            let result = self.step(step, timestep, &mut chunk);
            self.cancel.check()?;
            result.map_err(compute(stage))?;
            after_step(step + 1);
        }
        Ok(chunk.latents)
    }

    fn start(&self, inputs: &ChunkInputs) -> candle_core::Result<Chunk> {
        let audio = inputs.audio.to_device(self.device)?;
        let audio = if self.is_guided() { Tensor::cat(&[&audio.zeros_like()?, &audio], 0)? } else { audio };
        let conditioning = inputs.conditioning.to_device(self.device)?;
        Ok(Chunk {
            latents: inputs.noise.to_device(self.device)?,
            context: self.unet.conditioned(self.unet.context(&audio)?, &conditioning)?,
            cached: None,
        })
    }

    fn step(&self, step: usize, timestep: usize, chunk: &mut Chunk) -> candle_core::Result<()> {
        // Both halves of guidance start from the same latents.
        let sample = &chunk.latents;
        let predicted = match (self.deepcache, &chunk.cached) {
            (Some(interval), Some(feature)) if !step.is_multiple_of(interval) => {
                self.unet.forward_shallow(sample, timestep, &chunk.context, feature)?
            }
            _ => {
                let mut stop_if_cancelled = |_: &str, _: &Tensor| match self.cancel.is_cancelled() {
                    true => candle_core::bail!("cancelled"),
                    false => Ok(()),
                };
                let (predicted, feature) =
                    self.unet.forward_observed(sample, timestep, &chunk.context, &mut stop_if_cancelled)?;
                chunk.cached = self.deepcache.map(|_| feature);
                predicted
            }
        };
        let predicted = self.guide(predicted)?;
        chunk.latents = self.schedule.step(&predicted, timestep, &chunk.latents)?;
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
        let (silent, voiced) = (predicted.narrow(0, 0, 1)?, predicted.narrow(0, 1, 1)?);
        &silent + ((voiced - &silent)? * self.guidance_scale)?
    }
}
