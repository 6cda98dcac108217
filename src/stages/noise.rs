//! Gaussian noise of a job: a function of (seed, purpose, frame), independent of the order of calls,
//! generated on the CPU and therefore equal on every device.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::{Distribution, StandardNormal};

use crate::weights::LatentShape;

/// Purpose of a noise tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoiseFor {
    /// Initial latents of the diffusion. One frame is drawn per job and repeated for all frames.
    InitialLatents,
    /// Sample from the posterior of the masked face.
    MaskedLatents,
    /// Sample from the posterior of the reference face.
    ReferenceLatents,
}

/// Source of a job's noise. The parity tests replace [`SeededNoise`] by the original's noise.
pub trait NoiseSource: Send + Sync {
    /// Standard normal values for one model frame, in (height, width, channels) order.
    fn frame(&self, what: NoiseFor, frame: usize, shape: LatentShape) -> Vec<f32>;
}

/// Noise from a seed.
#[derive(Debug, Clone, Copy)]
pub struct SeededNoise {
    pub seed: u64,
}

impl NoiseSource for SeededNoise {
    fn frame(&self, what: NoiseFor, frame: usize, shape: LatentShape) -> Vec<f32> {
        // ChaCha has 2^64 independent streams per key, one for each (purpose, frame).
        let purpose = match what {
            NoiseFor::InitialLatents => 0u64,
            NoiseFor::MaskedLatents => 1,
            NoiseFor::ReferenceLatents => 2,
        };
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(purpose << 56 | frame as u64);
        StandardNormal.sample_iter(&mut rng).take(shape.elem_count()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: LatentShape = LatentShape { height: 32, width: 32, channels: 4 };

    #[test]
    fn noise_depends_only_on_seed_purpose_and_frame() {
        let draw = |seed, what, frame| SeededNoise { seed }.frame(what, frame, SHAPE);
        let first = draw(7, NoiseFor::MaskedLatents, 3);
        draw(7, NoiseFor::ReferenceLatents, 0);
        assert_eq!(first, draw(7, NoiseFor::MaskedLatents, 3));
        assert_ne!(first, draw(8, NoiseFor::MaskedLatents, 3));
        assert_ne!(first, draw(7, NoiseFor::ReferenceLatents, 3));
        assert_ne!(first, draw(7, NoiseFor::MaskedLatents, 4));
    }

    #[test]
    fn noise_is_standard_normal() {
        let values: Vec<f64> = (0..16)
            .flat_map(|frame| SeededNoise { seed: 1247 }.frame(NoiseFor::InitialLatents, frame, SHAPE))
            .map(f64::from)
            .collect();
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
        // Four standard errors of each estimate over 65 536 values.
        assert!(mean.abs() < 4.0 / n.sqrt(), "mean {mean}");
        assert!((variance - 1.0).abs() < 4.0 * (2.0 / n).sqrt(), "variance {variance}");
    }
}
