//! Colour correction of generated faces. The networks generate the whole face, so their colour error can be
//! measured in a ring outside the mouth mask, where the original is known, and removed from the mouth.
//!
//! The correction works in display values rather than linear light: the VAE was trained on them, and the
//! visibility of a seam depends on them. Errors that occur only inside the mask are not detected.

use candle_core::{DType, Result, Tensor, bail};
use kernels::erode::erode;
use models::mouth_mask::MouthMask;

/// Side of the face divided by the width of the ring.
const RING_PER_SIDE: usize = 16;

/// Blocks along the side of the face. Means over blocks are compared, because the VAE does not preserve the
/// finest detail.
const BLOCKS_PER_SIDE: usize = 32;

/// Minimum number of blocks for an estimate. Fewer are left if the face is mostly outside the frame.
const MIN_BLOCKS: usize = 16;

/// Frames of the chunk before and after each frame that are averaged to avoid flicker.
const SMOOTHING_RADIUS: usize = 4;

/// Maximum correction of the mean, in levels of 255. Larger differences are not colour errors.
const MAX_SHIFT: f64 = 12.0;
const GAINS: std::ops::RangeInclusive<f64> = 0.85..=1.15;

/// Regularisation added to both variances, (4 levels)²: uniform skin does not determine the gain.
const VARIANCE_FLOOR: f64 = 16.0;

/// Grey level of crop pixels outside the frame.
const OUTSIDE: u8 = super::align_faces::OUTSIDE as u8;

/// Per-channel linear correction, gain × value + offset, of RGB in [-1, 1].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ColourCorrection {
    pub gain: [f32; 3],
    pub offset: [f32; 3],
}

impl ColourCorrection {
    pub const NONE: Self = Self { gain: [1.0; 3], offset: [0.0; 3] };

    /// `face`: (height, width, 3), f32 → same shape. [`Self::NONE`] returns bit-identical values.
    pub fn apply(&self, face: &Tensor) -> Result<Tensor> {
        if *self == Self::NONE {
            return Ok(face.clone());
        }
        let of = |values: &[f32; 3]| Tensor::new(values, face.device());
        face.broadcast_mul(&of(&self.gain)?)?.broadcast_add(&of(&self.offset)?)
    }
}

/// Estimator of colour corrections from the ring around the mouth mask.
#[derive(Debug, Clone)]
pub struct ColourMatcher {
    resolution: usize,
    /// Pixel indices of each block, y × resolution + x.
    blocks: Vec<Vec<usize>>,
}

impl ColourMatcher {
    pub fn new(mask: &MouthMask) -> Result<Self> {
        let kept = mask.pixels().squeeze(2)?.ge(1f32)?.to_dtype(DType::F32)?;
        let resolution = kept.dim(0)?;
        let far = erode(&kept, 2 * (resolution / RING_PER_SIDE) + 1)?;
        let ring = (kept - far)?.flatten_all()?.to_vec1::<f32>()?;
        let side = (resolution / BLOCKS_PER_SIDE).max(1);
        let across = resolution.div_ceil(side);
        let mut blocks = vec![Vec::new(); across * across];
        for (pixel, _) in ring.iter().enumerate().filter(|&(_, &share)| share > 0.0) {
            blocks[pixel / resolution / side * across + pixel % resolution / side].push(pixel);
        }
        // Blocks with few pixels have unreliable means.
        blocks.retain(|block| 2 * block.len() >= side * side);
        Ok(Self { resolution, blocks })
    }

    /// One correction per frame of a chunk, from the frame and its neighbours in the same chunk only, so that
    /// a chunk can be recomputed independently.
    ///
    /// `faces`: for each frame the output of the VAE, (resolution, resolution, 3) f32 in about [-1, 1], and
    /// the crop, of the same shape in u8.
    pub fn corrections(&self, faces: &[(&Tensor, &Tensor)]) -> Result<Vec<ColourCorrection>> {
        let frames = faces.iter().map(|&(decoded, crop)| self.sums(decoded, crop));
        let frames = frames.collect::<Result<Vec<_>>>()?;
        Ok((0..frames.len())
            .map(|frame| {
                let near =
                    frame.saturating_sub(SMOOTHING_RADIUS)..(frame + SMOOTHING_RADIUS + 1).min(frames.len());
                let mut total = Sums::default();
                frames[near].iter().for_each(|sums| total.add(sums));
                total.correction()
            })
            .collect())
    }

