//! The DDIM schedule: the timesteps, and the update from one to the next.
//!
//! Settings of the original: scaled-linear betas from 0.00085 to 0.012 over 1000 training steps, `leading`
//! spacing with offset 1, eta 0, no clipping, `set_alpha_to_one = false`. The arithmetic is that of
//! candle-transformers; the parity test `ddim` compares it with diffusers.

use candle_core::{Result, Tensor, bail};
use candle_transformers::models::stable_diffusion::ddim::DDIMSchedulerConfig;
use candle_transformers::models::stable_diffusion::schedulers::SchedulerConfig;

/// DDIM schedule for a number of denoising steps.
///
/// Stores only the configuration: candle's scheduler, a table of 1000 numbers, is not `Send`, and building it
/// takes microseconds, which is negligible beside a pass of the UNet.
#[derive(Debug, Clone)]
pub struct DdimSchedule {
    config: DDIMSchedulerConfig,
    timesteps: Vec<usize>,
}

impl DdimSchedule {
    /// `steps`: 1 to 999; need not divide 1000.
    pub fn new(steps: usize) -> Result<Self> {
        let config = DDIMSchedulerConfig::default();
        if steps == 0 || steps >= config.train_timesteps {
            bail!("{steps} denoising steps, expected 1 to {}", config.train_timesteps - 1);
        }
        let timesteps = config.build(steps)?.timesteps().to_vec();
        Ok(Self { config, timesteps })
    }

    /// The timesteps at which the UNet predicts noise, in descending order.
    pub fn timesteps(&self) -> &[usize] {
        &self.timesteps
    }

    /// Returns the sample at the next timestep.
    /// `model_output`: noise that the UNet predicts for `sample` at `timestep`; both of the same, arbitrary
    /// shape.
    pub fn step(&self, model_output: &Tensor, timestep: usize, sample: &Tensor) -> Result<Tensor> {
        if !self.timesteps.contains(&timestep) {
            bail!("timestep {timestep} is not one of the schedule's {}", self.timesteps.len());
        }
        self.config.build(self.timesteps.len())?.step(model_output, timestep, sample)
    }
}

#[cfg(test)]
mod tests {
    use super::DdimSchedule;

    #[test]
    fn timesteps_equal_diffusers_if_steps_do_not_divide_1000() -> candle_core::Result<()> {
        // diffusers: (arange(7) * (1000 // 7))[::-1] + 1
        let schedule = DdimSchedule::new(7)?;
        assert_eq!(schedule.timesteps(), [853, 711, 569, 427, 285, 143, 1]);
        Ok(())
    }

    #[test]
    fn step_counts_outside_1_to_999_are_rejected() {
        for steps in [0, 1000] {
            assert!(DdimSchedule::new(steps).is_err(), "{steps} steps");
        }
    }
}
