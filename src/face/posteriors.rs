//! The VAE posteriors of one face.

use candle_core::{Device, IndexOp, Result, Tensor};

use crate::weights::LatentShape;

/// VAE posteriors of one face: mean and standard deviation of the masked image, then of the whole image,
/// (4, height, width, channels) f32 on the CPU.
#[derive(Debug, Clone)]
pub struct FacePosteriors(pub(crate) Tensor);

impl FacePosteriors {
    /// Serialises to little-endian bytes.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        Ok(self.0.flatten_all()?.to_vec1::<f32>()?.into_iter().flat_map(f32::to_le_bytes).collect())
    }

    /// The inverse of [`Self::to_bytes`] for latents of `shape`.
    pub fn from_bytes(bytes: &[u8], shape: LatentShape) -> Result<Self> {
        let values = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        Ok(Self(Tensor::from_vec(values, (4, shape.height, shape.width, shape.channels), &Device::Cpu)?))
    }

    /// Mean of the whole image's posterior, (height, width, channels), unscaled.
    pub fn whole_mean(&self) -> Result<Tensor> {
        self.0.i(2)
    }
}
