//! Writes RGB pixels into a decoded YUV picture without changing other samples.

use std::ops::Range;

use candle_core::{Result, bail};
use ffmpeg_next::frame;

use super::colour::{Coding, SampleLevels};
use super::picture::{PlaneMut, components, planes_mut};
use crate::face::patch::Patch;

/// Coefficients of the conversion from RGB (0–255) to samples of a given bit depth.
struct RgbToYuv {
    /// Rows: Y, U, V; columns: R, G, B.
    weights: [[f32; 3]; 3],
    offsets: [f32; 3],
}

impl RgbToYuv {
    /// ITU-T H.273, equations 38 to 46, for samples of `depth` bits.
    fn new(coding: Coding, depth: u32) -> Self {
        let (kr, kb) = coding.matrix.red_blue();
        let kg = 1.0 - kr - kb;
        let SampleLevels { luma, chroma, black, grey } = coding.levels(depth);
        let row = |scale: f32, rgb: [f32; 3]| rgb.map(|weight| weight * scale / 255.0);
        let [u, v] = [2.0 * (1.0 - kb), 2.0 * (1.0 - kr)];
        Self {
            weights: [
                row(luma, [kr, kg, kb]),
                row(chroma, [-kr / u, -kg / u, (1.0 - kb) / u]),
                row(chroma, [(1.0 - kr) / v, -kg / v, -kb / v]),
            ],
            offsets: [black, grey, grey],
        }
    }

    fn component(&self, index: usize, [r, g, b]: [f32; 3]) -> f32 {
        let [wr, wg, wb] = self.weights[index];
        wr * r + wg * g + wb * b + self.offsets[index]
    }
}

/// Pixels and weights of a patch, which lies inside the picture.
struct Pixels {
    x: usize,
    y: usize,
    width: usize,
    height: usize,
    rgb: Vec<u8>,
    weight: Vec<f32>,
}

impl Pixels {
    fn read(patch: &Patch, frame: &frame::Video) -> Result<Self> {
        let (height, width, channels) = patch.rgb.dims3()?;
        let (frame_width, frame_height) = (frame.width() as usize, frame.height() as usize);
        if channels != 3 || patch.weight.dims2()? != (height, width) {
            bail!("patch: pixels {:?}, weights {:?}", patch.rgb.shape(), patch.weight.shape());
        }
        if patch.x + width > frame_width || patch.y + height > frame_height {
            bail!(
                "patch: {width}×{height} at ({}, {}) reaches out of a picture of {frame_width}×{frame_height}",
                patch.x,
                patch.y
            );
        }
        let rgb = patch.rgb.flatten_all()?.to_vec1()?;
        let weight = patch.weight.flatten_all()?.to_vec1()?;
        Ok(Self { x: patch.x, y: patch.y, width, height, rgb, weight })
    }

    /// Sum and number of the pixels with a weight above 0 in a block of the picture.
    #[inline(always)]
    fn sum(&self, xs: &Range<usize>, ys: &Range<usize>) -> ([u32; 3], usize) {
        let clip = |range: &Range<usize>, start: usize, length: usize| {
            range.start.max(start) - start..range.end.min(start + length) - start
        };
        let (mut sum, mut count) = ([0; 3], 0);
        for y in clip(ys, self.y, self.height) {
            for i in clip(xs, self.x, self.width).map(|x| y * self.width + x) {
                if self.weight[i] > 0.0 {
                    count += 1;
                    (0..3).for_each(|c| sum[c] += u32::from(self.rgb[3 * i + c]));
                }
            }
        }
        (sum, count)
    }
}

/// Writes the pixels of `patch` with a weight above 0 into a writable YUV picture.
///
/// A chroma sample covers a block of pixels (2×2 in 4:2:0). It changes if one of them does: the new sample is
/// the mean over the block, in which changed pixels have their new colour and the others the old sample.
pub(super) fn paste(frame: &mut frame::Video, coding: Coding, patch: &Patch) -> Result<()> {
    let pixels = Pixels::read(patch, frame)?;
    if pixels.width == 0 || pixels.height == 0 {
        return Ok(());
    }
    let (frame_width, frame_height) = (frame.width() as usize, frame.height() as usize);
    let Some(samples) = components(frame.format()) else {
        bail!("pixel format {:?} cannot be written to", frame.format());
    };
    let convert = RgbToYuv::new(coding, samples[0].depth);
    let mut planes: Vec<PlaneMut> = planes_mut(frame).collect();
    for (index, sample) in samples.into_iter().enumerate() {
        let plane = &mut planes[sample.plane];
        let (block_w, block_h) = (1 << sample.log2_width, 1 << sample.log2_height);
        for sy in pixels.y / block_h..=(pixels.y + pixels.height - 1) / block_h {
            let ys = sy * block_h..((sy + 1) * block_h).min(frame_height);
            let row = plane.row_mut(sy);
            for sx in pixels.x / block_w..=(pixels.x + pixels.width - 1) / block_w {
                let xs = sx * block_w..((sx + 1) * block_w).min(frame_width);
                let (sum, changed) = pixels.sum(&xs, &ys);
                if changed > 0 {
                    // The conversion is linear, so it can be applied to the mean.
                    let mean = sum.map(|sum| sum as f32 / changed as f32);
                    let covered = (ys.len() * xs.len()) as f32;
                    let share = changed as f32 / covered;
                    let kept = if share < 1.0 { (1.0 - share) * sample.read(row, sx) } else { 0.0 };
                    sample.write(row, sx, share * convert.component(index, mean) + kept);
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::colour::Matrix;

    /// Corners of the RGB cube, from the tables of BT.709 and BT.601.
    #[test]
    fn primaries_get_their_published_codes() {
        let codes = |matrix, full_range, depth, rgb| {
            let convert = RgbToYuv::new(Coding { matrix, full_range }, depth);
            [0, 1, 2].map(|i| convert.component(i, rgb).round() as i32)
        };
        let (red, white) = ([255.0, 0.0, 0.0], [255.0; 3]);
        assert_eq!(codes(Matrix::Bt709, false, 8, red), [63, 102, 240]);
        assert_eq!(codes(Matrix::Bt601, false, 8, red), [81, 90, 240]);
        assert_eq!(codes(Matrix::Bt601, true, 8, white), [255, 128, 128]);
        assert_eq!(codes(Matrix::Bt709, false, 10, white), [940, 512, 512]);
        assert_eq!(codes(Matrix::Bt2020, false, 10, [0.0; 3]), [64, 512, 512]);
    }
}
