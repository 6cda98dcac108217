//! Affine warps with bilinear sampling: pixel centres at whole coordinates, as kornia's `warp_affine`
//! (`align_corners = true`) places them. Only the asked-for window of the destination is computed.

use candle_core::{DType, Device, Result, Tensor, WithDType, bail};
use rayon::prelude::*;

use crate::cuda;
use crate::pixels::{Rect, with_slice};
use crate::profile::{self, Kind, Work};

/// A 2×3 matrix that takes pixel coordinates (x, y) of a source to those of a destination.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Affine(pub [[f64; 3]; 2]);

impl Affine {
    /// Where the source point (x, y) lands in the destination.
    pub fn apply(&self, [x, y]: [f64; 2]) -> [f64; 2] {
        self.0.map(|[a, b, c]| a * x + b * y + c)
    }

    /// The map from the destination back to the source; an error if there is none.
    pub fn invert(&self) -> Result<Self> {
        let [[a, b, tx], [c, d, ty]] = self.0;
        let det = a * d - b * c;
        let inverse = Self([
            [d / det, -b / det, (b * ty - d * tx) / det],
            [-c / det, a / det, (c * tx - a * ty) / det],
        ]);
        if !inverse.0.iter().flatten().all(|v| v.is_finite()) {
            bail!("affine matrix {:?} has no inverse", self.0);
        }
        Ok(inverse)
    }
}

/// Samples `source` through `matrix` (source → destination); what lies outside the source counts as `fill`.
/// `source`: (height, width, channels), u8 or f32 → the `window` of the destination, (window.height,
/// window.width, channels), f32.
pub fn warp_affine(source: &Tensor, matrix: &Affine, window: Rect, fill: f32) -> Result<Tensor> {
    let (_, _, channels) = checked_dims(source)?;
    let _timer = profile::timer(source, || work(source, window.height * window.width * channels));
    match (source.device(), source.dtype(), channels) {
        (_, DType::U8 | DType::F32, _) if cuda::is_on(source) && window.width * window.height > 0 => {
            cuda::warp_affine(source, &matrix.invert()?.0, window, fill)
        }
        (Device::Cpu, DType::U8, 3) => sample::<u8, 3>(source, &matrix.invert()?, window, fill),
        (Device::Cpu, DType::F32, 3) => sample::<f32, 3>(source, &matrix.invert()?, window, fill),
        _ => warp_affine_reference(source, matrix, window, fill),
    }
}

/// How much of each destination pixel the source covers: an image of ones of the size of `source`, warped
/// with a fill of 0. → (window.height, window.width), f32, in 0..=1.
pub fn warp_coverage(source: &Tensor, matrix: &Affine, window: Rect) -> Result<Tensor> {
    let (height, width, _) = checked_dims(source)?;
    if cuda::is_on(source) && window.width * window.height > 0 {
        return cuda::warp_coverage(source, &matrix.invert()?.0, window);
    }
    if !source.device().is_cpu() {
        return warp_coverage_reference(source, matrix, window);
    }
    let Affine([mx, my]) = matrix.invert()?;
    // Of the two samples either side of a coordinate, the share that lies inside 0..size.
    let inside = |at: f64, size: usize| (at + 1.0).min(size as f64 - at).clamp(0.0, 1.0);
    let mut out = vec![0f32; window.height * window.width];
    out.par_chunks_mut(window.width.max(1)).enumerate().for_each(|(row, line)| {
        let y = (window.y + row) as f64;
        for (col, value) in line.iter_mut().enumerate() {
            let x = (window.x + col) as f64;
            let sx = mx[0] * x + mx[1] * y + mx[2];
            let sy = my[0] * x + my[1] * y + my[2];
            *value = (inside(sx, width) * inside(sy, height)) as f32;
        }
    });
    Tensor::from_vec(out, (window.height, window.width), source.device())
}

/// `elements`: of the window, each f32 made of the pixels around one point of the source.
fn work(source: &Tensor, elements: usize) -> Work {
    let moved = elements * (size_of::<f32>() + source.dtype().size_in_bytes());
    Work::moving_bytes(Kind::Warp, source, moved as f64)
}

fn checked_dims(source: &Tensor) -> Result<(usize, usize, usize)> {
    let (height, width, channels) = source.dims3()?;
    if height * width * channels == 0 {
        bail!("warp: empty source {:?}", source.shape());
    }
    Ok((height, width, channels))
}

