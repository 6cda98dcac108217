//! Operations on rows of bf16 with AVX-512 BF16. The same as the loops that `multiversion` compiles, with what it
//! cannot make of plain Rust: sums in one rounding, and bf16, powers of two and reciprocals as single instructions.
//! Their results are not bit for bit those of the loops, but as near to the definition.

use std::mem::MaybeUninit;

use super::Activation;

/// The operations, for an element and an instruction set ([`super::Element::row_kernels`]). What they do is said at the
/// functions of the same names in `flash.rs`, `epilogue.rs`, `group_norm.rs` and `layer_norm.rs`.
pub trait RowKernels<T>: Sync {
    fn soften(
        &self,
        scores: &mut [f32],
        count: usize,
        scale: f32,
        running: &mut (f32, f32),
        weights: &mut [T],
    ) -> f32;

    fn store(&self, sums: &[f32], by: f32, out: &mut [MaybeUninit<T>]);

    fn finish(
        &self,
        sums: &[f32],
        bias: &[f32],
        residual: &[T],
        activation: Activation,
        out: &mut [MaybeUninit<T>],
    );

    fn finish_geglu(&self, values: [&[f32]; 2], gates: [&[f32]; 2], out: &mut [MaybeUninit<T>]);

    fn add_up(&self, x: &[T], origins: &[f32], sums: &mut [f32], squares: &mut [f32]);

    /// `lines`: origin, scale and shift of every channel.
    fn apply(&self, x: &[T], lines: [&[f32]; 3], then_silu: bool, out: &mut [MaybeUninit<T>]);

    /// `affine`: weight and bias of every channel; nothing is added where `added` is empty.
    fn layer_norm(&self, x: &[T], affine: [&[f32]; 2], added: &[T], eps: f32, out: &mut [MaybeUninit<T>]);
}

