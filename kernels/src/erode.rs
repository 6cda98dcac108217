//! Erosion by a square structuring element: the minimum over a window around each pixel.

use candle_core::{DType, Device, Result, Tensor, bail};
use rayon::prelude::*;

use crate::cpu::slice;
use crate::cuda;
use crate::profile::{self, Kind, Work};

/// Columns per strip of the vertical pass.
const LANES: usize = 16;

/// Erosion of `image`, (height, width), f32, by a `size` × `size` square → the same shape. The window covers
/// the offsets −⌊size / 2⌋ .. size − ⌊size / 2⌋ in both directions, so an even window extends one pixel
/// further up and left, as in OpenCV and kornia. Pixels outside the image are ignored.
pub fn erode(image: &Tensor, size: usize) -> Result<Tensor> {
    let (height, width) = image.dims2()?;
    if size == 0 {
        bail!("erode: expected a size of at least 1, got 0");
    }
    let _timer = profile::timer(image, || Work::moving(Kind::Erode, image));
    match (image.device(), image.dtype()) {
        (_, DType::F32) if cuda::is_available_for(image) && height * width > 0 => cuda::erode(image, size),
        (Device::Cpu, DType::F32) if height * width > 0 => erode_cpu(image, size),
        _ => erode_reference(image, size),
    }
}

fn erode_cpu(image: &Tensor, size: usize) -> Result<Tensor> {
    let (height, width) = image.dims2()?;
    let image = image.contiguous()?;
    let pixels = slice::<f32>(&image)?;
    let mut row_minima = vec![0f32; height * width];
    row_minima.par_chunks_mut(width).zip(pixels.par_chunks(width)).for_each_init(
        SlidingMinimum::default,
        |minimum, (out, source)| {
            minimum.load(size, source.chunks_exact(1));
            out.copy_from_slice(minimum.run(size, 1, width));
        },
    );
    // The vertical pass works on strips of `LANES` columns; each strip's result is (height, lanes).
    let strips: Vec<Vec<f32>> = (0..width.div_ceil(LANES))
        .into_par_iter()
        .map_init(SlidingMinimum::default, |minimum, strip| {
            let first = strip * LANES;
            let lanes = LANES.min(width - first);
            minimum.load(size, row_minima.chunks_exact(width).map(|row| &row[first..first + lanes]));
            minimum.run(size, lanes, height).to_vec()
        })
        .collect();
    let mut out = Vec::with_capacity(height * width);
    for row in 0..height {
        for strip in &strips {
            let lanes = strip.len() / height;
            out.extend_from_slice(&strip[row * lanes..][..lanes]);
        }
    }
    Tensor::from_vec(out, (height, width), image.device())
}

/// Sliding-window minimum of a line by doubling: the minimum of a window of 2n elements is the minimum of two
/// adjacent windows of n, and two overlapping windows of n give any size between n and 2n. Each step is one
/// pass without branches, log₂(size) passes in total. An element may consist of several lanes, which are
/// independent.
#[derive(Default)]
struct SlidingMinimum {
    line: Vec<f32>,
    next: Vec<f32>,
}

impl SlidingMinimum {
    /// Copies a line, padded with infinity on both sides so that window `i` belongs to element `i`.
    /// `groups`: the elements, one slice of lanes each.
    fn load<'a>(&mut self, size: usize, groups: impl Iterator<Item = &'a [f32]> + Clone) {
        let lanes = groups.clone().next().map_or(1, <[f32]>::len);
        self.line.clear();
        self.line.resize(size / 2 * lanes, f32::INFINITY);
        for group in groups {
            self.line.extend_from_slice(group);
        }
        let length = self.line.len() + (size - size / 2 - 1) * lanes;
        self.line.resize(length, f32::INFINITY);
    }

    /// Window minima of the first `count` elements of the loaded line.
    fn run(&mut self, size: usize, lanes: usize, count: usize) -> &[f32] {
        // Window size of the minima in `line`.
        let mut window = 1;
        while window < size {
            let step = window.min(size - window);
            self.next.clear();
            let shifted = &self.line[step * lanes..];
            self.next.extend(self.line.iter().zip(shifted).map(|(&a, &b)| if b < a { b } else { a }));
            std::mem::swap(&mut self.line, &mut self.next);
            window += step;
        }
        &self.line[..count * lanes]
    }
}

/// Reference for [`erode`], in plain candle operations: the minimum of shifted copies.
pub fn erode_reference(image: &Tensor, size: usize) -> Result<Tensor> {
    let mut out = image.clone();
    for dim in 0..2 {
        let length = out.dim(dim)?;
        let mut shape = out.dims().to_vec();
        shape[dim] = size;
        let border = (Tensor::ones(shape, image.dtype(), image.device())? * f64::INFINITY)?;
        let padded = Tensor::cat(&[&border, &out, &border], dim)?;
        let first = size - size / 2;
        let mut minimum = padded.narrow(dim, first, length)?;
        for offset in 1..size {
            minimum = minimum.minimum(&padded.narrow(dim, first + offset, length)?)?;
        }
        out = minimum;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pixels::testing::{max_difference, random};

    #[test]
    fn fast_equals_the_reference() -> Result<()> {
        for (height, width) in [(1, 1), (7, 33), (40, 5), (29, 64)] {
            let image = random((height, width))?;
            for size in [1, 2, 3, 5, 8, 13, 40, 90] {
                let difference = max_difference(&erode(&image, size)?, &erode_reference(&image, size)?)?;
                assert_eq!(difference, 0.0, "{height}x{width} by {size}");
            }
        }
        Ok(())
    }

    /// `cv2.erode` of a 9×9 image of ones with a zero at (4, 4), by 4×4: zeros in rows and columns 3..=6.
    #[test]
    fn an_even_window_extends_one_pixel_up_and_left() -> Result<()> {
        let mut image = vec![1f32; 81];
        image[4 * 9 + 4] = 0.0;
        let out = erode(&Tensor::from_vec(image, (9, 9), &Device::Cpu)?, 4)?.to_vec2::<f32>()?;
        for (y, row) in out.iter().enumerate() {
            for (x, &value) in row.iter().enumerate() {
                let dark = (3..=6).contains(&y) && (3..=6).contains(&x);
                assert_eq!(value, if dark { 0.0 } else { 1.0 }, "({x}, {y})");
            }
        }
        Ok(())
    }

    #[test]
    fn size_0_is_rejected() -> Result<()> {
        assert!(erode(&random((3, 3))?, 0).is_err());
        Ok(())
    }
}
