//! Microkernels for AVX-512, with and without AVX-512 BF16.

use std::arch::x86_64::*;

use half::bf16;

use super::gemm::micro_kernel::{Microkernel, NR, Registers, Strip, microkernel};

microkernel!(
    /// f32.
    F32, Floats, f32, ["avx512f"], groups [1, 2, 3, 4], rows [1, 2, 3, 4, 5, 6]
);
microkernel!(
    /// bf16, by dot products of pairs (`vdpbf16ps`).
    BF16, Bf16Dots, bf16, ["avx512f,avx512bf16"], groups [1, 2, 3, 4], rows [1, 2, 3, 4, 5, 6]
);
microkernel!(
    /// bf16, widened to f32 in registers. At most three groups, because a widened group occupies two
    /// registers.
    BF16_WIDENED, Bf16Pairs, bf16, ["avx512f"], groups [1, 2, 3], rows [1, 2, 3, 4, 5, 6]
);

/// Items of [`Registers`] that do not depend on the element type.
macro_rules! sums {
    () => {
        type Sum = __m512;

        const LANES: usize = 16;

        #[inline(always)]
        unsafe fn zero() -> __m512 {
            // SAFETY: the contract of the trait: the CPU has AVX-512 F.
            unsafe { _mm512_setzero_ps() }
        }

        #[inline(always)]
        unsafe fn load(from: *const f32) -> __m512 {
            // SAFETY: the contract of the trait: the CPU has AVX-512 F, and `from` is readable for `LANES`
            // floats.
            unsafe { _mm512_loadu_ps(from) }
        }

        #[inline(always)]
        unsafe fn store(to: *mut f32, sum: __m512) {
            // SAFETY: the contract of the trait: the CPU has AVX-512 F, and `to` is writable for `LANES`
            // floats.
            unsafe { _mm512_storeu_ps(to, sum) }
        }
    };
}

struct Floats;

impl Registers for Floats {
    type Element = f32;
    type Left = __m512;
    type Right = __m512;

    const PAIR: usize = 1;

    sums!();

    #[inline(always)]
    unsafe fn left(from: *const f32) -> __m512 {
        // SAFETY: the contract of the trait: the CPU has AVX-512 F, and `from` is readable for one float.
        unsafe { _mm512_set1_ps(*from) }
    }

    #[inline(always)]
    unsafe fn right(from: *const f32) -> __m512 {
        // SAFETY: the contract of the trait: the CPU has AVX-512 F, and `from` is readable for `LANES`
        // floats.
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn multiply_add(sum: __m512, left: __m512, right: __m512) -> __m512 {
        // SAFETY: the contract of the trait: the CPU has AVX-512 F.
        unsafe { _mm512_fmadd_ps(left, right, sum) }
    }
}

struct Bf16Dots;

impl Registers for Bf16Dots {
    type Element = bf16;
    type Left = __m512i;
    type Right = __m512i;

    const PAIR: usize = 2;

    sums!();

    #[inline(always)]
    unsafe fn left(from: *const bf16) -> __m512i {
        // SAFETY: the contract of the trait: the CPU has AVX-512 F, and `from` is readable for one pair of
        // bf16.
        unsafe { _mm512_set1_epi32(from.cast::<i32>().read_unaligned()) }
    }

    #[inline(always)]
    unsafe fn right(from: *const bf16) -> __m512i {
        // SAFETY: the contract of the trait: the CPU has AVX-512 F, and `from` is readable for `LANES` pairs
        // of bf16.
        unsafe { _mm512_loadu_si512(from.cast()) }
    }

    #[inline(always)]
    unsafe fn multiply_add(sum: __m512, left: __m512i, right: __m512i) -> __m512 {
        // SAFETY: the contract of the trait: the CPU has AVX-512 F and BF16. `transmute` keeps the bits; both
        // types are 512 bits wide.
        unsafe {
            let bits = std::mem::transmute::<__m512i, __m512bh>;
            _mm512_dpbf16_ps(sum, bits(left), bits(right))
        }
    }
}

struct Bf16Pairs;

/// Low and high bf16 of every 32-bit lane, widened to f32. A bf16 is the upper half of an f32.
///
/// # Safety
/// The CPU must have AVX-512 F.
#[inline(always)]
unsafe fn split(pairs: __m512i) -> [__m512; 2] {
    // SAFETY: the caller guarantees AVX-512 F.
    unsafe {
        let upper = _mm512_set1_epi32(0xffff_0000_u32 as i32);
        [
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs)),
            _mm512_castsi512_ps(_mm512_and_si512(pairs, upper)),
        ]
    }
}

impl Registers for Bf16Pairs {
    type Element = bf16;
    type Left = [__m512; 2];
    type Right = [__m512; 2];

    const PAIR: usize = 2;

    sums!();

    #[inline(always)]
    unsafe fn left(from: *const bf16) -> Self::Left {
        // SAFETY: the contract of the trait: the CPU has AVX-512 F, and `from` is readable for one pair of
        // bf16.
        unsafe { split(_mm512_set1_epi32(from.cast::<i32>().read_unaligned())) }
    }

    #[inline(always)]
    unsafe fn right(from: *const bf16) -> Self::Right {
        // SAFETY: the contract of the trait: the CPU has AVX-512 F, and `from` is readable for `LANES` pairs
        // of bf16.
        unsafe { split(_mm512_loadu_si512(from.cast())) }
    }

    #[inline(always)]
    unsafe fn multiply_add(sum: __m512, left: Self::Left, right: Self::Right) -> __m512 {
        // SAFETY: the contract of the trait: the CPU has AVX-512 F.
        unsafe { _mm512_fmadd_ps(left[1], right[1], _mm512_fmadd_ps(left[0], right[0], sum)) }
    }
}
