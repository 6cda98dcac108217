//! Gaussian blur with mirrored borders (OpenCV's `BORDER_REFLECT_101`).

use candle_core::{DType, Device, Result, Tensor, bail};
use rayon::prelude::*;

use crate::cpu::slice;
use crate::cuda;
use crate::profile::{self, Kind, Work};

/// Output elements whose sums are kept in registers.
const LANES: usize = 32;

/// Separable Gaussian blur of `image`, (height, width), f32 → the same shape. The kernel has `size` taps
/// (odd) and standard deviation `sigma`, in pixels. The image is mirrored at its border without repeating the
/// border pixel, several times if the kernel is wider than the image.
pub fn gaussian_blur(image: &Tensor, size: usize, sigma: f64) -> Result<Tensor> {
    let (height, width) = image.dims2()?;
    if size.is_multiple_of(2) || sigma.is_nan() || sigma <= 0.0 {
        bail!("gaussian_blur: expected an odd size and a positive sigma, got size {size} and sigma {sigma}");
    }
    let _timer = profile::timer(image, || Work::moving(Kind::Blur, image));
    match (image.device(), image.dtype()) {
        (_, DType::F32) if cuda::is_available_for(image) && height * width > 0 => {
            cuda::gaussian_blur(image, &kernel(size, sigma))
        }
        (Device::Cpu, DType::F32) if height * width > 0 => blur_cpu(image, &kernel(size, sigma)),
        _ => gaussian_blur_reference(image, size, sigma),
    }
}

/// Taps of the kernel: exp(−x² / 2σ²) at whole x, normalised to a sum of 1.
fn kernel(size: usize, sigma: f64) -> Vec<f32> {
    let weight = |i: usize| {
        let x = i as f64 - (size / 2) as f64;
        (-x * x / (2.0 * sigma * sigma)).exp()
    };
    let total: f64 = (0..size).map(weight).sum();
    (0..size).map(|i| (weight(i) / total) as f32).collect()
}

/// Source index of every element of a line of `length` that is extended by `radius` mirrored elements at both
/// ends.
fn mirrored_indices(length: usize, radius: usize) -> impl Iterator<Item = usize> {
    let (length, radius) = (length as i64, radius as i64);
    let period = (2 * (length - 1)).max(1);
    (-radius..length + radius).map(move |i| {
        let i = i.rem_euclid(period);
        i.min(period - i).min(length - 1) as usize
    })
}

fn blur_cpu(image: &Tensor, kernel: &[f32]) -> Result<Tensor> {
    let (height, width) = image.dims2()?;
    let radius = kernel.len() / 2;
    let columns: Vec<usize> = mirrored_indices(width, radius).collect();
    let rows: Vec<usize> = mirrored_indices(height, radius).collect();
    let image = image.contiguous()?;
    let pixels = slice::<f32>(&image)?;
    let mut blurred_rows = vec![0f32; height * width];
    blurred_rows.par_chunks_mut(width).zip(pixels.par_chunks(width)).for_each_init(
        Vec::new,
        |line: &mut Vec<f32>, (out, source)| {
            line.clear();
            line.extend(columns.iter().map(|&x| source[x]));
            weighted_sums(out, kernel, |tap, i, n| &line[tap + i..][..n]);
        },
    );
    let mut out = vec![0f32; height * width];
    out.par_chunks_mut(width).enumerate().for_each(|(y, out)| {
        weighted_sums(out, kernel, |tap, i, n| &blurred_rows[rows[y + tap] * width + i..][..n]);
    });
    Tensor::from_vec(out, (height, width), image.device())
}

/// `out[i] = Σ kernel[tap] · source[tap][i]`, where `source(tap, i, n)` returns `source[tap][i..i + n]`.
fn weighted_sums<'a>(out: &mut [f32], kernel: &[f32], source: impl Fn(usize, usize, usize) -> &'a [f32]) {
    let (blocks, rest) = out.as_chunks_mut::<LANES>();
    let (done, left) = (blocks.len() * LANES, rest.len());
    for (block, out) in blocks.iter_mut().enumerate() {
        let mut sums = [0f32; LANES];
        for (tap, &weight) in kernel.iter().enumerate() {
            for (sum, &value) in sums.iter_mut().zip(source(tap, block * LANES, LANES)) {
                *sum += weight * value;
            }
        }
        *out = sums;
    }
    for (tap, &weight) in kernel.iter().enumerate() {
        for (sum, &value) in rest.iter_mut().zip(source(tap, done, left)) {
            *sum += weight * value;
        }
    }
}

/// Reference for [`gaussian_blur`], in plain candle operations: the weighted sum of shifted copies.
pub fn gaussian_blur_reference(image: &Tensor, size: usize, sigma: f64) -> Result<Tensor> {
    let mut out = image.clone();
    for dim in [1, 0] {
        let length = out.dim(dim)?;
        let index: Vec<u32> = mirrored_indices(length, size / 2).map(|i| i as u32).collect();
        let padded = out.index_select(&Tensor::new(index, image.device())?, dim)?;
        out = out.zeros_like()?;
        for (tap, weight) in kernel(size, sigma).into_iter().enumerate() {
            out = (out + (padded.narrow(dim, tap, length)? * f64::from(weight))?)?;
        }
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
            for (size, sigma) in [(1, 0.5), (3, 0.8), (7, 1.4), (59, 9.2)] {
                let fast = gaussian_blur(&image, size, sigma)?;
                let slow = gaussian_blur_reference(&image, size, sigma)?;
                assert!(max_difference(&fast, &slow)? < 1e-6, "{height}x{width} by {size}");
            }
        }
        Ok(())
    }

    /// `cv2.GaussianBlur` of a 5×5 image of 0, 1, 2 … 24 with BORDER_REFLECT_101, by (3, 3), sigma 0.8.
    #[test]
    fn the_border_is_mirrored_without_repeating_the_border_pixel() -> Result<()> {
        let image = Tensor::arange(0f32, 25f32, &Device::Cpu)?.reshape((5, 5))?;
        let out = gaussian_blur(&image, 3, 0.8)?.to_vec2::<f32>()?;
        for (at, want) in [((0, 0), 2.867931), ((2, 2), 12.0), ((4, 2), 19.610058)] {
            assert!((out[at.0][at.1] - want).abs() < 1e-4, "{at:?}: {}", out[at.0][at.1]);
        }
        Ok(())
    }

    #[test]
    fn even_sizes_and_invalid_sigmas_are_rejected() -> Result<()> {
        let image = random((3, 3))?;
        assert!(gaussian_blur(&image, 4, 1.0).is_err());
        assert!(gaussian_blur(&image, 3, 0.0).is_err());
        assert!(gaussian_blur(&image, 3, f64::NAN).is_err());
        Ok(())
    }
}
