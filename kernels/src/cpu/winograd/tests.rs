use half::bf16;

use super::super::{ConvGeometry, Residual};
use super::*;

/// Pseudo-random numbers in [-1, 1), with a period much longer than a tile.
fn numbers<T: Element>(count: usize, seed: u32) -> Vec<T> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        T::narrow((state >> 8) as f32 / (1 << 23) as f32 - 1.0)
    };
    (0..count).map(|_| next()).collect()
}

/// Maximum difference between Winograd and direct convolution, relative to the largest output.
fn difference<T: Element>(isa: Isa, images: Images, channels: usize, columns: usize) -> f32 {
    let Images { count, height, width, doubled } = images;
    let pixels = count * height * width;
    let x = numbers::<T>(pixels / if doubled { 4 } else { 1 } * channels, 1);
    let weights = numbers::<T>(columns * channels * 9, 2);
    let weights = Packed::new(columns, channels, 9, |i| weights[i]);
    let (bias, residual) = (numbers::<f32>(columns, 3), numbers::<T>(pixels * columns, 4));
    let residual = Some(Residual { values: &residual, rows_per_value: 1 });
    let epilogue = Epilogue { bias: &bias, residual, activation: Activation::Silu };
    let winograd = Winograd::pack(&weights);
    // SAFETY: `Winograd::run` writes every element of the output.
    let got = unsafe { fill(pixels * columns, |out| winograd.run(isa, &x, images, &epilogue, out)) };

    let large = if doubled { upsample(&x, height / 2, width / 2, channels) } else { x };
    let geometry = ConvGeometry {
        height,
        width,
        kernel: 3,
        stride: 1,
        top: 1,
        left: 1,
        out_height: height,
        out_width: width,
        quarter: None,
    };
    let source = Lhs::Im2col(&large, geometry);
    let problem = Gemm { isa, rows: pixels, lhs: source, weights: &weights, epilogue };
    // SAFETY: the GEMM writes all rows and columns of its output.
    let want = unsafe { fill(pixels * columns, |out| problem.run(out)) };
    let largest = |values: &mut dyn Iterator<Item = f32>| values.fold(0f32, |a, b| a.max(b.abs()));
    let scale = largest(&mut want.iter().map(|v| v.widen()));
    largest(&mut got.iter().zip(&want).map(|(a, b)| a.widen() - b.widen())) / scale
}

/// 2× nearest-neighbour upsampling of images.
fn upsample<T: Element>(x: &[T], height: usize, width: usize, channels: usize) -> Vec<T> {
    let pixels: Vec<_> = x.chunks_exact(channels).collect();
    let lines = pixels.chunks_exact(width);
    assert_eq!(lines.len() % height, 0);
    let twice = |line: &[&[T]]| line.iter().flat_map(|pixel| [*pixel, *pixel]).flatten().copied().collect();
    lines
        .flat_map(|line| {
            let line: Vec<T> = twice(line);
            [line.clone(), line]
        })
        .flatten()
        .collect()
}

#[test]
fn equals_direct_convolution_for_complete_and_partial_tiles() {
    let images = |count, height, width, doubled| Images { count, height, width, doubled };
    let shapes = [
        (images(2, 8, 12, false), 64, 80),
        (images(3, 9, 7, false), 80, 64),
        (images(1, 1, 2, false), 16, 16),
        (images(2, 10, 6, true), 64, 64),
        // Several bands per thread, and bands that all threads share.
        (images(3, 32, 48, false), 32, 16),
        (images(5, 30, 30, false), 208, 192),
    ];
    for isa in Isa::available() {
        for (images, channels, columns) in shapes {
            let what = format!("{isa:?} {images:?} {channels} to {columns}");
            let worst = difference::<f32>(isa, images, channels, columns);
            assert!(worst <= 5e-6, "{what} in f32: {worst:e}");
            // Each output may be rounded to bf16 differently.
            let worst = difference::<bf16>(isa, images, channels, columns);
            assert!(worst <= 5e-3, "{what} in bf16: {worst:e}");
        }
    }
}

#[test]
fn is_profitable_for_large_images_unless_bf16_is_much_faster() {
    let frames = |size| Images { count: 16, height: size, width: size, doubled: false };
    let is_profitable =
        |isa, channels, out, images| Winograd::is_profitable::<bf16>(isa, channels, out, &images);
    for isa in [Isa::Portable, Isa::Avx2, Isa::Avx512Bf16, Isa::Neon] {
        assert!(is_profitable(isa, 960, 320, frames(32)), "{isa:?}");
        assert!(!is_profitable(isa, 320, 4, frames(32)), "{isa:?}: four output channels");
        assert!(!is_profitable(isa, 1280, 1280, frames(8)), "{isa:?}: many weights for few pixels");
    }
    assert!(is_profitable(Isa::Avx2, 1920, 640, frames(16)));
    assert!(!is_profitable(Isa::Avx512Bf16, 640, 640, frames(16)));
    assert!(Winograd::is_profitable::<f32>(Isa::Avx512Bf16, 640, 640, &frames(16)));
    // The smallest and the second smallest images of the VAE.
    assert!(!is_profitable(Isa::Avx512Bf16, 512, 512, frames(32)));
    assert!(is_profitable(Isa::Avx512Bf16, 512, 512, frames(64)));
    let doubled = Images { doubled: true, ..frames(32) };
    assert!(is_profitable(Isa::Avx2, 320, 320, doubled));
    // Four taps in fast bf16 cost less than the transforms.
    assert!(!is_profitable(Isa::Avx512Bf16, 320, 320, doubled));
    for isa in [Isa::Amx, Isa::TileModel, Isa::NeonBf16] {
        assert!(!is_profitable(isa, 320, 320, frames(32)), "{isa:?}");
    }
}
