//! The DDIM schedule: the timesteps, and the update from one to the next.
//!
//! Song et al., "Denoising Diffusion Implicit Models", equation 12, as diffusers' `DDIMScheduler` computes it with
//! the settings of the original: scaled-linear betas from 0.00085 to 0.012 over 1000 training steps, `leading`
//! spacing with offset 1, eta 0, no clipping, `set_alpha_to_one = false`. The parity test `ddim` compares it with
//! diffusers' numbers.

use candle_core::{Result, Tensor, bail};

const TRAIN_TIMESTEPS: usize = 1000;
const BETA_START: f64 = 0.00085;
const BETA_END: f64 = 0.012;
const STEPS_OFFSET: usize = 1;

/// DDIM schedule for a number of denoising steps.
#[derive(Debug, Clone)]
pub struct DdimSchedule {
    /// Descending.
    timesteps: Vec<usize>,
    /// Training steps between two timesteps.
    step_ratio: usize,
    /// Cumulative product of `1 - beta`, one value per training step.
    alphas_cumprod: Vec<f64>,
}

impl DdimSchedule {
    /// `steps`: 1 to 999; need not divide 1000.
    pub fn new(steps: usize) -> Result<Self> {
        if steps == 0 || steps >= TRAIN_TIMESTEPS {
            bail!("{steps} denoising steps, expected 1 to {}", TRAIN_TIMESTEPS - 1);
        }
        let step_ratio = TRAIN_TIMESTEPS / steps;
        let timesteps = (0..steps).rev().map(|step| step * step_ratio + STEPS_OFFSET).collect();
        Ok(Self { timesteps, step_ratio, alphas_cumprod: alphas_cumprod() })
    }

    /// The timesteps at which the UNet predicts noise, in descending order.
    pub fn timesteps(&self) -> &[usize] {
        &self.timesteps
    }

    /// Returns the sample at the next timestep.
    ///
    /// `model_output` is the noise that the UNet predicts for `sample` at `timestep`; both have the same, arbitrary
    /// shape.
    pub fn step(&self, model_output: &Tensor, timestep: usize, sample: &Tensor) -> Result<Tensor> {
        if !self.timesteps.contains(&timestep) {
            bail!("timestep {timestep} is not one of the schedule's {}", self.timesteps.len());
        }
        let alpha = self.alphas_cumprod[timestep];
        let next_alpha = self.alphas_cumprod[timestep.saturating_sub(self.step_ratio)];
        let original_sample = ((sample - (model_output * (1.0 - alpha).sqrt())?)? * (1.0 / alpha.sqrt()))?;
        let direction = (model_output * (1.0 - next_alpha).sqrt())?;
        (original_sample * next_alpha.sqrt())? + direction
    }
}

/// Betas are linear in their square roots ("scaled linear").
fn alphas_cumprod() -> Vec<f64> {
    let (start, end) = (BETA_START.sqrt(), BETA_END.sqrt());
    let delta = (end - start) / (TRAIN_TIMESTEPS - 1) as f64;
    let mut product = 1.0;
    (0..TRAIN_TIMESTEPS)
        .map(|step| {
            let root = start + step as f64 * delta;
            product *= 1.0 - root * root;
            product
        })
        .collect()
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
    fn step_counts_outside_1_to_999_are_refused() {
        for steps in [0, 1000] {
            assert!(DdimSchedule::new(steps).is_err(), "{steps} steps");
        }
    }
}