#[cfg(target_arch = "x86_64")]
pub use avx512::{Bf16Rows, gelu, silu};

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::*;
    use std::f32::consts::LOG2_E;
    use std::mem::MaybeUninit;

    use half::bf16;

    use super::{Activation, RowKernels};
    use crate::cpu::vector_math::QUICK_GELU;

    /// Only for machines with AVX-512 F, BW, DQ, VL and BF16.
    pub struct Bf16Rows;

    const LANES: usize = 16;
    const ALL: __mmask16 = !0;

    /// Makes each function one for the instruction set, within a method.
    macro_rules! for_avx512_bf16 {
        ($(fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block)*) => {$(
            fn $name(&self, $($arg: $ty),*) $(-> $ret)? {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
                fn body($($arg: $ty),*) $(-> $ret)? $body

                // SAFETY: `self` is only given out on machines that have it.
                unsafe { body($($arg),*) }
            }
        )*};
    }

    impl RowKernels<bf16> for Bf16Rows {
        for_avx512_bf16! {
            fn soften(
                scores: &mut [f32], count: usize, scale: f32, running: &mut (f32, f32), weights: &mut [bf16],
            ) -> f32 {
                let scores = &scores[..count];
                let (weights, after) = weights.split_at_mut(count);
                let mut lanes = _mm512_set1_ps(f32::NEG_INFINITY);
                each(count, |at, mask| {
                    lanes = _mm512_mask_max_ps(lanes, mask, lanes, floats(scores, at, mask));
                });
                let largest = (_mm512_reduce_max_ps(lanes) * scale).max(running.0);
                // Nothing was summed before the first keys.
                let shrink = if running.0 == f32::NEG_INFINITY { 0. } else { (running.0 - largest).exp() };

                let (factor, shift) = (_mm512_set1_ps(scale * LOG2_E), _mm512_set1_ps(largest * LOG2_E));
                let mut lanes = _mm512_setzero_ps();
                each(count, |at, mask| {
                    let e = exp2(_mm512_fmsub_ps(floats(scores, at, mask), factor, shift));
                    lanes = _mm512_mask_add_ps(lanes, mask, lanes, e);
                    put(e, uninit(weights), at, mask);
                });
                after.fill(bf16::ZERO);
                *running = (largest, running.1 * shrink + _mm512_reduce_add_ps(lanes));
                shrink
            }

            fn store(sums: &[f32], by: f32, out: &mut [MaybeUninit<bf16>]) {
                let (sums, by) = (&sums[..out.len()], _mm512_set1_ps(by));
                each(sums.len(), |at, mask| put(_mm512_mul_ps(floats(sums, at, mask), by), out, at, mask));
            }

            fn finish(
                sums: &[f32], bias: &[f32], residual: &[bf16], activation: Activation, out: &mut [MaybeUninit<bf16>],
            ) {
                let len = out.len();
                let (sums, bias) = (&sums[..len], &bias[..len]);
                let sum = |at, mask| _mm512_add_ps(floats(sums, at, mask), floats(bias, at, mask));
                match residual.is_empty() {
                    true => each(len, |at, mask| put(activated(sum(at, mask), activation), out, at, mask)),
                    false => {
                        let residual = &residual[..len];
                        each(len, |at, mask| {
                            let sum = _mm512_add_ps(sum(at, mask), wide(residual, at, mask));
                            put(activated(sum, activation), out, at, mask);
                        });
                    }
                }
            }

            fn finish_geglu(values: [&[f32]; 2], gates: [&[f32]; 2], out: &mut [MaybeUninit<bf16>]) {
                let len = out.len();
                let ([value, value_bias], [gate, gate_bias]) =
                    (values.map(|values| &values[..len]), gates.map(|gates| &gates[..len]));
                each(len, |at, mask| {
                    let value = _mm512_add_ps(floats(value, at, mask), floats(value_bias, at, mask));
                    let gate = _mm512_add_ps(floats(gate, at, mask), floats(gate_bias, at, mask));
                    put(_mm512_mul_ps(value, gelu(gate)), out, at, mask);
                });
            }

            fn add_up(x: &[bf16], origins: &[f32], sums: &mut [f32], squares: &mut [f32]) {
                let channels = sums.len();
                let (origins, squares) = (&origins[..channels], &mut squares[..channels]);
                // Down the rows, the sums of a few channels in registers.
                each(channels, |at, mask| {
                    let origin = floats(origins, at, mask);
                    let (mut sum, mut square) = (floats(sums, at, mask), floats(squares, at, mask));
                    for row in x.chunks_exact(channels) {
                        let x = _mm512_sub_ps(wide(row, at, mask), origin);
                        sum = _mm512_add_ps(sum, x);
                        square = _mm512_fmadd_ps(x, x, square);
                    }
                    put_floats(sum, sums, at, mask);
                    put_floats(square, squares, at, mask);
                });
            }

            fn apply(x: &[bf16], lines: [&[f32]; 3], then_silu: bool, out: &mut [MaybeUninit<bf16>]) {
                let [origin, scale, shift] = lines;
                let channels = origin.len();
                let (scale, shift) = (&scale[..channels], &shift[..channels]);
                for (x, out) in x.chunks_exact(channels).zip(out.chunks_exact_mut(channels)) {
                    let normal = |at, mask| {
                        let x = _mm512_sub_ps(wide(x, at, mask), floats(origin, at, mask));
                        _mm512_fmadd_ps(x, floats(scale, at, mask), floats(shift, at, mask))
                    };
                    if then_silu {
                        each(channels, |at, mask| put(silu(normal(at, mask)), out, at, mask));
                    } else {
                        each(channels, |at, mask| put(normal(at, mask), out, at, mask));
                    }
                }
            }

            fn layer_norm(x: &[bf16], affine: [&[f32]; 2], added: &[bf16], eps: f32, out: &mut [MaybeUninit<bf16>]) {
                let channels = x.len();
                let [weight, bias] = affine.map(|values| &values[..channels]);
                let out = &mut out[..channels];
                let mut lanes = _mm512_setzero_ps();
                each(channels, |at, mask| lanes = _mm512_add_ps(lanes, wide(x, at, mask)));
                let mean = _mm512_set1_ps(_mm512_reduce_add_ps(lanes) / channels as f32);
                let mut lanes = _mm512_setzero_ps();
                each(channels, |at, mask| {
                    let x = _mm512_maskz_sub_ps(mask, wide(x, at, mask), mean);
                    lanes = _mm512_fmadd_ps(x, x, lanes);
                });
                let variance = _mm512_reduce_add_ps(lanes) / channels as f32;
                let scale = _mm512_set1_ps(1. / (variance + eps).sqrt());
                let normal = |at, mask| {
                    let x = _mm512_mul_ps(_mm512_sub_ps(wide(x, at, mask), mean), scale);
                    _mm512_fmadd_ps(x, floats(weight, at, mask), floats(bias, at, mask))
                };
                if added.is_empty() {
                    each(channels, |at, mask| put(normal(at, mask), out, at, mask));
                } else {
                    let added = &added[..channels];
                    let sum = |at, mask| _mm512_add_ps(normal(at, mask), wide(added, at, mask));
                    each(channels, |at, mask| put(sum(at, mask), out, at, mask));
                }
            }
        }
    }

    /// `of(at, mask)` for sixteen lanes after the other; the mask has those that exist.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    fn each(len: usize, mut of: impl FnMut(usize, __mmask16)) {
        let whole = len / LANES * LANES;
        for at in (0..whole).step_by(LANES) {
            of(at, ALL);
        }
        if whole < len {
            of(whole, (1 << (len - whole)) - 1);
        }
    }

    /// What follows a sum.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    fn activated(x: __m512, activation: Activation) -> __m512 {
        match activation {
            Activation::None | Activation::Geglu => x,
            Activation::Silu => silu(x),
            Activation::Gelu => gelu(x),
        }
    }

    /// 2^x within 8e-5 of its size, from 0 to infinity; NaN stays NaN. The cubic, for fractions from 0 to 1, was fitted
    /// for relative error.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    fn exp2(x: __m512) -> __m512 {
        // x − ⌊x⌋, without exceptions.
        let r = _mm512_reduce_ps::<9>(x);
        let p = _mm512_set1_ps(0.078_024_514);
        let p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.226_067_19));
        let p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.695_833_5));
        let p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.999_925_2));
        _mm512_scalef_ps(p, x)
    }

    /// x · sigmoid(x) within 1.5e-4 of its size.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    pub fn silu(x: __m512) -> __m512 {
        let e = exp2(_mm512_mul_ps(x, _mm512_set1_ps(-LOG2_E)));
        _mm512_mul_ps(x, _mm512_rcp14_ps(_mm512_add_ps(e, _mm512_set1_ps(1.))))
    }

    /// x · Φ(x) by the polynomial of `vector_math::quick_gelu`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    pub fn gelu(x: __m512) -> __m512 {
        // The second operand comes out where one is NaN.
        let z = _mm512_min_ps(_mm512_set1_ps(4.), x);
        let z = _mm512_max_ps(_mm512_set1_ps(-4.), z);
        let u = _mm512_mul_ps(z, z);
        let [first, rest @ ..] = QUICK_GELU;
        let mut p = _mm512_set1_ps(first);
        for factor in rest {
            p = _mm512_fmadd_ps(p, u, _mm512_set1_ps(factor));
        }
        _mm512_mul_ps(x, _mm512_fmadd_ps(z, p, _mm512_set1_ps(0.5)))
    }

    /// `x[at..]`, zeros where the mask is 0.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    fn floats(x: &[f32], at: usize, mask: __mmask16) -> __m512 {
        debug_assert!(at + mask.count_ones() as usize <= x.len());
        // SAFETY: all callers walk by `each` over the length of `x`.
        unsafe { _mm512_maskz_loadu_ps(mask, x.as_ptr().add(at)) }
    }

    /// `x[at..]` widened, zeros where the mask is 0.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    fn wide(x: &[bf16], at: usize, mask: __mmask16) -> __m512 {
        debug_assert!(at + mask.count_ones() as usize <= x.len());
        // SAFETY: as in `floats`.
        let x = unsafe { _mm256_maskz_loadu_epi16(mask, x.as_ptr().add(at).cast()) };
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(x)))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    fn put_floats(x: __m512, to: &mut [f32], at: usize, mask: __mmask16) {
        debug_assert!(at + mask.count_ones() as usize <= to.len());
        // SAFETY: as in `floats`.
        unsafe { _mm512_mask_storeu_ps(to.as_mut_ptr().add(at), mask, x) }
    }

    /// `x`, rounded, to `to[at..]`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    fn put(x: __m512, to: &mut [MaybeUninit<bf16>], at: usize, mask: __mmask16) {
        debug_assert!(at + mask.count_ones() as usize <= to.len());
        // SAFETY: as in `floats`; sixteen bf16 are 256 bits.
        unsafe {
            let bits: __m256i = std::mem::transmute(_mm512_cvtneps_pbh(x));
            _mm256_mask_storeu_epi16(to.as_mut_ptr().add(at).cast(), mask, bits);
        }
    }

    /// Values as a place to write to.
    fn uninit(values: &mut [bf16]) -> &mut [MaybeUninit<bf16>] {
        // SAFETY: of the same layout; only whole bf16 are written to it (by `put`).
        unsafe { &mut *(std::ptr::from_mut(values) as *mut [MaybeUninit<bf16>]) }
    }

    #[cfg(test)]
    mod tests {
        use super::*;
        use crate::cpu::Isa;

        struct Functions;

        type Function = fn(&Functions, &[f32], &mut [f32]);

        impl Functions {
            for_avx512_bf16! {
                fn powers(x: &[f32], y: &mut [f32]) {
                    each(x.len(), |at, mask| put_floats(exp2(floats(x, at, mask)), y, at, mask));
                }

                fn silus(x: &[f32], y: &mut [f32]) {
                    each(x.len(), |at, mask| put_floats(silu(floats(x, at, mask)), y, at, mask));
                }

                fn gelus(x: &[f32], y: &mut [f32]) {
                    each(x.len(), |at, mask| put_floats(gelu(floats(x, at, mask)), y, at, mask));
                }
            }
        }

        fn of(function: Function, x: &[f32]) -> Vec<f32> {
            let mut y = vec![0.; x.len()];
            function(&Functions, x, &mut y);
            y
        }

        #[test]
        fn functions_are_far_below_the_rounding_of_bf16() {
            if !Isa::available().contains(&Isa::Avx512Bf16) {
                eprintln!("not run: no AVX-512 BF16 here");
                return;
            }
            // Not a whole number of vectors.
            let x: Vec<f32> = (-2505..2505).map(|i| i as f32 / 20.).collect();
            for (x, y) in x.iter().zip(of(Functions::powers, &x)) {
                let want = f64::from(*x).exp2();
                assert!((f64::from(y) - want).abs() <= 8e-5 * want, "2^{x}: {y:e}");
            }
            for (x, y) in x.iter().zip(of(Functions::silus, &x)).filter(|(x, _)| **x > -87.) {
                let wide = f64::from(*x);
                let want = wide / (1. + (-wide).exp());
                assert!((f64::from(y) - want).abs() <= 1.5e-4 * want.abs(), "silu({x}): {y:e}");
            }
            for (x, y) in x.iter().zip(of(Functions::gelus, &x)) {
                let want = crate::cpu::vector_math::gelu(*x);
                assert!((y - want).abs() <= 4.1e-5 * x.abs(), "gelu({x}): {y:e}, not {want:e}");
            }
        }

        #[test]
        fn what_is_not_finite_or_huge_stays_that() {
            if !Isa::available().contains(&Isa::Avx512Bf16) {
                eprintln!("not run: no AVX-512 BF16 here");
                return;
            }
            assert_eq!(of(Functions::powers, &[f32::NEG_INFINITY, -1e30, 1e30]), [0., 0., f32::INFINITY]);
            assert_eq!(of(Functions::silus, &[f32::MIN, -1000., 0.]), [0., 0., 0.]);
            for function in [Functions::silus as Function, Functions::gelus] {
                let y = of(function, &[f32::NAN, 1e30, 60.]);
                assert!(
                    y[0].is_nan() && y[1..].iter().zip([1e30, 60.]).all(|(y, x)| (y - x).abs() <= 1e-4 * x),
                    "{y:?}"
                );
            }
            assert!(of(Functions::powers, &[f32::NAN])[0].is_nan());
        }
    }
}
