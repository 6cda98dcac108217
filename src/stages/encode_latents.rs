//! Stage 4: encodes face crops to VAE posteriors and samples the conditioning channels of the UNet from them.
//!
//! The VAE runs once per source frame. Each use of the frame draws a new sample from the posterior, so a
//! looped video does not repeat its noise.

use candle_core::{D, DType, Device, IndexOp, Result, Tensor};
use models::mouth_mask::MouthMask;
use models::vae::AutoencoderKL;

use crate::face::posteriors::FacePosteriors;
use crate::stages::noise::{NoiseFor, NoiseSource};
use crate::weights::LatentShape;

/// Encodes a face crop, (resolution, resolution, 3) u8. `device`: the device of the VAE.
pub fn encode_face(
    vae: &AutoencoderKL,
    device: &Device,
    mask: &MouthMask,
    crop: &Tensor,
) -> Result<FacePosteriors> {
    let pixels = face_pixels(crop)?;
    let masked = pixels.broadcast_mul(mask.pixels())?;
    let posterior = vae.encode(&Tensor::stack(&[masked, pixels], 0)?.to_device(device)?)?;
    let (mean, std) = (posterior.mean.to_device(&Device::Cpu)?, posterior.std.to_device(&Device::Cpu)?);
    Ok(FacePosteriors(Tensor::stack(&[mean.i(0)?, std.i(0)?, mean.i(1)?, std.i(1)?], 0)?))
}

/// Normalises a crop: u8 → f32 in [-1, 1].
pub fn face_pixels(crop: &Tensor) -> Result<Tensor> {
    (crop.to_dtype(DType::F32)? / 127.5)? - 1.0
}

/// A face of a chunk and its model frame.
pub struct ChunkFace<'a> {
    pub model_frame: usize,
    pub posteriors: &'a FacePosteriors,
}

/// The UNet's input channels besides the noisy latents: mask (1) | masked latents | reference latents.
/// → (1, faces, height, width, 1 + 2 × channels), f32 on the CPU.
pub fn conditioning(
    vae: &AutoencoderKL,
    mask: &MouthMask,
    faces: &[ChunkFace],
    noise: &dyn NoiseSource,
) -> Result<Tensor> {
    let frames = faces.iter().map(|face| {
        let (masked, reference) = sample(face.posteriors, face.model_frame, noise)?;
        Tensor::cat(&[mask.latents().clone(), vae.scale(&masked)?, vae.scale(&reference)?], D::Minus1)
    });
    Tensor::stack(&frames.collect::<Result<Vec<_>>>()?, 0)?.unsqueeze(0)
}

/// Samples of the masked and of the reference latents, (height, width, channels) each, with the noise of
/// model frame `frame`.
fn sample(posteriors: &FacePosteriors, frame: usize, noise: &dyn NoiseSource) -> Result<(Tensor, Tensor)> {
    let (_, height, width, channels) = posteriors.0.dims4()?;
    let shape = LatentShape { height, width, channels };
    let draw = |what, first| {
        let noise =
            Tensor::from_vec(noise.frame(what, frame, shape), (height, width, channels), &Device::Cpu)?;
        posteriors.0.i(first)? + (posteriors.0.i(first + 1)? * noise)?
    };
    Ok((draw(NoiseFor::MaskedLatents, 0)?, draw(NoiseFor::ReferenceLatents, 2)?))
}