fn sample<T: WithDType + Sample, const C: usize>(
    source: &Tensor,
    inverse: &Affine,
    window: Rect,
    fill: f32,
) -> Result<Tensor> {
    let (height, width, _) = source.dims3()?;
    let mut out = vec![0f32; window.height * window.width * C];
    with_slice::<T, _>(source, |data| {
        let image = Image::<T, C> { pixels: data.as_chunks().0, height, width, fill };
        out.par_chunks_mut((window.width * C).max(1))
            .enumerate()
            .for_each(|(row, line)| image.sample_row(inverse, window.x, window.y + row, line));
        Ok(())
    })?;
    Tensor::from_vec(out, (window.height, window.width, C), source.device())
}

/// A pixel value that becomes an f32 without loss.
trait Sample: Copy + Send + Sync {
    fn value(self) -> f32;
}

impl Sample for u8 {
    fn value(self) -> f32 {
        f32::from(self)
    }
}

impl Sample for f32 {
    fn value(self) -> f32 {
        self
    }
}

struct Image<'a, T, const C: usize> {
    pixels: &'a [[T; C]],
    height: usize,
    width: usize,
    fill: f32,
}

impl<T: Sample, const C: usize> Image<'_, T, C> {
    fn sample_row(&self, inverse: &Affine, first: usize, row: usize, line: &mut [f32]) {
        let Affine([mx, my]) = inverse;
        let y = row as f64;
        let (last_x, last_y) = ((self.width - 1) as f64, (self.height - 1) as f64);
        for (col, out) in line.as_chunks_mut::<C>().0.iter_mut().enumerate() {
            let x = (first + col) as f64;
            let sx = mx[0] * x + mx[1] * y + mx[2];
            let sy = my[0] * x + my[1] * y + my[2];
            *out = if sx >= 0.0 && sx < last_x && sy >= 0.0 && sy < last_y {
                // Truncating to i32 takes one instruction, to usize several.
                let (left, top) = (sx as i32, sy as i32);
                let at = top as usize * self.width + left as usize;
                let (upper, lower) = (&self.pixels[at..at + 2], &self.pixels[at + self.width..][..2]);
                let (fx, fy) = ((sx - f64::from(left)) as f32, (sy - f64::from(top)) as f32);
                std::array::from_fn(|c| {
                    let upper = lerp(upper[0][c].value(), upper[1][c].value(), fx);
                    let lower = lerp(lower[0][c].value(), lower[1][c].value(), fx);
                    lerp(upper, lower, fy)
                })
            } else {
                self.sample_at_border(sx, sy)
            };
        }
    }

    fn sample_at_border(&self, sx: f64, sy: f64) -> [f32; C] {
        let (left, top) = (sx.floor(), sy.floor());
        let (fx, fy) = ((sx - left) as f32, (sy - top) as f32);
        let tap = |x: f64, y: f64| {
            if x < 0.0 || y < 0.0 || x >= self.width as f64 || y >= self.height as f64 {
                return [self.fill; C];
            }
            self.pixels[y as usize * self.width + x as usize].map(Sample::value)
        };
        let (a, b) = (tap(left, top), tap(left + 1.0, top));
        let (c, d) = (tap(left, top + 1.0), tap(left + 1.0, top + 1.0));
        std::array::from_fn(|i| lerp(lerp(a[i], b[i], fx), lerp(c[i], d[i], fx), fy))
    }
}

/// Exact where `a == b`, so that a flat area keeps its value and is not truncated to the one below.
fn lerp(a: f32, b: f32, t: f32) -> f32 {
    a + t * (b - a)
}

/// The definition, in plain candle operations: four gathers from the image inside a frame of `fill`.
pub fn warp_affine_reference(source: &Tensor, matrix: &Affine, window: Rect, fill: f32) -> Result<Tensor> {
    let (height, width, channels) = checked_dims(source)?;
    let inverse = matrix.invert()?;
    let device = source.device();
    let framed = framed(&source.to_dtype(DType::F32)?, fill)?;
    let pixels = window.height * window.width;
    let mut corners = [(); 4].map(|()| Vec::with_capacity(pixels));
    let (mut fx, mut fy) = (Vec::with_capacity(pixels), Vec::with_capacity(pixels));
    // Anything further than a pixel outside reads the frame on both sides.
    let clamped = |at: f64, size: usize| (at + 1.0).clamp(0.0, size as f64 + 1.0) as u32;
    for y in window.y..window.y + window.height {
        for x in window.x..window.x + window.width {
            let [sx, sy] = inverse.apply([x as f64, y as f64]);
            let (left, top) = (sx.floor(), sy.floor());
            fx.push((sx - left) as f32);
            fy.push((sy - top) as f32);
            for (i, corner) in corners.iter_mut().enumerate() {
                let column = clamped(left + (i % 2) as f64, width);
                let row = clamped(top + (i / 2) as f64, height);
                corner.push(row * (width as u32 + 2) + column);
            }
        }
    }
    let [a, b, c, d] = corners.map(|index| {
        let index = Tensor::from_vec(index, pixels, device)?;
        framed.index_select(&index, 0)
    });
    let lerp = |a: &Tensor, b: &Tensor, t: &Tensor| a + (b - a)?.broadcast_mul(t)?;
    let fx = Tensor::from_vec(fx, (pixels, 1), device)?;
    let fy = Tensor::from_vec(fy, (pixels, 1), device)?;
    lerp(&lerp(&a?, &b?, &fx)?, &lerp(&c?, &d?, &fx)?, &fy)?.reshape((window.height, window.width, channels))
}

