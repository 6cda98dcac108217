//! The two ways in which faces change size: Lanczos on bytes, as OpenCV's `INTER_LANCZOS4`, on the way in;
//! antialiased bicubic on floats, as PyTorch's, on the way out.

use std::f64::consts::FRAC_PI_4;

use candle_core::{DType, Device, Result, Tensor, bail};
use rayon::prelude::*;

use crate::cuda;
use crate::pixels::{Taps, with_slice};
use crate::profile::{self, Kind, Work};

/// OpenCV's weights for bytes have 11 fractional bits, in each direction.
const FIXED_POINT: i32 = 1 << 11;
const LANCZOS_TAPS: usize = 8;

/// `image`: (height, width, channels) u8 → (new height, new width, channels) u8.
/// 8×8 Lanczos in fixed point; the border is repeated; no antialiasing when shrinking.
pub fn resize_lanczos4(image: &Tensor, height: usize, width: usize) -> Result<Tensor> {
    let (_, _, channels) = checked_dims(image, height, width)?;
    if image.dtype() != DType::U8 {
        bail!("resize_lanczos4: expected u8, got {:?}", image.dtype());
    }
    let _timer = profile::timer(image, || work(image, height * width * channels));
    match (image.device(), channels) {
        _ if cuda::is_on(image) => {
            let (old_height, old_width, _) = image.dims3()?;
            cuda::resize_lanczos4(image, &lanczos_taps(old_height, height), &lanczos_taps(old_width, width))
        }
        (Device::Cpu, 1) => lanczos_cpu::<1>(image, height, width),
        (Device::Cpu, 3) => lanczos_cpu::<3>(image, height, width),
        _ => resize_lanczos4_reference(image, height, width),
    }
}

/// `image`: (height, width, channels) f32 → (new height, new width, channels) f32.
/// Bicubic (a = −0.5), the kernel widened by the scale when shrinking; values may overshoot.
pub fn resize_bicubic(image: &Tensor, height: usize, width: usize) -> Result<Tensor> {
    let (_, _, channels) = checked_dims(image, height, width)?;
    let _timer = profile::timer(image, || work(image, height * width * channels));
    match (image.device(), image.dtype(), channels) {
        (_, DType::F32, _) if cuda::is_on(image) => {
            let (old_height, old_width, _) = image.dims3()?;
            cuda::resize_bicubic(image, &bicubic_taps(old_height, height), &bicubic_taps(old_width, width))
        }
        (Device::Cpu, DType::F32, 3) => bicubic_cpu::<3>(image, height, width),
        _ => resize_bicubic_reference(image, height, width),
    }
}

/// `elements`: of the new image.
fn work(image: &Tensor, elements: usize) -> Work {
    let moved = profile::bytes(image) + (elements * image.dtype().size_in_bytes()) as f64;
    Work::moving_bytes(Kind::Resize, image, moved)
}

fn checked_dims(image: &Tensor, height: usize, width: usize) -> Result<(usize, usize, usize)> {
    let (h, w, channels) = image.dims3()?;
    if h * w * channels * height * width == 0 {
        bail!("resize: {:?} to {height}x{width}", image.shape());
    }
    Ok((h, w, channels))
}

/// The eight samples around each output sample. Formula: `interpolateLanczos4` of OpenCV's `resize.cpp`,
/// sin(πt) sin(πt/4) / t² at the eight distances t, normalised; |sin(πt)| is the same for all eight, its sign
/// alternates.
fn lanczos_taps(size: usize, new_size: usize) -> Vec<Taps<i32>> {
    let scale = 1.0 / (new_size as f64 / size as f64);
    (0..new_size)
        .map(|i| {
            let at = ((i as f64 + 0.5) * scale - 0.5) as f32;
            let before = at.floor();
            let fraction = at - before;
            let mut weights = [0f32; LANCZOS_TAPS];
            for (tap, weight) in weights.iter_mut().enumerate() {
                let distance = fraction + 3.0 - tap as f32;
                // On a sample that sample alone counts; OpenCV's limit, and its stand-in for infinity.
                *weight = if distance.abs() < 1e-6 {
                    1e30
                } else {
                    let y = f64::from(distance) * FRAC_PI_4;
                    let sign = if tap % 2 == 0 { 1.0 } else { -1.0 };
                    (sign * y.sin() / (y * y)) as f32
                };
            }
            // All terms share the sign of sin(πt), which the sum divides out again.
            let norm = weights.iter().sum::<f32>().recip();
            Taps {
                indices: (0..LANCZOS_TAPS as i64)
                    .map(|tap| (before as i64 - 3 + tap).clamp(0, size as i64 - 1) as usize)
                    .collect(),
                weights: weights.map(|w| (w * norm * FIXED_POINT as f32).round_ties_even() as i32).to_vec(),
            }
        })
        .collect()
}

