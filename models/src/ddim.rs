//! The DDIM schedule: which steps are taken, and from one to the next.
//!
//! The original's settings: scaled-linear betas from 0.00085 to 0.012 over 1000 training steps, `leading`
//! spacing with offset 1, eta 0, no clipping, and the first training step's alpha at the end. The arithmetic is
//! candle-transformers'; the parity test `ddim` holds it to diffusers' numbers.

use candle_core::{Result, Tensor, bail};
use candle_transformers::models::stable_diffusion::ddim::DDIMSchedulerConfig;
use candle_transformers::models::stable_diffusion::schedulers::SchedulerConfig;

/// A number of denoising steps.
///
/// Keeps the plan only: candle's scheduler, a table of 1000 numbers, cannot be sent to another thread, and making it
/// anew takes microseconds beside the UNet's pass.
#[derive(Debug, Clone)]
pub struct DdimSchedule {
    config: DDIMSchedulerConfig,
    timesteps: Vec<usize>,
}

impl DdimSchedule {
    /// `steps`: 1 to 999; it need not divide 1000.
    pub fn new(steps: usize) -> Result<Self> {
        let config = DDIMSchedulerConfig::default();
        if steps == 0 || steps >= config.train_timesteps {
            bail!("{steps} denoising steps, expected 1 to {}", config.train_timesteps - 1);
        }
        let timesteps = config.build(steps)?.timesteps().to_vec();
        Ok(Self { config, timesteps })
    }

    /// The training steps at which the UNet is asked, from the noisiest on.
    pub fn timesteps(&self) -> &[usize] {
        &self.timesteps
    }

    /// `noise`: the UNet's answer for `sample` at `timestep`; any shape → the sample at the next timestep.
    pub fn step(&self, noise: &Tensor, timestep: usize, sample: &Tensor) -> Result<Tensor> {
        if !self.timesteps.contains(&timestep) {
            bail!("timestep {timestep} is not one of the schedule's {}", self.timesteps.len());
        }
        self.config.build(self.timesteps.len())?.step(noise, timestep, sample)
    }
}

#[cfg(test)]
mod tests {
    use super::DdimSchedule;

    #[test]
    fn steps_that_do_not_divide_1000() -> candle_core::Result<()> {
        // diffusers: (arange(7) * (1000 // 7))[::-1] + 1
        let schedule = DdimSchedule::new(7)?;
        assert_eq!(schedule.timesteps(), [853, 711, 569, 427, 285, 143, 1]);
        Ok(())
    }

    #[test]
    fn refuses_what_no_schedule_has() {
        for steps in [0, 1000] {
            assert!(DdimSchedule::new(steps).is_err(), "{steps} steps");
        }
    }
}