/// The definition: ones, warped.
pub fn warp_coverage_reference(source: &Tensor, matrix: &Affine, window: Rect) -> Result<Tensor> {
    let (height, width, _) = checked_dims(source)?;
    let ones = Tensor::ones((height, width, 1), DType::F32, source.device())?;
    warp_affine_reference(&ones, matrix, window, 0.0)?.squeeze(2)
}

/// (height, width, channels) with one pixel of `fill` around it → ((height + 2) × (width + 2), channels).
fn framed(source: &Tensor, fill: f32) -> Result<Tensor> {
    let (height, width, channels) = source.dims3()?;
    let column = Tensor::full(fill, (height, 1, channels), source.device())?;
    let row = Tensor::full(fill, (1, width + 2, channels), source.device())?;
    let rows = Tensor::cat(&[&column, source, &column], 1)?;
    Tensor::cat(&[&row, &rows, &row], 0)?.reshape(((height + 2) * (width + 2), channels))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pixels::testing::{max_difference, random};

    const TURNED: Affine = Affine([[0.9, -0.35, 3.3], [0.35, 0.9, -4.1]]);
    const WINDOW: Rect = Rect { x: 2, y: 1, width: 31, height: 27 };

    #[test]
    fn fast_warps_equal_the_reference() -> Result<()> {
        for (height, width) in [(17, 23), (1, 5), (40, 3)] {
            let source = random((height, width, 3))?;
            for source in [(&source * 255.0)?.to_dtype(DType::U8)?, source.clone()] {
                let fast = warp_affine(&source, &TURNED, WINDOW, 127.0)?;
                let slow = warp_affine_reference(&source, &TURNED, WINDOW, 127.0)?;
                assert!(max_difference(&fast, &slow)? < 1e-4, "{height}x{width}");
            }
            let fast = warp_coverage(&source, &TURNED, WINDOW)?;
            let slow = warp_coverage_reference(&source, &TURNED, WINDOW)?;
            assert!(max_difference(&fast, &slow)? < 1e-6, "{height}x{width}");
        }
        Ok(())
    }

    #[test]
    fn a_window_is_a_part_of_the_whole() -> Result<()> {
        let source = random((19, 21, 3))?;
        let whole = Rect { x: 0, y: 0, width: 40, height: 40 };
        let whole = warp_affine(&source, &TURNED, whole, 127.0)?;
        let part = warp_affine(&source, &TURNED, WINDOW, 127.0)?;
        assert_eq!(max_difference(&WINDOW.of(&whole)?, &part)?, 0.0);
        Ok(())
    }

    #[test]
    fn a_shift_by_whole_pixels_moves_them_unchanged() -> Result<()> {
        let source = random((8, 9, 3))?;
        let shift = Affine([[1.0, 0.0, 2.0], [0.0, 1.0, 3.0]]);
        let window = Rect { x: 2, y: 3, width: 9, height: 8 };
        assert_eq!(max_difference(&warp_affine(&source, &shift, window, 5.0)?, &source)?, 0.0);
        let outside = Rect { x: 100, y: 0, width: 2, height: 2 };
        let outside = warp_affine(&source, &shift, outside, 5.0)?;
        assert_eq!(outside.flatten_all()?.to_vec1::<f32>()?, vec![5.0; 12]);
        Ok(())
    }

    #[test]
    fn inverting_undoes_and_refuses_what_cannot_be_undone() -> Result<()> {
        let there = TURNED.apply([12.0, -7.5]);
        let [x, y] = TURNED.invert()?.apply(there);
        assert!((x - 12.0).abs() < 1e-12 && (y + 7.5).abs() < 1e-12);
        assert!(Affine([[1.0, 2.0, 0.0], [2.0, 4.0, 0.0]]).invert().is_err());
        assert!(Affine([[f64::NAN, 0.0, 0.0], [0.0, 1.0, 0.0]]).invert().is_err());
        Ok(())
    }
}