    fn sums(&self, decoded: &Tensor, crop: &Tensor) -> Result<Sums> {
        let shape = [self.resolution, self.resolution, 3];
        if decoded.dims() != shape || crop.dims() != shape {
            bail!(
                "colour match: image {:?} and crop {:?}, expected {shape:?}",
                decoded.shape(),
                crop.shape()
            );
        }
        let mut sums = Sums::default();
        let (decoded, crop) =
            (decoded.flatten_all()?.to_vec1::<f32>()?, crop.flatten_all()?.to_vec1::<u8>()?);
        let (decoded, crop) = (decoded.as_chunks::<3>().0, crop.as_chunks::<3>().0);
        for block in &self.blocks {
            sums.add_block(block, decoded, crop);
        }
        Ok(sums)
    }
}

/// Sums and sums of squares of the block means, in levels, per channel.
#[derive(Debug, Clone, Default)]
struct Sums {
    blocks: usize,
    generated: [[f64; 2]; 3],
    original: [[f64; 2]; 3],
}

impl Sums {
    fn add_block(&mut self, block: &[usize], decoded: &[[f32; 3]], crop: &[[u8; 3]]) {
        // Blocks outside the frame are ignored.
        if block.iter().any(|&pixel| crop[pixel] == [OUTSIDE; 3]) {
            return;
        }
        let pixels = block.len() as f64;
        let level = |value: f32| ((f64::from(value) + 1.0) * 127.5).clamp(0.0, 255.0);
        self.blocks += 1;
        for channel in 0..3 {
            let generated = block.iter().map(|&p| level(decoded[p][channel])).sum::<f64>() / pixels;
            let original = block.iter().map(|&p| f64::from(crop[p][channel])).sum::<f64>() / pixels;
            add(&mut self.generated[channel], [generated, generated * generated]);
            add(&mut self.original[channel], [original, original * original]);
        }
    }

    fn add(&mut self, other: &Self) {
        self.blocks += other.blocks;
        for channel in 0..3 {
            add(&mut self.generated[channel], other.generated[channel]);
            add(&mut self.original[channel], other.original[channel]);
        }
    }

    /// Correction that transforms mean and standard deviation of the generated blocks to those of the
    /// original ones. The gain is the ratio of standard deviations rather than a regression slope, which is
    /// too small if the pictures differ in more than their colours.
    fn correction(&self) -> ColourCorrection {
        let mut correction = ColourCorrection::NONE;
        if self.blocks < MIN_BLOCKS {
            return correction;
        }
        let mean_and_variance = |[sum, squares]: [f64; 2]| {
            let mean = sum / self.blocks as f64;
            (mean, (squares / self.blocks as f64 - mean * mean).max(0.0))
        };
        for channel in 0..3 {
            let (mean, variance) = mean_and_variance(self.generated[channel]);
            let (target, target_variance) = mean_and_variance(self.original[channel]);
            let gain = ((target_variance + VARIANCE_FLOOR) / (variance + VARIANCE_FLOOR))
                .sqrt()
                .clamp(*GAINS.start(), *GAINS.end());
            let shift = (target - mean).clamp(-MAX_SHIFT, MAX_SHIFT);
            // gain × (level − mean) + mean + shift, in values of [-1, 1].
            correction.gain[channel] = gain as f32;
            correction.offset[channel] = ((mean * (1.0 - gain) + shift) / 127.5 + gain - 1.0) as f32;
        }
        correction
    }
}

