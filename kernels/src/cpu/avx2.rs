//! Microkernels for AVX2 and FMA.

use std::arch::x86_64::*;

use half::bf16;

use super::gemm::micro_kernel::{Microkernel, NR, Registers, Strip, microkernel};

microkernel!(
    /// f32.
    F32, Floats, f32, ["avx2,fma"], groups [1], rows [1, 2, 3, 4, 5, 6]
);
microkernel!(
    /// bf16, widened to f32 in registers.
    BF16_WIDENED, Bf16Pairs, bf16, ["avx2,fma"], groups [1], rows [1, 2, 3, 4]
);

struct Floats;

impl Registers for Floats {
    type Element = f32;
    type Sum = __m256;
    type Left = __m256;
    type Right = __m256;

    const LANES: usize = 8;
    const PAIR: usize = 1;

    #[inline(always)]
    unsafe fn zero() -> __m256 {
        // SAFETY: the contract of the trait: the CPU has AVX2 and FMA.
        unsafe { _mm256_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m256 {
        // SAFETY: the contract of the trait: the CPU has AVX2 and FMA, and `from` is readable for `LANES`
        // floats.
        unsafe { _mm256_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, sum: __m256) {
        // SAFETY: the contract of the trait: the CPU has AVX2 and FMA, and `to` is writable for `LANES`
        // floats.
        unsafe { _mm256_storeu_ps(to, sum) }
    }

    #[inline(always)]
    unsafe fn left(from: *const f32) -> __m256 {
        // SAFETY: the contract of the trait: the CPU has AVX2 and FMA, and `from` is readable for one float.
        unsafe { _mm256_broadcast_ss(&*from) }
    }

    #[inline(always)]
    unsafe fn right(from: *const f32) -> __m256 {
        // SAFETY: the contract of the trait: the CPU has AVX2 and FMA, and `from` is readable for `LANES`
        // floats.
        unsafe { _mm256_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn multiply_add(sum: __m256, left: __m256, right: __m256) -> __m256 {
        // SAFETY: the contract of the trait: the CPU has AVX2 and FMA.
        unsafe { _mm256_fmadd_ps(left, right, sum) }
    }
}

struct Bf16Pairs;

/// Low and high bf16 of every 32-bit lane, widened to f32. A bf16 is the upper half of an f32.
///
/// # Safety
/// The CPU must have AVX2.
#[inline(always)]
unsafe fn split(pairs: __m256i) -> [__m256; 2] {
    // SAFETY: the caller guarantees AVX2.
    unsafe {
        let upper = _mm256_set1_epi32(0xffff_0000_u32 as i32);
        [
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(pairs)),
            _mm256_castsi256_ps(_mm256_and_si256(pairs, upper)),
        ]
    }
}

impl Registers for Bf16Pairs {
    type Element = bf16;
    type Sum = __m256;
    type Left = [__m256; 2];
    type Right = [__m256; 2];

    const LANES: usize = 8;
    const PAIR: usize = 2;

    #[inline(always)]
    unsafe fn zero() -> __m256 {
        // SAFETY: the contract of the trait: the CPU has AVX2 and FMA.
        unsafe { _mm256_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m256 {
        // SAFETY: the contract of the trait: the CPU has AVX2 and FMA, and `from` is readable for `LANES`
        // floats.
        unsafe { _mm256_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, sum: __m256) {
        // SAFETY: the contract of the trait: the CPU has AVX2 and FMA, and `to` is writable for `LANES`
        // floats.
        unsafe { _mm256_storeu_ps(to, sum) }
    }

    #[inline(always)]
    unsafe fn left(from: *const bf16) -> Self::Left {
        // SAFETY: the contract of the trait: the CPU has AVX2 and FMA, and `from` is readable for one pair of
        // bf16.
        unsafe { split(_mm256_set1_epi32(from.cast::<i32>().read_unaligned())) }
    }

    #[inline(always)]
    unsafe fn right(from: *const bf16) -> Self::Right {
        // SAFETY: the contract of the trait: the CPU has AVX2 and FMA, and `from` is readable for `LANES`
        // pairs of bf16.
        unsafe { split(_mm256_loadu_si256(from.cast())) }
    }

    #[inline(always)]
    unsafe fn multiply_add(sum: __m256, left: Self::Left, right: Self::Right) -> __m256 {
        // SAFETY: the contract of the trait: the CPU has AVX2 and FMA.
        unsafe { _mm256_fmadd_ps(left[1], right[1], _mm256_fmadd_ps(left[0], right[0], sum)) }
    }
}
