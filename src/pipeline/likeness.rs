//! Whether the demo model knows such faces: it draws the whole face anew, also the part that it is shown and only has to
//! repeat. That works as far as its autoencoder has learned what faces look like.

use candle_core::{Result, Tensor};
use models::mouth_mask::MouthMask;

/// To be measured on the finished model: drawn people that it has never seen lie above, photographed ones below.
const LEAST_PSNR: f64 = 23.0;

/// For people.
pub(super) const WARNING: &str = "the demo model knows drawn faces only, and this one does not look drawn to it: expect a \
    painted mouth; `latentsync models pull latentsync-1.6` fetches a model for photographed faces";

/// `decoded`: what the model drew, (height, width, 3), f32 in [-1, 1]; `crop`: what it was shown, the same as u8.
pub(super) fn looks_drawn(decoded: &Tensor, crop: &Tensor, mask: &MouthMask) -> Result<bool> {
    let repeated = kept_psnr(decoded, crop, mask)?;
    tracing::debug!("the demo model repeats what it is shown of this face at {repeated:.1} dB");
    Ok(repeated >= LEAST_PSNR)
}

/// PSNR in dB over the part outside of the mouth mask.
fn kept_psnr(decoded: &Tensor, crop: &Tensor, mask: &MouthMask) -> Result<f64> {
    // Not the grey edge, where both show.
    let kept = &mask.pixels().ge(1f32)?.to_dtype(decoded.dtype())?;
    let shown = (crop.to_dtype(decoded.dtype())? / 127.5)?.affine(1.0, -1.0)?;
    let squares = (decoded.clamp(-1f32, 1f32)? - shown)?.sqr()?.broadcast_mul(kept)?.sum_all()?;
    let weight = 3.0 * f64::from(kept.sum_all()?.to_scalar::<f32>()?);
    // A whole range of 2.
    Ok(10.0 * (4.0 * weight / f64::from(squares.to_scalar::<f32>()?).max(f64::MIN_POSITIVE)).log10())
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn only_the_part_that_is_shown_counts() -> Result<()> {
        let mask = MouthMask::new(128)?;
        let crop = Tensor::full(204u8, (128, 128, 3), &Device::Cpu)?;
        let shown = Tensor::full(0.6f32, (128, 128, 3), &Device::Cpu)?;
        // Another mouth on the same face.
        let mouth = mask.pixels().affine(-0.9, 0.9)?;
        assert!(kept_psnr(&shown.broadcast_sub(&mouth)?, &crop, &mask)? > 40.0);
        assert!(looks_drawn(&shown, &crop, &mask)?);
        // A tenth of the range everywhere: 20 dB.
        let off = kept_psnr(&(shown - 0.2)?, &crop, &mask)?;
        assert!((19.9..20.1).contains(&off), "{off}");
        Ok(())
    }
}