/// Formula: `_compute_indices_weights_aa` of PyTorch's `UpSampleKernel.cpp`.
fn bicubic_taps(size: usize, new_size: usize) -> Vec<Taps<f32>> {
    let scale = size as f64 / new_size as f64;
    let widening = scale.max(1.0);
    let support = 2.0 * widening;
    (0..new_size)
        .map(|i| {
            let center = scale * (i as f64 + 0.5);
            let first = (center - support + 0.5).max(0.0) as usize;
            let end = ((center + support + 0.5) as usize).min(size);
            let weights: Vec<f64> =
                (first..end).map(|j| cubic((j as f64 - center + 0.5) / widening)).collect();
            let total: f64 = weights.iter().sum();
            Taps {
                indices: (first..end).collect(),
                weights: weights.iter().map(|w| (w / total) as f32).collect(),
            }
        })
        .collect()
}

/// Keys' cubic with a = −0.5.
fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        A * (((x - 5.0) * x + 8.0) * x - 4.0)
    } else {
        0.0
    }
}

fn lanczos_cpu<const C: usize>(image: &Tensor, height: usize, width: usize) -> Result<Tensor> {
    let (old_height, old_width, _) = image.dims3()?;
    let (columns, rows) = (lanczos_taps(old_width, width), lanczos_taps(old_height, height));
    let line = width * C;
    // The positive weights of a pixel add up to at most 1.357, the negative ones to 0.357: two passes and
    // the rounding reach (1.357² + 0.357²) × 255 × 2²² + 2²¹ = 2.109e9 of the 2.147e9 that fit.
    let mut wide = vec![0i32; old_height * line];
    with_slice::<u8, _>(image, |data| {
        let sources = data.par_chunks(old_width * C);
        wide.par_chunks_mut(line).zip(sources).for_each(|(out, source)| {
            let (out, source) = (out.as_chunks_mut::<C>().0, source.as_chunks::<C>().0);
            for (pixel, taps) in out.iter_mut().zip(&columns) {
                let mut sums = [0i32; C];
                for (&at, &weight) in taps.indices.iter().zip(&taps.weights) {
                    for (sum, &value) in sums.iter_mut().zip(&source[at]) {
                        *sum += weight * i32::from(value);
                    }
                }
                *pixel = sums;
            }
        });
        Ok(())
    })?;
    let mut out = vec![0u8; height * line];
    out.par_chunks_mut(line).zip(&rows).for_each_init(
        || vec![0i32; line],
        |sums, (out, taps)| {
            sums.fill(FIXED_POINT * FIXED_POINT / 2);
            for (&at, &weight) in taps.indices.iter().zip(&taps.weights) {
                let source = &wide[at * line..][..line];
                for (sum, &value) in sums.iter_mut().zip(source) {
                    *sum += weight * value;
                }
            }
            for (out, &sum) in out.iter_mut().zip(sums.iter()) {
                *out = (sum >> 22).clamp(0, 255) as u8;
            }
        },
    );
    Tensor::from_vec(out, (height, width, C), image.device())
}