fn add(sums: &mut [f64; 2], values: [f64; 2]) {
    sums[0] += values[0];
    sums[1] += values[1];
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::super::encode_latents::face_pixels;
    use super::*;

    /// Smooth waves of different brightness.
    fn crop(resolution: usize) -> Result<Tensor> {
        let value = |i: usize| {
            let (x, y, c) = ((i / 3 % resolution) as f32, (i / 3 / resolution) as f32, (i % 3) as f32);
            (128.0 + 40.0 * (x / 17.0 + c).sin() + 40.0 * (y / 23.0 - c).cos()) as u8
        };
        Tensor::from_vec(
            (0..resolution * resolution * 3).map(value).collect(),
            (resolution, resolution, 3),
            &Device::Cpu,
        )
    }

    fn largest_error(a: &Tensor, b: &Tensor) -> Result<f32> {
        ((a - b)?.abs()? * 127.5)?.max_all()?.to_scalar()
    }

    #[test]
    fn the_original_is_unchanged_and_a_colour_cast_is_removed() -> Result<()> {
        for resolution in [128, 256] {
            let matcher = ColourMatcher::new(&MouthMask::new(resolution)?)?;
            let crop = crop(resolution)?;
            let truth = face_pixels(&crop)?;
            let alone = matcher.corrections(&[(&truth, &crop)])?[0];
            assert!(largest_error(&alone.apply(&truth)?, &truth)? < 0.01, "{alone:?}");

            let cast = Tensor::new(&[8f32 / 127.5, 0.0, -4.0 / 127.5], &Device::Cpu)?;
            let cast = (&truth * 0.93)?.broadcast_add(&cast)?;
            let found = matcher.corrections(&[(&cast, &crop)])?[0];
            // The regularisation leaves a small error.
            let left = largest_error(&found.apply(&cast)?, &truth)?;
            assert!(left < 1.0, "{left} levels of {}", largest_error(&cast, &truth)?);
        }
        Ok(())
    }

    #[test]
    fn large_differences_are_clamped() -> Result<()> {
        let matcher = ColourMatcher::new(&MouthMask::new(128)?)?;
        let crop = crop(128)?;
        let white = Tensor::ones((128, 128, 3), DType::F32, &Device::Cpu)?;
        let found = matcher.corrections(&[(&white, &crop)])?[0];
        assert_eq!(found.gain, [1.15; 3]);
        assert!(largest_error(&found.apply(&white)?, &white)? <= 12.01);
        Ok(())
    }

    #[test]
    fn crops_outside_the_frame_are_ignored_and_other_shapes_refused() -> Result<()> {
        let matcher = ColourMatcher::new(&MouthMask::new(128)?)?;
        let white = Tensor::ones((128, 128, 3), DType::F32, &Device::Cpu)?;
        let grey = Tensor::full(OUTSIDE, (128, 128, 3), &Device::Cpu)?;
        assert_eq!(matcher.corrections(&[(&white, &grey)])?, [ColourCorrection::NONE]);
        assert!(matcher.corrections(&[(&white, &crop(256)?)]).is_err());
        assert!(matcher.corrections(&[])?.is_empty());
        Ok(())
    }

    #[test]
    fn a_single_deviating_frame_causes_no_flicker() -> Result<()> {
        let matcher = ColourMatcher::new(&MouthMask::new(128)?)?;
        let crop = crop(128)?;
        let truth = face_pixels(&crop)?;
        let flash = (&truth + 9.0 / 127.5)?;
        let frames: Vec<_> = (0..16).map(|i| (if i == 8 { &flash } else { &truth }, &crop)).collect();
        let found = matcher.corrections(&frames)?;
        let levels: Vec<f32> =
            found.iter().map(|c| c.apply(&truth).and_then(|x| largest_error(&x, &truth)).unwrap()).collect();
        assert!(levels[..4].iter().chain(&levels[13..]).all(|&level| level < 0.01), "{levels:?}");
        // One ninth of the deviation, in each frame within the smoothing radius.
        assert!(levels[4..13].iter().all(|&level| (0.5..2.5).contains(&level)), "{levels:?}");
        Ok(())
    }
}
