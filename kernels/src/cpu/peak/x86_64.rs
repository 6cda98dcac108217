//! Loops for x86-64, with enough independent accumulators to hide the latency of a multiply-add.

use std::arch::x86_64::*;
use std::hint::black_box;

use super::super::gemm::amx::Amx;
use super::super::gemm::tiles::Tiles;

#[target_feature(enable = "avx2,fma")]
pub fn avx2(iterations: usize) {
    let (a, b) = (_mm256_set1_ps(black_box(0.999)), _mm256_set1_ps(black_box(0.5)));
    // Different start values, otherwise the compiler merges the accumulators.
    let mut sums: [__m256; 12] = std::array::from_fn(|i| _mm256_set1_ps(black_box(i as f32)));
    for _ in 0..iterations {
        for sum in &mut sums {
            *sum = _mm256_fmadd_ps(a, b, *sum);
        }
    }
    black_box(sums);
}

#[target_feature(enable = "avx512f")]
pub fn avx512(iterations: usize) {
    let (a, b) = (_mm512_set1_ps(black_box(0.999)), _mm512_set1_ps(black_box(0.5)));
    let mut sums: [__m512; 24] = std::array::from_fn(|i| _mm512_set1_ps(black_box(i as f32)));
    for _ in 0..iterations {
        for sum in &mut sums {
            *sum = _mm512_fmadd_ps(a, b, *sum);
        }
    }
    black_box(sums);
}

#[target_feature(enable = "avx512f,avx512bf16")]
pub fn avx512_bf16(iterations: usize) {
    // Pairs of bf16 ones.
    let ones = _mm512_set1_epi32(black_box(0x3f80_3f80));
    // SAFETY: both types are 512-bit vectors for which every bit pattern is valid.
    let ones = unsafe { std::mem::transmute::<__m512i, __m512bh>(ones) };
    let mut sums: [__m512; 24] = std::array::from_fn(|i| _mm512_set1_ps(black_box(i as f32)));
    for _ in 0..iterations {
        for sum in &mut sums {
            *sum = _mm512_dpbf16_ps(*sum, ones, ones);
        }
    }
    black_box(sums);
}

/// Four accumulator tiles and two tiles of each operand, as in the AMX microkernel of 32×32 outputs.
///
/// # Safety
/// [`amx::is_available`](super::super::gemm::amx::is_available) must have returned true.
pub unsafe fn amx_bf16(iterations: usize) {
    // SAFETY: the caller guarantees AMX; the tiles are configured and zeroed before they are used.
    unsafe {
        Amx::configure();
        clear_tiles();
        for _ in 0..iterations {
            Amx::dot::<0, 4, 6>();
            Amx::dot::<1, 4, 7>();
            Amx::dot::<2, 5, 6>();
            Amx::dot::<3, 5, 7>();
        }
        Amx::release();
    }
}

/// # Safety
/// The tiles must be configured.
unsafe fn clear_tiles() {
    // SAFETY: the caller guarantees configured tiles.
    unsafe {
        Amx::zero::<0>();
        Amx::zero::<1>();
        Amx::zero::<2>();
        Amx::zero::<3>();
        Amx::zero::<4>();
        Amx::zero::<5>();
        Amx::zero::<6>();
        Amx::zero::<7>();
    }
}
