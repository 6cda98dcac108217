//! Stage 6: decodes the denoised latents to face images with the VAE.

use candle_core::{Device, IndexOp, Tensor};
use models::vae::AutoencoderKL;

use crate::error::{Error, Result, compute};

/// Decodes `latents`, (1, frames, height, width, channels). `model_frames`: number of each frame, for errors.
/// Returns one (resolution, resolution, 3) f32 image in about [-1, 1] per frame, on the CPU. The whole face
/// is generated; [`compose_face`](super::compose_face::compose_face) takes the mouth from it.
///
/// Frames are decoded one by one, because the decoder's activations are by far the largest of the job.
/// `before_each` is called before every frame; its error ends the call.
pub fn decode_faces(
    vae: &AutoencoderKL,
    latents: &Tensor,
    model_frames: &[usize],
    before_each: impl Fn() -> Result<()>,
) -> Result<Vec<Tensor>> {
    let decode = |(frame, &model_frame): (usize, &usize)| {
        before_each()?;
        let face = decode_face(vae, latents, frame).map_err(compute("decode_latents"))?;
        check_finite(&face, model_frame)?;
        Ok(face)
    };
    model_frames.iter().enumerate().map(decode).collect()
}

fn decode_face(vae: &AutoencoderKL, latents: &Tensor, frame: usize) -> candle_core::Result<Tensor> {
    let latents = vae.unscale(&latents.i((0, frame..frame + 1))?)?;
    vae.decode(&latents)?.i(0)?.to_device(&Device::Cpu)
}

/// Detects NaN and infinity, the result of an overflow in the networks, which would be visible as black.
fn check_finite(face: &Tensor, model_frame: usize) -> Result<()> {
    let sum = face.sum_all().and_then(|sum| sum.to_scalar::<f32>()).map_err(compute("decode_latents"))?;
    if sum.is_finite() { Ok(()) } else { Err(Error::FaceNotFinite { frame: model_frame }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn a_non_finite_value_is_an_error_that_names_the_frame() {
        let face = |value: f32| Tensor::new(&[[0.5, value], [-1.0, 1.0]], &Device::Cpu).unwrap();
        assert!(check_finite(&face(0.0), 7).is_ok());
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let error = check_finite(&face(bad), 7).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Device);
            assert!(error.to_string().contains("frame 7"), "{error}");
        }
    }
}
