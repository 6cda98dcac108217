//! Stage 5: the diffusion loop over a batch of chunks of at most 16 frames each.

use candle_core::{Device, Tensor};
use models::ddim::DdimSchedule;
use models::guidance::Guidance;
use models::unet::{AudioContext, CachedHiddenState, UNet3D};

use crate::error::{Result, compute};
use crate::system::cancel::CancelToken;

/// The settings of the loop, the same for every chunk of a job.
pub struct Denoiser<'a> {
    pub unet: &'a UNet3D,
    pub schedule: &'a DdimSchedule,
    pub guidance: Guidance,
    /// DeepCache's interval: the full network runs at every n-th step. `None`: at every step.
    pub deepcache: Option<usize>,
    pub device: &'a Device,
    pub cancel: &'a CancelToken,
}

/// Inputs of one chunk.
pub struct ChunkInputs {
    /// (1, frames, height, width, channels)
    pub noise: Tensor,
    /// (1, frames, height, width, mask + masked + reference channels)
    pub conditioning: Tensor,
    /// (1, frames, tokens, audio channels)
    pub audio: Tensor,
}

/// State of the loop: the chunks, concatenated in the batch dimension.
struct Batch {
    latents: Tensor,
    context: AudioContext,
    /// DeepCache's hidden state of the last full step.
    cached: Option<CachedHiddenState>,
}

impl Denoiser<'_> {
    /// Returns the denoised latents of each chunk, (1, frames, height, width, channels), f32 on the UNet's
    /// device. The chunks must have the same number of frames; they do not influence each other.
    /// `after_step` is called with the number of finished steps. Cancellation takes effect after the current
    /// block.
    pub fn run(&self, chunks: &[ChunkInputs], mut after_step: impl FnMut(usize)) -> Result<Vec<Tensor>> {
        let stage = "denoise_latents";
        let mut batch = self.start(chunks).map_err(compute(stage))?;
        for (step, &timestep) in self.schedule.timesteps().iter().enumerate() {
            let result = self.step(step, timestep, &mut batch);
            self.cancel.check()?;
            result.map_err(compute(stage))?;
            after_step(step + 1);
        }
        let latents = (0..chunks.len()).map(|chunk| batch.latents.narrow(0, chunk, 1));
        latents.collect::<candle_core::Result<Vec<_>>>().map_err(compute(stage))
    }

    fn start(&self, chunks: &[ChunkInputs]) -> candle_core::Result<Batch> {
        let batched = |parts: Vec<&Tensor>| Tensor::cat(&parts, 0)?.to_device(self.device);
        let audio = batched(chunks.iter().map(|chunk| &chunk.audio).collect())?;
        let conditioning = batched(chunks.iter().map(|chunk| &chunk.conditioning).collect())?;
        let context = self.unet.guided_context(&audio, self.guidance)?;
        Ok(Batch {
            latents: batched(chunks.iter().map(|chunk| &chunk.noise).collect())?,
            context: self.unet.conditioned(context, &conditioning)?,
            cached: None,
        })
    }

    fn step(&self, step: usize, timestep: usize, batch: &mut Batch) -> candle_core::Result<()> {
        let sample = &batch.latents;
        let predicted = match (self.deepcache, &batch.cached) {
            (Some(interval), Some(hidden)) if !step.is_multiple_of(interval) => {
                self.unet.forward_shallow(sample, timestep, &batch.context, hidden)?
            }
            _ => {
                let mut stop_if_cancelled = |_: &str, _: &Tensor| match self.cancel.is_cancelled() {
                    true => candle_core::bail!("cancelled"),
                    false => Ok(()),
                };
                let (predicted, hidden) =
                    self.unet.forward_observed(sample, timestep, &batch.context, &mut stop_if_cancelled)?;
                batch.cached = self.deepcache.map(|_| hidden);
                predicted
            }
        };
        let predicted = self.guidance.combine(predicted)?;
        batch.latents = self.schedule.step(&predicted, timestep, &batch.latents)?;
        Ok(())
    }
}
