//! Microkernels in plain Rust, vectorised by the compiler for the build's target.

use half::bf16;

use super::Element;
use super::gemm::micro_kernel::{Microkernel, NR, Registers, Strip, microkernel};

microkernel!(
    /// f32.
    F32, Floats, f32, [], groups [1], rows [1, 2]
);
microkernel!(
    /// bf16, widened to f32 in registers.
    BF16_WIDENED, Bf16Pairs, bf16, [], groups [1], rows [1, 2]
);

struct Floats;

impl Registers for Floats {
    type Element = f32;
    type Sum = [f32; NR];
    type Left = f32;
    type Right = [f32; NR];

    const LANES: usize = NR;
    const PAIR: usize = 1;

    #[inline(always)]
    unsafe fn zero() -> Self::Sum {
        [0.0; NR]
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::Sum {
        // SAFETY: the contract of the trait: `from` is readable for `LANES` floats.
        unsafe { from.cast::<[f32; NR]>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, sum: Self::Sum) {
        // SAFETY: the contract of the trait: `to` is writable for `LANES` floats.
        unsafe { to.cast::<[f32; NR]>().write_unaligned(sum) }
    }

    #[inline(always)]
    unsafe fn left(from: *const f32) -> f32 {
        // SAFETY: the contract of the trait: `from` is readable for one float.
        unsafe { *from }
    }

    #[inline(always)]
    unsafe fn right(from: *const f32) -> Self::Right {
        // SAFETY: the contract of the trait: `from` is readable for `LANES` floats.
        unsafe { from.cast::<[f32; NR]>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn multiply_add(mut sum: Self::Sum, left: f32, right: Self::Right) -> Self::Sum {
        for i in 0..NR {
            sum[i] += left * right[i];
        }
        sum
    }
}

struct Bf16Pairs;

impl Registers for Bf16Pairs {
    type Element = bf16;
    type Sum = [f32; NR];
    type Left = [f32; 2];
    type Right = [bf16; 2 * NR];

    const LANES: usize = NR;
    const PAIR: usize = 2;

    #[inline(always)]
    unsafe fn zero() -> Self::Sum {
        [0.0; NR]
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::Sum {
        // SAFETY: the contract of the trait: `from` is readable for `LANES` floats.
        unsafe { from.cast::<[f32; NR]>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, sum: Self::Sum) {
        // SAFETY: the contract of the trait: `to` is writable for `LANES` floats.
        unsafe { to.cast::<[f32; NR]>().write_unaligned(sum) }
    }

    #[inline(always)]
    unsafe fn left(from: *const bf16) -> Self::Left {
        // SAFETY: the contract of the trait: `from` is readable for one pair of bf16.
        unsafe { [(*from).widen(), (*from.add(1)).widen()] }
    }

    #[inline(always)]
    unsafe fn right(from: *const bf16) -> Self::Right {
        // SAFETY: the contract of the trait: `from` is readable for `LANES` pairs of bf16.
        unsafe { from.cast::<[bf16; 2 * NR]>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn multiply_add(mut sum: Self::Sum, left: Self::Left, right: Self::Right) -> Self::Sum {
        for i in 0..NR {
            sum[i] += left[0] * right[2 * i].widen();
            sum[i] += left[1] * right[2 * i + 1].widen();
        }
        sum
    }
}