fn bicubic_cpu<const C: usize>(image: &Tensor, height: usize, width: usize) -> Result<Tensor> {
    let (old_height, old_width, _) = image.dims3()?;
    let (columns, rows) = (bicubic_taps(old_width, width), bicubic_taps(old_height, height));
    let line = width * C;
    let mut wide = vec![0f32; old_height * line];
    with_slice::<f32, _>(image, |data| {
        let sources = data.par_chunks(old_width * C);
        wide.par_chunks_mut(line).zip(sources).for_each(|(out, source)| {
            let (out, source) = (out.as_chunks_mut::<C>().0, source.as_chunks::<C>().0);
            for (pixel, taps) in out.iter_mut().zip(&columns) {
                let mut sums = [0f32; C];
                for (&at, &weight) in taps.indices.iter().zip(&taps.weights) {
                    for (sum, &value) in sums.iter_mut().zip(&source[at]) {
                        *sum += weight * value;
                    }
                }
                *pixel = sums;
            }
        });
        Ok(())
    })?;
    let mut out = vec![0f32; height * line];
    out.par_chunks_mut(line).zip(&rows).for_each(|(out, taps)| {
        for (&at, &weight) in taps.indices.iter().zip(&taps.weights) {
            for (sum, &value) in out.iter_mut().zip(&wide[at * line..][..line]) {
                *sum += weight * value;
            }
        }
    });
    Tensor::from_vec(out, (height, width, C), image.device())
}

/// The definition, in plain candle operations: two matrix products, exact in f64, then rounding.
pub fn resize_lanczos4_reference(image: &Tensor, height: usize, width: usize) -> Result<Tensor> {
    let (old_height, old_width, _) = image.dims3()?;
    let rows = dense(&lanczos_taps(old_height, height), old_height, f64::from, image)?;
    let columns = dense(&lanczos_taps(old_width, width), old_width, f64::from, image)?;
    let sums = two_products(&image.to_dtype(DType::F64)?, &rows, &columns)?;
    let one = f64::from(FIXED_POINT * FIXED_POINT);
    ((sums / one)? + 0.5)?.floor()?.clamp(0f64, 255f64)?.to_dtype(DType::U8)
}

/// The definition, in plain candle operations: two matrix products.
pub fn resize_bicubic_reference(image: &Tensor, height: usize, width: usize) -> Result<Tensor> {
    let (old_height, old_width, _) = image.dims3()?;
    let rows = dense(&bicubic_taps(old_height, height), old_height, f64::from, image)?;
    let columns = dense(&bicubic_taps(old_width, width), old_width, f64::from, image)?;
    let dtype = image.dtype();
    two_products(image, &rows.to_dtype(dtype)?, &columns.to_dtype(dtype)?)
}

/// The weights as a matrix (new size, size) in f64.
fn dense<W: Copy>(taps: &[Taps<W>], size: usize, value: fn(W) -> f64, like: &Tensor) -> Result<Tensor> {
    let mut matrix = vec![0f64; taps.len() * size];
    for (row, taps) in matrix.chunks_exact_mut(size).zip(taps) {
        for (&at, &weight) in taps.indices.iter().zip(&taps.weights) {
            row[at] += value(weight);
        }
    }
    Tensor::from_vec(matrix, (taps.len(), size), like.device())
}

