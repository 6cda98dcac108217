//! Stage 7: blends a generated face into its frame with a soft edge. Only the rectangle that can change is
//! computed; the result equals that of the same operations on the whole frame.

use candle_core::{Result, Tensor, bail};
use kernels::blend::{Blend, blend};
use kernels::erode::erode;
use kernels::gaussian_blur::gaussian_blur;
use kernels::pixels::Rect;
use kernels::resize::resize_bicubic;
use kernels::warp_affine::{Affine, warp_affine, warp_coverage};

use crate::face::patch::Patch;

use super::align_faces::{OUTSIDE, crop_rect};
use crate::options::Feather;

/// Erosion that removes border pixels which the warp has mixed with [`OUTSIDE`].
const BORDER: usize = 2;

/// Erosion of faces that are too small for a soft edge, as in the original: OpenCV replaces an empty kernel
/// by its default.
const MIN_EROSION: usize = 3;

/// Margin of zeros around the support of the mask, in pixels. With 2, [`erode`] and [`gaussian_blur`] have
/// the same result in the region as on the whole frame: the eroded mask ends at least the width of its edge
/// before the margin, so a blur that is mirrored at the border of the region still reads zeros there.
const MARGIN: f64 = 2.0;

/// Blending parameters. The default is that of the original.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Blending {
    /// Soft edge of the face's square.
    pub feather: Feather,
    /// Opacity of the face, 0 to 1. 0 changes no pixel.
    pub strength: f32,
}

impl Default for Blending {
    fn default() -> Self {
        Self { feather: Feather::ORIGINAL, strength: 1.0 }
    }
}

/// Warps `face`, (resolution, resolution, 3) f32 in −1..=1, with the inverse of `matrix` (frame → crop) and
/// blends it into `frame`, (height, width, 3) u8.
pub fn blend_face(frame: &Tensor, face: &Tensor, matrix: &Affine, blending: Blending) -> Result<Patch> {
    let Blending { feather, strength } = blending;
    if !(0.0..=1.0).contains(&strength) {
        bail!("blend_face: strength {strength} is not within 0 and 1");
    }
    if strength == 0.0 {
        return unchanged(frame);
    }
    let crop = crop_rect(face.dim(0)?);
    let face = resize_bicubic(face, crop.height, crop.width)?;
    let to_frame = matrix.invert()?;
    let region = region(frame, crop, &to_frame, feather)?;
    if region.width * region.height == 0 {
        return unchanged(frame);
    }

    let face_mask = erode(&warp_coverage(&face, &to_frame, region)?, BORDER)?;
    let weight = soft_edge(&face_mask, feather)?;
    let weight = if strength == 1.0 { weight } else { (weight * f64::from(strength))? };
    let Some(changed) = support(&weight)? else {
        return unchanged(frame);
    };
    let place = Rect { x: region.x + changed.x, y: region.y + changed.y, ..changed };
    let weight = changed.of(&weight)?.contiguous()?;
    let rgb = blend(Blend {
        frame: &place.of(frame)?,
        face: &warp_affine(&face, &to_frame, place, OUTSIDE)?,
        face_mask: &changed.of(&face_mask)?,
        weight: &weight,
    })?;
    Ok(Patch { x: place.x, y: place.y, rgb, weight })
}

/// Soft mask: the face mask, eroded and blurred by about `feather` of its side.
fn soft_edge(face_mask: &Tensor, feather: Feather) -> Result<Tensor> {
    let area = face_mask.sum_all()?.to_scalar::<f32>()?;
    let edge = feather.pixels(area.sqrt() as usize);
    let square = if edge == 0 { MIN_EROSION } else { 2 * edge };
    // OpenCV's default sigma for this kernel size.
    let sigma = 0.3 * (edge as f64 - 1.0) + 0.8;
    gaussian_blur(&erode(face_mask, square)?, 2 * edge + 1, sigma)
}

