//! Microkernels for NEON, which every 64-bit ARM CPU has.

use std::arch::aarch64::*;

use half::bf16;

use super::gemm::micro_kernel::{Microkernel, NR, Registers, Strip, microkernel};

microkernel!(
    /// f32.
    F32, Floats, f32, ["neon"], groups [1], rows [1, 2, 3, 4, 5, 6]
);
microkernel!(
    /// bf16, widened to f32 in registers. At most four rows, because widened columns occupy twice as many
    /// registers.
    BF16_WIDENED, Bf16Pairs, bf16, ["neon"], groups [1], rows [1, 2, 3, 4]
);

/// Items of [`Registers`] that do not depend on the element type.
macro_rules! sums {
    () => {
        type Sum = float32x4_t;

        const LANES: usize = 4;

        #[inline(always)]
        unsafe fn zero() -> float32x4_t {
            // SAFETY: NEON is part of the architecture.
            unsafe { vdupq_n_f32(0.0) }
        }

        #[inline(always)]
        unsafe fn load(from: *const f32) -> float32x4_t {
            // SAFETY: the contract of the trait: `from` is readable for `LANES` floats. NEON is part of the
            // architecture.
            unsafe { vld1q_f32(from) }
        }

        #[inline(always)]
        unsafe fn store(to: *mut f32, sum: float32x4_t) {
            // SAFETY: the contract of the trait: `to` is writable for `LANES` floats. NEON is part of the
            // architecture.
            unsafe { vst1q_f32(to, sum) }
        }
    };
}

struct Floats;

impl Registers for Floats {
    type Element = f32;
    type Left = float32x4_t;
    type Right = float32x4_t;

    const PAIR: usize = 1;

    sums!();

    #[inline(always)]
    unsafe fn left(from: *const f32) -> float32x4_t {
        // SAFETY: the contract of the trait: `from` is readable for one float. NEON is part of the
        // architecture.
        unsafe { vld1q_dup_f32(from) }
    }

    #[inline(always)]
    unsafe fn right(from: *const f32) -> float32x4_t {
        // SAFETY: the contract of the trait: `from` is readable for `LANES` floats. NEON is part of the
        // architecture.
        unsafe { vld1q_f32(from) }
    }

    #[inline(always)]
    unsafe fn multiply_add(sum: float32x4_t, left: float32x4_t, right: float32x4_t) -> float32x4_t {
        // SAFETY: NEON is part of the architecture.
        unsafe { vfmaq_f32(sum, left, right) }
    }
}

struct Bf16Pairs;

/// Low and high bf16 of every 32-bit lane, widened to f32. A bf16 is the upper half of an f32.
#[inline(always)]
fn split(pairs: uint32x4_t) -> [float32x4_t; 2] {
    // SAFETY: NEON is part of the architecture.
    // SAFETY: NEON is part of the architecture.
    unsafe {
        [
            vreinterpretq_f32_u32(vshlq_n_u32::<16>(pairs)),
            vreinterpretq_f32_u32(vandq_u32(pairs, vdupq_n_u32(0xffff_0000))),
        ]
    }
}

impl Registers for Bf16Pairs {
    type Element = bf16;
    type Left = [float32x4_t; 2];
    type Right = [float32x4_t; 2];

    const PAIR: usize = 2;

    sums!();

    #[inline(always)]
    unsafe fn left(from: *const bf16) -> Self::Left {
        // SAFETY: the contract of the trait: `from` is readable for one pair of bf16. NEON is part of the
        // architecture.
        split(unsafe { vdupq_n_u32(from.cast::<u32>().read_unaligned()) })
    }

    #[inline(always)]
    unsafe fn right(from: *const bf16) -> Self::Right {
        // SAFETY: the contract of the trait: `from` is readable for `LANES` pairs of bf16. NEON is part of
        // the architecture.
        split(unsafe { vld1q_u32(from.cast()) })
    }

    #[inline(always)]
    unsafe fn multiply_add(sum: float32x4_t, left: Self::Left, right: Self::Right) -> float32x4_t {
        // SAFETY: NEON is part of the architecture.
        unsafe { vfmaq_f32(vfmaq_f32(sum, left[0], right[0]), left[1], right[1]) }
    }
}
