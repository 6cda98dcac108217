//! The last step of pasting: a warped face over its frame.

use candle_core::{DType, Device, Result, Tensor, bail};
use rayon::prelude::*;

use crate::cuda;
use crate::pixels::with_slice;
use crate::profile::{self, Kind, Work};

/// What [`blend`] mixes; all of the same height and width.
#[derive(Debug, Clone, Copy)]
pub struct Blend<'a> {
    /// (height, width, 3), u8.
    pub frame: &'a Tensor,
    /// (height, width, 3), f32; −1 is black, 1 is white, anything beyond is clamped.
    pub face: &'a Tensor,
    /// (height, width), f32 in 0..=1: multiplies the face, which has no pixels where it is 0.
    pub face_mask: &'a Tensor,
    /// (height, width), f32 in 0..=1: the share of the masked face; 0 leaves the frame's pixel as it is.
    pub weight: &'a Tensor,
}

/// weight × face_mask × face + (1 − weight) × frame, truncated → (height, width, 3), u8.
pub fn blend(of: Blend) -> Result<Tensor> {
    let (height, width, channels) = of.frame.dims3()?;
    let plane = [height, width];
    if of.face.dims() != of.frame.dims() || of.face_mask.dims() != plane || of.weight.dims() != plane {
        bail!(
            "blend: frame {:?}, face {:?}, mask {:?}, weight {:?}",
            of.frame.shape(),
            of.face.shape(),
            of.face_mask.shape(),
            of.weight.shape()
        );
    }
    let all_f32 = [of.face, of.face_mask, of.weight].iter().all(|x| x.dtype() == DType::F32);
    let _timer = profile::timer(of.frame, || work(of));
    match (of.frame.device(), of.frame.dtype(), channels) {
        (_, DType::U8, 3) if all_f32 && cuda::is_on(of.frame) && height * width > 0 => {
            cuda::blend(of.frame, of.face, of.face_mask, of.weight)
        }
        (Device::Cpu, DType::U8, 3) if all_f32 => blend_cpu(of),
        _ => blend_reference(of),
    }
}

fn work(of: Blend) -> Work {
    let read = [of.face, of.face_mask, of.weight].map(profile::bytes).iter().sum::<f64>();
    Work::moving_bytes(Kind::Blend, of.frame, 2. * profile::bytes(of.frame) + read)
}

fn blend_cpu(of: Blend) -> Result<Tensor> {
    let width = of.frame.dim(1)?.max(1);
    let mut out = vec![0u8; of.frame.elem_count()];
    with_slice::<u8, _>(of.frame, |frame| {
        with_slice::<f32, _>(of.face, |face| {
            with_slice::<f32, _>(of.face_mask, |mask| {
                with_slice::<f32, _>(of.weight, |weight| {
                    out.par_chunks_mut(3 * width)
                        .zip(frame.par_chunks(3 * width).zip(face.par_chunks(3 * width)))
                        .zip(mask.par_chunks(width).zip(weight.par_chunks(width)))
                        .for_each(|((out, (frame, face)), (mask, weight))| {
                            blend_row(out, frame, face, mask, weight);
                        });
                    Ok(())
                })
            })
        })
    })?;
    Tensor::from_vec(out, of.frame.dims(), of.frame.device())
}

fn blend_row(out: &mut [u8], frame: &[u8], face: &[f32], mask: &[f32], weight: &[f32]) {
    let pixels = out.as_chunks_mut::<3>().0.iter_mut();
    let pixels = pixels.zip(frame.as_chunks::<3>().0.iter().zip(face.as_chunks::<3>().0));
    for ((out, (frame, face)), (&mask, &weight)) in pixels.zip(mask.iter().zip(weight)) {
        if weight == 0.0 {
            *out = *frame;
            continue;
        }
        for ((out, &frame), &face) in out.iter_mut().zip(frame).zip(face) {
            let face = mask * ((face / 2.0 + 0.5).clamp(0.0, 1.0) * 255.0);
            *out = (weight * face + (1.0 - weight) * f32::from(frame)) as u8;
        }
    }
}

/// The definition, in plain candle operations.
pub fn blend_reference(of: Blend) -> Result<Tensor> {
    let (mask, weight) = (of.face_mask.unsqueeze(2)?, of.weight.unsqueeze(2)?);
    let face = (((of.face / 2.0)? + 0.5)?.clamp(0f32, 1f32)? * 255.0)?;
    let face = face.broadcast_mul(&mask)?.broadcast_mul(&weight)?;
    let frame = of.frame.to_dtype(DType::F32)?;
    let frame = frame.broadcast_mul(&weight.affine(-1.0, 1.0)?)?;
    (face + frame)?.floor()?.to_dtype(DType::U8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pixels::testing::{max_difference, random};

    #[test]
    fn fast_equals_the_reference() -> Result<()> {
        let (h, w) = (7, 9);
        let frame = (random((h, w, 3))? * 255.0)?.to_dtype(DType::U8)?;
        let face = random((h, w, 3))?.affine(-3.0, 1.5)?;
        let face_mask = random((h, w))?.affine(-1.0, 1.0)?;
        let of = Blend { frame: &frame, face: &face, face_mask: &face_mask, weight: &random((h, w))? };
        let (fast, slow) = (blend(of)?, blend_reference(of)?);
        // Sums that meet a whole number may be truncated to either side.
        assert!(max_difference(&fast, &slow)? <= 1.0);
        assert!(
            (fast.to_dtype(DType::F32)? - slow.to_dtype(DType::F32)?)?
                .abs()?
                .sum_all()?
                .to_scalar::<f32>()?
                <= 2.0
        );
        Ok(())
    }

    #[test]
    fn no_weight_leaves_the_frame_and_full_weight_shows_the_face() -> Result<()> {
        let frame = (random((4, 5, 3))? * 255.0)?.to_dtype(DType::U8)?;
        let (zeros, ones) = (Tensor::zeros((4, 5), DType::F32, &Device::Cpu)?, random((4, 5))?.ones_like()?);
        let of = Blend {
            frame: &frame,
            face: &Tensor::full(7f32, (4, 5, 3), &Device::Cpu)?,
            face_mask: &ones,
            weight: &zeros,
        };
        assert_eq!(max_difference(&blend(of)?, &frame)?, 0.0);
        let white = blend(Blend { weight: &ones, ..of })?;
        assert_eq!(white.flatten_all()?.to_vec1::<u8>()?, vec![255; 60]);
        assert!(blend(Blend { weight: &frame, ..of }).is_err());
        Ok(())
    }
}
