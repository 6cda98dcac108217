//! Which faces a model can draw: the demo model has only ever seen drawn ones, and makes of others something painted.
//!
//! Its autoencoder's latents of all faces that it was trained on lie near a plane. How far from it those of another face lie,
//! says whether it is such a face.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

use crate::weights::LatentShape;

/// For people.
pub(crate) const WARNING: &str = "the demo model knows drawn faces only, and this one does not look drawn to it: expect a \
    painted mouth; `latentsync models pull latentsync-1.6` fetches a model for photographed faces";

/// As many as `scripts/train_demo` keeps.
const DIRECTIONS: usize = 64;

/// What latents of known faces lie apart from the plane by at most, as a mean of squares. Drawn people that the training has not
/// seen: 0.3, the farthest of 640 faces 1.0. Photographed ones: 1.8 to 2.5.
const FARTHEST: f32 = 1.35;

/// The plane: a point and orthonormal directions, the training's first principal components.
#[derive(Debug, Clone)]
pub(crate) struct KnownFaces {
    /// (1, values)
    mean: Tensor,
    /// (directions, values)
    directions: Tensor,
}

impl KnownFaces {
    /// For whole faces with latents of `shape`.
    pub fn load(shape: LatentShape, vb: VarBuilder<'_>) -> Result<Self> {
        let LatentShape { height, width, channels } = shape;
        let mean = vb.get((height, width, channels), "mean")?;
        let directions = vb.get((DIRECTIONS, height, width, channels), "directions")?;
        Ok(Self { mean: mean.flatten_all()?.unsqueeze(0)?, directions: directions.flatten_from(1)? })
    }

    /// `latents` of a whole face, (height, width, channels) f32, as the VAE's posterior has them in the mean, unscaled.
    pub fn include(&self, latents: &Tensor) -> Result<bool> {
        let distance = self.distance(latents)?;
        tracing::debug!("this face is {distance:.2} from those that the model knows");
        // Not so for what is no number.
        Ok(distance <= FARTHEST)
    }

    /// Mean of the squares of what the plane does not have.
    fn distance(&self, latents: &Tensor) -> Result<f32> {
        let apart = (latents.flatten_all()?.unsqueeze(0)? - &self.mean)?;
        let within = apart.matmul(&self.directions.t()?)?.matmul(&self.directions)?;
        (apart - within)?.sqr()?.mean_all()?.to_scalar()
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    #[test]
    fn the_distance_is_from_the_plane() -> Result<()> {
        let shape = LatentShape { height: 8, width: 8, channels: 2 };
        let axes = Tensor::eye(128, DType::F32, &Device::Cpu)?;
        let faces = KnownFaces {
            mean: Tensor::full(0.5f32, (1, 128), &Device::Cpu)?,
            directions: axes.narrow(0, 0, DIRECTIONS)?,
        };
        let face = |first_half: f32, second_half: f32| {
            let half = |value| Tensor::full(value, shape.elem_count() / 2, &Device::Cpu);
            Tensor::cat(&[half(first_half)?, half(second_half)?], 0)?.reshape((8, 8, 2))
        };
        // Anywhere within it.
        assert!(faces.distance(&face(-70.0, 0.5)?)? < 1e-6);
        // 2 apart in half of the values.
        assert!((faces.distance(&face(3.0, 2.5)?)? - 2.0).abs() < 1e-5);
        assert!(faces.include(&face(3.0, 2.0)?)?);
        assert!(!faces.include(&face(3.0, 2.5)?)?);
        assert!(!faces.include(&face(0.5, f32::NAN)?)?);
        Ok(())
    }
}
