//! Between stages 6 and 7: composes the generated mouth with the original crop. Separate from decoding,
//! because one generated face may be used in several frames with different crops.

use candle_core::{Result, Tensor};

use super::colour_match::ColourCorrection;
use super::encode_latents::face_pixels;

/// Inputs of [`compose_face`].
#[derive(Debug, Clone, Copy)]
pub struct Compose<'a> {
    /// Output of the VAE, (resolution, resolution, 3), f32 in about [-1, 1].
    pub decoded: &'a Tensor,
    /// Original crop of the frame, (resolution, resolution, 3), u8.
    pub crop: &'a Tensor,
    /// Mouth mask, (resolution, resolution, 1), f32: 1 where the crop is kept.
    pub mask: &'a Tensor,
    pub colour: ColourCorrection,
}

/// decoded × (1 − mask) + crop × mask → (resolution, resolution, 3), f32 in about [-1, 1].
pub fn compose_face(of: &Compose) -> Result<Tensor> {
    let corrected = of.colour.apply(of.decoded)?;
    let original = face_pixels(of.crop)?;
    &corrected + (original - &corrected)?.broadcast_mul(of.mask)?
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn the_crop_is_visible_where_the_mask_is_1() -> Result<()> {
        let decoded = Tensor::full(0.5f32, (1, 3, 3), &Device::Cpu)?;
        let crop = Tensor::full(255u8, (1, 3, 3), &Device::Cpu)?;
        let mask = Tensor::new(&[[[1f32], [0.0], [0.5]]], &Device::Cpu)?;
        let colour = ColourCorrection { gain: [1.0; 3], offset: [0.0, -0.25, 0.0] };
        let composed = |colour| {
            let face = compose_face(&Compose { decoded: &decoded, crop: &crop, mask: &mask, colour })?;
            face.squeeze(0)?.to_vec2::<f32>()
        };
        assert_eq!(composed(ColourCorrection::NONE)?, [[1.0; 3], [0.5; 3], [0.75; 3]]);
        assert_eq!(composed(colour)?, [[1.0; 3], [0.5, 0.25, 0.5], [0.75, 0.625, 0.75]]);
        Ok(())
    }
}