/// `rows` × `image` × `columns`ᵀ in every channel.
fn two_products(image: &Tensor, rows: &Tensor, columns: &Tensor) -> Result<Tensor> {
    let planes = image.permute((2, 0, 1))?.contiguous()?;
    let wide = planes.broadcast_matmul(&columns.t()?.contiguous()?)?;
    rows.broadcast_matmul(&wide)?.permute((1, 2, 0))?.contiguous()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pixels::testing::{max_difference, random};

    const SIZES: [[usize; 4]; 5] =
        [[13, 9, 31, 17], [31, 17, 13, 9], [140, 105, 128, 128], [1, 3, 5, 2], [7, 7, 7, 7]];

    #[test]
    fn fast_lanczos_equals_the_reference() -> Result<()> {
        for [h, w, height, width] in SIZES {
            for channels in [1, 2, 3] {
                // Black and white only: the largest overshoots.
                let image = (random((h, w, channels))? * 2.0)?.floor()?;
                let image = (image * 255.0)?.to_dtype(DType::U8)?;
                let fast = resize_lanczos4(&image, height, width)?;
                let slow = resize_lanczos4_reference(&image, height, width)?;
                assert_eq!(max_difference(&fast, &slow)?, 0.0, "{h}x{w} to {height}x{width}");
            }
        }
        Ok(())
    }

    #[test]
    fn fast_bicubic_equals_the_reference() -> Result<()> {
        for [h, w, height, width] in SIZES {
            let image = random((h, w, 3))?;
            let fast = resize_bicubic(&image, height, width)?;
            let slow = resize_bicubic_reference(&image, height, width)?;
            assert!(max_difference(&fast, &slow)? < 1e-5, "{h}x{w} to {height}x{width}");
        }
        Ok(())
    }

    #[test]
    fn the_same_size_is_the_same_image() -> Result<()> {
        let image = (random((9, 11, 3))? * 255.0)?.to_dtype(DType::U8)?;
        assert_eq!(max_difference(&resize_lanczos4(&image, 9, 11)?, &image)?, 0.0);
        let image = image.to_dtype(DType::F32)?;
        assert_eq!(max_difference(&resize_bicubic(&image, 9, 11)?, &image)?, 0.0);
        Ok(())
    }

    /// `cv2.resize(image, (width, height), interpolation=cv2.INTER_LANCZOS4)` of a row and of five rows.
    #[test]
    fn lanczos_gives_opencvs_bytes() -> Result<()> {
        let image = Tensor::new(&[0u8, 10, 200, 30, 255], &Device::Cpu)?.reshape((1, 5, 1))?;
        let out = resize_lanczos4(&image, 1, 8)?.flatten_all()?.to_vec1::<u8>()?;
        assert_eq!(out, [8, 0, 23, 178, 156, 32, 132, 255]);

        let row = [0u8, 10, 200, 30, 255];
        let image = [row, [9, 8, 7, 6, 5], row, [255, 0, 255, 0, 255], row];
        let image = Tensor::new(&image, &Device::Cpu)?.unsqueeze(2)?;
        let want: [[u8; 3]; 7] = [
            [0, 220, 181],
            [10, 67, 50],
            [0, 28, 29],
            [0, 200, 164],
            [118, 255, 163],
            [98, 227, 140],
            [0, 196, 168],
        ];
        let want = Tensor::new(&want, &Device::Cpu)?.unsqueeze(2)?;
        assert_eq!(max_difference(&resize_lanczos4(&image, 7, 3)?, &want)?, 0.0);
        Ok(())
    }

    /// Pillow's `resize((3, 6), BICUBIC)` of an image of mode F: the same kernel as PyTorch's.
    #[test]
    fn bicubic_gives_pillows_values() -> Result<()> {
        let image: [[f32; 5]; 4] = [
            [0.0, 10.0, 200.0, 30.0, 255.0],
            [5.0, 90.0, 17.0, 60.0, 1.0],
            [255.0, 0.0, 255.0, 0.0, 255.0],
            [9.0, 8.0, 7.0, 6.0, 5.0],
        ];
        let image = Tensor::new(&image, &Device::Cpu)?.unsqueeze(2)?;
        let want: [[f32; 3]; 6] = [
            [1.05870, 121.25734, 171.20445],
            [14.93213, 78.84213, 90.09231],
            [58.01888, 53.94838, 33.27208],
            [144.65848, 125.59743, 140.8168],
            [81.07511, 69.40437, 80.31131],
            [-0.59271, -1.04468, -4.10162],
        ];
        let want = Tensor::new(&want, &Device::Cpu)?.unsqueeze(2)?;
        assert!(max_difference(&resize_bicubic(&image, 6, 3)?, &want)? < 1e-3);
        Ok(())
    }

    #[test]
    fn empty_and_misfit_images_are_refused() -> Result<()> {
        let image = random((4, 4, 3))?;
        assert!(resize_lanczos4(&image, 4, 4).is_err());
        assert!(resize_bicubic(&image, 0, 4).is_err());
        Ok(())
    }
}
