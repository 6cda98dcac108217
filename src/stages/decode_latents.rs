//! Stage 6: denoised latents → faces, with the original's pixels kept outside the mouth mask.

use candle_core::{Device, IndexOp, Tensor};
use models::mouth_mask::MouthMask;
use models::vae::AutoencoderKL;

use crate::error::{Error, Result, compute};

use super::encode_latents::face_pixels;

/// `latents`: (1, frames, height, width, channels); `crops`: for each frame its number in the output and its
/// (resolution, resolution, 3) u8 crop → one (resolution, resolution, 3) f32 face in about [-1, 1] per frame, on the CPU.
///
/// Frames are decoded one by one: the decoder's activations are by far the largest of the whole job.
/// `before_each` is called before every frame and may stop with an error.
pub fn decode_faces(
    vae: &AutoencoderKL,
    mask: &MouthMask,
    latents: &Tensor,
    crops: &[(usize, &Tensor)],
    before_each: impl Fn() -> Result<()>,
) -> Result<Vec<Tensor>> {
    let decode = |(frame, &(output, crop)): (usize, &(usize, &Tensor))| {
        before_each()?;
        let face = decode_face(vae, mask, latents, frame, crop).map_err(compute("decode_latents"))?;
        check_finite(&face, output)?;
        Ok(face)
    };
    crops.iter().enumerate().map(decode).collect()
}

fn decode_face(
    vae: &AutoencoderKL,
    mask: &MouthMask,
    latents: &Tensor,
    frame: usize,
    crop: &Tensor,
) -> candle_core::Result<Tensor> {
    let latents = vae.unscale(&latents.i((0, frame..frame + 1))?)?;
    let decoded = vae.decode(&latents)?.i(0)?.to_device(&Device::Cpu)?;
    keep_unmasked(&decoded, &face_pixels(crop)?, mask)
}

/// decoded × (1 − mask) + original × mask: the mask is 1 where the original is kept.
fn keep_unmasked(decoded: &Tensor, original: &Tensor, mask: &MouthMask) -> candle_core::Result<Tensor> {
    decoded + (original - decoded)?.broadcast_mul(mask.pixels())?
}

/// An overflow within the networks ends as NaN or infinity, which would be pasted as black.
fn check_finite(face: &Tensor, output: usize) -> Result<()> {
    let sum = face.sum_all().and_then(|sum| sum.to_scalar::<f32>()).map_err(compute("decode_latents"))?;
    if sum.is_finite() { Ok(()) } else { Err(Error::FaceNotFinite { frame: output }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bad_number_in_a_face_is_an_error_that_names_the_frame() {
        let face = |value: f32| Tensor::new(&[[0.5, value], [-1.0, 1.0]], &Device::Cpu).unwrap();
        assert!(check_finite(&face(0.0), 7).is_ok());
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let error = check_finite(&face(bad), 7).unwrap_err();
            assert_eq!(error.exit_code(), 5);
            assert!(error.to_string().contains("frame 7"), "{error}");
            assert!(error.hint().unwrap().contains("--dtype f32"));
        }
    }
}