/// Bounding box of the warped crop plus [`MARGIN`], clamped to the frame.
fn region(frame: &Tensor, crop: Rect, to_frame: &Affine, feather: Feather) -> Result<Rect> {
    let (height, width, _) = frame.dims3()?;
    // Bilinear sampling extends the crop by less than one pixel.
    let corners = [
        [-1.0, -1.0],
        [crop.width as f64, -1.0],
        [-1.0, crop.height as f64],
        [crop.width as f64, crop.height as f64],
    ]
    .map(|corner| to_frame.apply(corner));
    let span = |axis: usize, size: usize| {
        let ends = corners.map(|corner| corner[axis]);
        let first = ends.iter().copied().fold(f64::INFINITY, f64::min).floor() - MARGIN;
        let last = ends.iter().copied().fold(f64::NEG_INFINITY, f64::max).ceil() + MARGIN;
        let first = first.clamp(0.0, size as f64) as usize;
        (first, (last + 1.0).clamp(0.0, size as f64) as usize)
    };
    let (x, y) = (span(0, width), span(1, height));
    // At the border of the frame the blur mirrors; the pixels that it reads must be in the region.
    let reach = feather.pixels((((x.1 - x.0) * (y.1 - y.0)) as f64).sqrt() as usize) + 1;
    let widened = |(first, end): (usize, usize), size: usize| {
        if end > first && end - first < reach {
            (first.saturating_sub(reach), (end + reach).min(size))
        } else {
            (first, end)
        }
    };
    let (x, y) = (widened(x, width), widened(y, height));
    Ok(Rect { x: x.0, y: y.0, width: x.1 - x.0, height: y.1 - y.0 })
}

/// Bounding box of the non-zero weights; `None` if all are 0.
fn support(weight: &Tensor) -> Result<Option<Rect>> {
    let (_, width) = weight.dims2()?;
    let values = weight.flatten_all()?.to_vec1::<f32>()?;
    let mut bounds: Option<[usize; 4]> = None;
    for (y, row) in values.chunks_exact(width).enumerate() {
        let Some(first) = row.iter().position(|&w| w != 0.0) else {
            continue;
        };
        let last = row.iter().rposition(|&w| w != 0.0).unwrap_or(first);
        let [left, top, right, _] = bounds.unwrap_or([first, y, last, y]);
        bounds = Some([left.min(first), top, right.max(last), y]);
    }
    Ok(bounds.map(|[left, top, right, bottom]| Rect {
        x: left,
        y: top,
        width: right + 1 - left,
        height: bottom + 1 - top,
    }))
}

