//! Loops for 64-bit ARM, with as many accumulators as its microkernels have.

use std::arch::aarch64::*;
use std::hint::black_box;

use super::super::neon_bf16::multiply_add;

#[target_feature(enable = "neon")]
pub fn neon(iterations: usize) {
    let (a, b) = (vdupq_n_f32(black_box(0.999)), vdupq_n_f32(black_box(0.5)));
    // Different start values, otherwise the compiler merges the accumulators.
    let mut sums: [float32x4_t; 24] = std::array::from_fn(|i| vdupq_n_f32(black_box(i as f32)));
    for _ in 0..iterations {
        for sum in &mut sums {
            *sum = vfmaq_f32(*sum, a, b);
        }
    }
    black_box(sums);
}

#[target_feature(enable = "neon,bf16")]
pub fn neon_bf16(iterations: usize) {
    // Pairs of bf16 ones.
    let ones = vdupq_n_u32(black_box(0x3f80_3f80));
    let mut sums: [float32x4_t; 24] = std::array::from_fn(|i| vdupq_n_f32(black_box(i as f32)));
    for _ in 0..iterations {
        for sum in &mut sums {
            // SAFETY: this function enables FEAT_BF16.
            *sum = unsafe { multiply_add(*sum, ones, ones) };
        }
    }
    black_box(sums);
}