/// An empty patch: the face is outside the frame, smaller than its edge, or has strength 0.
fn unchanged(frame: &Tensor) -> Result<Patch> {
    let device = frame.device();
    Ok(Patch {
        x: 0,
        y: 0,
        rgb: Tensor::from_vec(Vec::<u8>::new(), (0, 0, 3), device)?,
        weight: Tensor::from_vec(Vec::<f32>::new(), (0, 0), device)?,
    })
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};
    use kernels::blend::blend_reference;
    use kernels::erode::erode_reference;
    use kernels::gaussian_blur::gaussian_blur_reference;
    use kernels::resize::resize_bicubic_reference;
    use kernels::warp_affine::{warp_affine_reference, warp_coverage_reference};
    use models::face::Anchors;

    use super::super::align_faces::FaceAligner;
    use super::*;

    /// Smooth waves, which resampling changes little.
    fn frame(height: usize, width: usize) -> Result<Tensor> {
        let value = |i: usize| {
            let (x, y, c) = ((i / 3 % width) as f32, (i / 3 / width) as f32, (i % 3) as f32);
            (127.0 + 60.0 * (x / 17.0 + c).sin() + 60.0 * (y / 23.0 - c).cos()) as u8
        };
        let pixels = (0..height * width * 3).map(value).collect();
        Tensor::from_vec(pixels, (height, width, 3), &Device::Cpu)
    }

    /// A slightly rotated face with `size` pixels between the eyebrows and its nose at (x, y).
    fn anchors(size: f32, x: f32, y: f32) -> Anchors {
        Anchors {
            left_brow: [x - 0.5 * size, y - 0.55 * size],
            right_brow: [x + 0.5 * size, y - 0.4 * size],
            nose: [x, y],
        }
    }

    fn as_face(crop: &Tensor) -> Result<Tensor> {
        (crop.to_dtype(DType::F32)? / 127.5)? - 1.0
    }

    fn differences(a: &Tensor, b: &Tensor) -> Result<Tensor> {
        (a.to_dtype(DType::F32)? - b.to_dtype(DType::F32)?)?.abs()
    }

    fn largest(x: &Tensor) -> Result<f32> {
        x.max_all()?.to_scalar()
    }

    /// Reference: weights and pixels of the whole frame, with the original's steps.
    fn blend_whole_frame(
        frame: &Tensor,
        face: &Tensor,
        matrix: &Affine,
        per_side: usize,
    ) -> Result<(Tensor, Tensor)> {
        let (height, width, _) = frame.dims3()?;
        let whole = Rect { x: 0, y: 0, width, height };
        let crop = crop_rect(face.dim(0)?);
        let face = resize_bicubic_reference(face, crop.height, crop.width)?;
        let to_frame = matrix.invert()?;
        let face_mask = erode_reference(&warp_coverage_reference(&face, &to_frame, whole)?, 2)?;
        let area = face_mask.sum_all()?.to_scalar::<f32>()?;
        let edge = (area.sqrt() as usize).checked_div(per_side).unwrap_or(0);
        let center = erode_reference(&face_mask, if edge == 0 { 3 } else { 2 * edge })?;
        let sigma = 0.3 * ((2 * edge) as f64 * 0.5 - 1.0) + 0.8;
        let weight = gaussian_blur_reference(&center, 2 * edge + 1, sigma)?;
        let rgb = blend_reference(Blend {
            frame,
            face: &warp_affine_reference(&face, &to_frame, whole, 127.0)?,
            face_mask: &face_mask,
            weight: &weight,
        })?;
        Ok((weight, rgb))
    }

    #[test]
    fn the_patch_equals_the_result_on_the_whole_frame() -> Result<()> {
        let frame = frame(150, 190)?;
        let face = as_face(&frame.narrow(0, 0, 128)?.narrow(1, 30, 128)?)?;
        // In the middle, across each edge and corner, larger than the frame, too small for an edge, a sliver.
        for (size, x, y) in [
            (40.0, 95.0, 75.0),
            (40.0, 5.0, 75.0),
            (40.0, 188.0, 80.0),
            (40.0, 95.0, -10.0),
            (40.0, 95.0, 160.0),
            (60.0, 0.0, 0.0),
            (60.0, 190.0, 150.0),
            (300.0, 95.0, 75.0),
            (6.0, 95.0, 75.0),
            (100.0, -75.0, 75.0),
            (100.0, 270.0, 75.0),
        ] {
            let matrix = FaceAligner::new(128).align(&frame, &anchors(size, x, y))?.matrix;
            // The original's feather, none, and the maximum.
            for (per_side, feather) in [(20, 0.05), (0, 0.0), (4, 0.25)] {
                let blending =
                    Blending { feather: Feather::new("feather", feather).unwrap(), ..Blending::default() };
                let (weight, rgb) = blend_whole_frame(&frame, &face, &matrix, per_side)?;
                let patch = blend_face(&frame, &face, &matrix, blending)?;
                let (h, w) = patch.weight.dims2()?;
                assert!(h * w > 0, "size {size} at ({x}, {y}) is not in the frame");
                let placed = patch.weight.pad_with_zeros(0, patch.y, 150 - patch.y - h)?.pad_with_zeros(
                    1,
                    patch.x,
                    190 - patch.x - w,
                )?;
                assert!(largest(&differences(&placed, &weight)?)? < 1e-5, "size {size} at ({x}, {y})");
                // Truncation may differ where the sum is near an integer.
                let off = differences(&patch.applied_to(&frame)?, &rgb)?;
                assert!(
                    largest(&off)? <= 1.0 && off.mean_all()?.to_scalar::<f32>()? < 1e-3,
                    "size {size} at ({x}, {y})"
                );
            }
        }
        Ok(())
    }

    #[test]
    fn blending_the_original_face_reproduces_the_frame() -> Result<()> {
        let frame = frame(240, 200)?;
        for resolution in [128, 256] {
            let face = FaceAligner::new(resolution).align(&frame, &anchors(55.0, 100.0, 120.0))?;
            let patch = blend_face(&frame, &as_face(&face.crop)?, &face.matrix, Blending::default())?;
            assert!(largest(&patch.weight)? > 0.999, "nothing was pasted");
            let (h, w) = patch.weight.dims2()?;
            let place = Rect { x: patch.x, y: patch.y, width: w, height: h };
            let off = differences(&patch.rgb, &place.of(&frame)?)?;
            // At the faded right and bottom edges, as in the original, less than 1/40 of the white outside
            // the crop is mixed in.
            let inside = patch.weight.ge(0.05)?.to_dtype(DType::F32)?.unsqueeze(2)?;
            let inside = largest(&off.broadcast_mul(&inside)?)?;
            assert!(inside <= 2.0, "{inside} levels inside at {resolution}");
            let anywhere = largest(&off)?;
            assert!(anywhere <= 6.0, "{anywhere} levels at {resolution}");
        }
        Ok(())
    }

    #[test]
    fn pixels_without_weight_are_untouched_and_the_patch_is_tight() -> Result<()> {
        let frame = frame(240, 200)?;
        let face = FaceAligner::new(128).align(&frame, &anchors(40.0, 60.0, 120.0))?;
        let black = Tensor::full(-1f32, (128, 128, 3), &Device::Cpu)?;
        let patch = blend_face(&frame, &black, &face.matrix, Blending::default())?;
        let weights = patch.weight.to_vec2::<f32>()?;
        let (before, after) = (frame.to_vec3::<u8>()?, patch.applied_to(&frame)?.to_vec3::<u8>()?);
        let mut changed = 0;
        for (y, (before, after)) in before.iter().zip(&after).enumerate() {
            for (x, (before, after)) in before.iter().zip(after).enumerate() {
                let weight = y
                    .checked_sub(patch.y)
                    .zip(x.checked_sub(patch.x))
                    .and_then(|(y, x)| weights.get(y)?.get(x));
                if weight.is_none_or(|&w| w == 0.0) {
                    assert_eq!(before, after, "({x}, {y})");
                } else {
                    changed += usize::from(before != after);
                }
            }
        }
        assert!(changed > 1000, "{changed} pixels changed");
        let column = |x: usize| weights.iter().any(|row| row[x] != 0.0);
        assert!(column(0) && column(weights[0].len() - 1));
        assert!(
            [&weights[0], &weights[weights.len() - 1]].map(|row| row.iter().any(|&w| w != 0.0)) == [true; 2]
        );
        Ok(())
    }

    #[test]
    fn a_face_outside_the_frame_changes_nothing() -> Result<()> {
        let frame = frame(60, 50)?;
        let face = FaceAligner::new(128).align(&frame, &anchors(40.0, 900.0, 20.0))?;
        let patch = blend_face(&frame, &as_face(&face.crop)?, &face.matrix, Blending::default())?;
        assert_eq!(patch.weight.elem_count(), 0);
        assert_eq!(largest(&differences(&patch.applied_to(&frame)?, &frame)?)?, 0.0);
        Ok(())
    }

    #[test]
    fn strength_fades_from_the_frame_to_the_face() -> Result<()> {
        let frame = frame(240, 200)?;
        let face = FaceAligner::new(128).align(&frame, &anchors(40.0, 60.0, 120.0))?;
        let black = Tensor::full(-1f32, (128, 128, 3), &Device::Cpu)?;
        let faded = |strength| {
            let blending = Blending { strength, ..Blending::default() };
            blend_face(&frame, &black, &face.matrix, blending)
        };
        assert_eq!(faded(0.0)?.weight.elem_count(), 0);
        assert_eq!(largest(&differences(&faded(0.0)?.applied_to(&frame)?, &frame)?)?, 0.0);
        let half = faded(0.5)?.applied_to(&frame)?.to_dtype(DType::F32)?;
        let full = faded(1.0)?.applied_to(&frame)?.to_dtype(DType::F32)?;
        // Halfway between the frame and the face, but for the truncation of both.
        let between = ((full + frame.to_dtype(DType::F32)?)? / 2.0)?;
        assert!(largest(&differences(&half, &between)?)? <= 1.0);
        for bad in [-0.1, 1.1, f32::NAN] {
            assert!(faded(bad).is_err(), "{bad}");
        }
        Ok(())
    }
}
