//! Row operations on bf16 with AVX-512 BF16 intrinsics. They compute the same as the loops of `multiversion`,
//! with instructions that the compiler does not generate from plain Rust: fused multiply-add, and bf16
//! rounding, powers of two and reciprocals in one instruction each. The results differ from those of the
//! loops in the last bits, with the same distance from the definition.

use std::arch::x86_64::*;
use std::f32::consts::LOG2_E;
use std::mem::MaybeUninit;

use half::bf16;

use super::Activation;
use super::row_kernels::RowKernels;
use super::vector_math::QUICK_GELU;

/// Row operations for CPUs with AVX-512 F, BW, DQ, VL and BF16. Must not be used on others.
pub struct Bf16Rows;

const LANES: usize = 16;
const ALL_LANES: __mmask16 = !0;

/// Declares methods whose bodies are compiled with the instruction set enabled.
macro_rules! for_avx512_bf16 {
    ($(fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block)*) => {$(
        fn $name(&self, $($arg: $ty),*) $(-> $ret)? {
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
            fn body($($arg: $ty),*) $(-> $ret)? $body

            // SAFETY: a `Bf16Rows` is only used on CPUs with these features.
            unsafe { body($($arg),*) }
        }
    )*};
}

impl RowKernels<bf16> for Bf16Rows {
    for_avx512_bf16! {
        fn soften(
            scores: &mut [f32],
            kv_len: usize,
            scale: f32,
            state: &mut (f32, f32),
            probs: &mut [bf16],
        ) -> f32 {
            let (row_max, row_sum) = state;
            let scores = &scores[..kv_len];
            let (probs, padding) = probs.split_at_mut(kv_len);
            let mut lanes = _mm512_set1_ps(f32::NEG_INFINITY);
            for_each_vector(kv_len, |at, mask| {
                lanes = _mm512_mask_max_ps(lanes, mask, lanes, load_f32(scores, at, mask));
            });
            let new_max = (_mm512_reduce_max_ps(lanes) * scale).max(*row_max);
            // Before the first keys the sum is empty.
            let rescale = if *row_max == f32::NEG_INFINITY { 0.0 } else { (*row_max - new_max).exp() };

            let (factor, shift) = (_mm512_set1_ps(scale * LOG2_E), _mm512_set1_ps(new_max * LOG2_E));
            let mut lanes = _mm512_setzero_ps();
            for_each_vector(kv_len, |at, mask| {
                let e = exp2(_mm512_fmsub_ps(load_f32(scores, at, mask), factor, shift));
                lanes = _mm512_mask_add_ps(lanes, mask, lanes, e);
                store_bf16(e, as_uninit(probs), at, mask);
            });
            padding.fill(bf16::ZERO);
            *row_max = new_max;
            *row_sum = *row_sum * rescale + _mm512_reduce_add_ps(lanes);
            rescale
        }

        fn store(sums: &[f32], factor: f32, out: &mut [MaybeUninit<bf16>]) {
            let (sums, factor) = (&sums[..out.len()], _mm512_set1_ps(factor));
            for_each_vector(sums.len(), |at, mask| {
                store_bf16(_mm512_mul_ps(load_f32(sums, at, mask), factor), out, at, mask);
            });
        }

        fn finish(
            sums: &[f32],
            bias: &[f32],
            residual: &[bf16],
            activation: Activation,
            out: &mut [MaybeUninit<bf16>],
        ) {
            let len = out.len();
            let (sums, bias) = (&sums[..len], &bias[..len]);
            let sum = |at, mask| _mm512_add_ps(load_f32(sums, at, mask), load_f32(bias, at, mask));
            if residual.is_empty() {
                for_each_vector(len, |at, mask| {
                    store_bf16(activate(sum(at, mask), activation), out, at, mask);
                });
            } else {
                let residual = &residual[..len];
                for_each_vector(len, |at, mask| {
                    let sum = _mm512_add_ps(sum(at, mask), load_bf16(residual, at, mask));
                    store_bf16(activate(sum, activation), out, at, mask);
                });
            }
        }

        fn finish_geglu(values: [&[f32]; 2], gates: [&[f32]; 2], out: &mut [MaybeUninit<bf16>]) {
            let len = out.len();
            let ([value, value_bias], [gate, gate_bias]) =
                (values.map(|values| &values[..len]), gates.map(|gates| &gates[..len]));
            for_each_vector(len, |at, mask| {
                let value = _mm512_add_ps(load_f32(value, at, mask), load_f32(value_bias, at, mask));
                let gate = _mm512_add_ps(load_f32(gate, at, mask), load_f32(gate_bias, at, mask));
                store_bf16(_mm512_mul_ps(value, gelu(gate)), out, at, mask);
            });
        }

        fn add_up(x: &[bf16], origins: &[f32], sums: &mut [f32], squares: &mut [f32]) {
            let channels = sums.len();
            let (origins, squares) = (&origins[..channels], &mut squares[..channels]);
            // The inner loop runs over the rows, with the sums of sixteen channels in registers.
            for_each_vector(channels, |at, mask| {
                let origin = load_f32(origins, at, mask);
                let (mut sum, mut square) = (load_f32(sums, at, mask), load_f32(squares, at, mask));
                for row in x.chunks_exact(channels) {
                    let x = _mm512_sub_ps(load_bf16(row, at, mask), origin);
                    sum = _mm512_add_ps(sum, x);
                    square = _mm512_fmadd_ps(x, x, square);
                }
                store_f32(sum, sums, at, mask);
                store_f32(square, squares, at, mask);
            });
        }

        fn apply(x: &[bf16], coefficients: [&[f32]; 3], then_silu: bool, out: &mut [MaybeUninit<bf16>]) {
            let [origin, scale, shift] = coefficients;
            let channels = origin.len();
            let (scale, shift) = (&scale[..channels], &shift[..channels]);
            for (x, out) in x.chunks_exact(channels).zip(out.chunks_exact_mut(channels)) {
                let normalised = |at, mask| {
                    let x = _mm512_sub_ps(load_bf16(x, at, mask), load_f32(origin, at, mask));
                    _mm512_fmadd_ps(x, load_f32(scale, at, mask), load_f32(shift, at, mask))
                };
                if then_silu {
                    for_each_vector(channels, |at, mask| store_bf16(silu(normalised(at, mask)), out, at, mask));
                } else {
                    for_each_vector(channels, |at, mask| store_bf16(normalised(at, mask), out, at, mask));
                }
            }
        }

        fn layer_norm(
            x: &[bf16],
            affine: [&[f32]; 2],
            added: &[bf16],
            eps: f32,
            out: &mut [MaybeUninit<bf16>],
        ) {
            let channels = x.len();
            let [weight, bias] = affine.map(|values| &values[..channels]);
            let out = &mut out[..channels];
            let mut lanes = _mm512_setzero_ps();
            for_each_vector(channels, |at, mask| lanes = _mm512_add_ps(lanes, load_bf16(x, at, mask)));
            let mean = _mm512_set1_ps(_mm512_reduce_add_ps(lanes) / channels as f32);
            let mut lanes = _mm512_setzero_ps();
            for_each_vector(channels, |at, mask| {
                let x = _mm512_maskz_sub_ps(mask, load_bf16(x, at, mask), mean);
                lanes = _mm512_fmadd_ps(x, x, lanes);
            });
            let variance = _mm512_reduce_add_ps(lanes) / channels as f32;
            let scale = _mm512_set1_ps(1.0 / (variance + eps).sqrt());
            let normalised = |at, mask| {
                let x = _mm512_mul_ps(_mm512_sub_ps(load_bf16(x, at, mask), mean), scale);
                _mm512_fmadd_ps(x, load_f32(weight, at, mask), load_f32(bias, at, mask))
            };
            if added.is_empty() {
                for_each_vector(channels, |at, mask| store_bf16(normalised(at, mask), out, at, mask));
            } else {
                let added = &added[..channels];
                let sum = |at, mask| _mm512_add_ps(normalised(at, mask), load_bf16(added, at, mask));
                for_each_vector(channels, |at, mask| store_bf16(sum(at, mask), out, at, mask));
            }
        }
    }
}

/// Calls `f(at, mask)` for every vector of sixteen elements of a slice of `len`: `at` is the index of its
/// first element, and `mask` has a bit for every lane within the slice.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
fn for_each_vector(len: usize, mut f: impl FnMut(usize, __mmask16)) {
    let full = len / LANES * LANES;
    for at in (0..full).step_by(LANES) {
        f(at, ALL_LANES);
    }
    if full < len {
        f(full, (1 << (len - full)) - 1);
    }
}

/// `activation` of every lane; GEGLU has its own method and is the identity here.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
fn activate(x: __m512, activation: Activation) -> __m512 {
    match activation {
        Activation::None | Activation::Geglu => x,
        Activation::Silu => silu(x),
        Activation::Gelu => gelu(x),
    }
}

/// 2^x with a relative error below 8e-5; underflows to 0 and overflows to infinity; NaN is propagated. The
/// cubic for the fraction in 0..1 was fitted for minimal relative error.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
fn exp2(x: __m512) -> __m512 {
    // x − ⌊x⌋, with floating-point exceptions suppressed.
    let r = _mm512_reduce_ps::<9>(x);
    let p = _mm512_set1_ps(0.078_024_514);
    let p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.226_067_19));
    let p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.695_833_5));
    let p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.999_925_2));
    _mm512_scalef_ps(p, x)
}

/// SiLU with a relative error below 1.5e-4.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub fn silu(x: __m512) -> __m512 {
    let e = exp2(_mm512_mul_ps(x, _mm512_set1_ps(-LOG2_E)));
    _mm512_mul_ps(x, _mm512_rcp14_ps(_mm512_add_ps(e, _mm512_set1_ps(1.0))))
}

/// GELU by the polynomial of `vector_math::quick_gelu`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub fn gelu(x: __m512) -> __m512 {
    // If an operand is NaN, min and max return the second one, so a NaN in x is propagated.
    let z = _mm512_min_ps(_mm512_set1_ps(4.0), x);
    let z = _mm512_max_ps(_mm512_set1_ps(-4.0), z);
    let u = _mm512_mul_ps(z, z);
    let [first, rest @ ..] = QUICK_GELU;
    let mut p = _mm512_set1_ps(first);
    for factor in rest {
        p = _mm512_fmadd_ps(p, u, _mm512_set1_ps(factor));
    }
    _mm512_mul_ps(x, _mm512_fmadd_ps(z, p, _mm512_set1_ps(0.5)))
}

/// Loads `x[at..]`; lanes outside the mask are 0.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
fn load_f32(x: &[f32], at: usize, mask: __mmask16) -> __m512 {
    debug_assert!(at + mask.count_ones() as usize <= x.len());
    // SAFETY: callers get `at` and `mask` from `for_each_vector` for at most the length of `x`, so every lane
    // in the mask is within `x`; masked lanes are not read.
    unsafe { _mm512_maskz_loadu_ps(mask, x.as_ptr().add(at)) }
}

/// Loads `x[at..]`, widened to f32; lanes outside the mask are 0.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
fn load_bf16(x: &[bf16], at: usize, mask: __mmask16) -> __m512 {
    debug_assert!(at + mask.count_ones() as usize <= x.len());
    // SAFETY: as in `load_f32`; a bf16 has 16 bits.
    let x = unsafe { _mm256_maskz_loadu_epi16(mask, x.as_ptr().add(at).cast()) };
    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(x)))
}

/// Stores the lanes in the mask to `to[at..]`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
fn store_f32(x: __m512, to: &mut [f32], at: usize, mask: __mmask16) {
    debug_assert!(at + mask.count_ones() as usize <= to.len());
    // SAFETY: as in `load_f32`; masked lanes are not written.
    unsafe { _mm512_mask_storeu_ps(to.as_mut_ptr().add(at), mask, x) }
}

/// Rounds to bf16 and stores the lanes in the mask to `to[at..]`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
fn store_bf16(x: __m512, to: &mut [MaybeUninit<bf16>], at: usize, mask: __mmask16) {
    debug_assert!(at + mask.count_ones() as usize <= to.len());
    // SAFETY: as in `store_f32`; the vectors of sixteen bf16 and of 256 bits have the same size.
    unsafe {
        let bits: __m256i = std::mem::transmute(_mm512_cvtneps_pbh(x));
        _mm256_mask_storeu_epi16(to.as_mut_ptr().add(at).cast(), mask, bits);
    }
}

/// View of initialised values as an output buffer.
fn as_uninit(values: &mut [bf16]) -> &mut [MaybeUninit<bf16>] {
    // SAFETY: the layouts are the same, and `store_bf16` writes only initialised values through the view.
    unsafe { &mut *(std::ptr::from_mut(values) as *mut [MaybeUninit<bf16>]) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::Isa;

    /// The vector functions, applied to slices.
    struct Functions;

    type Function = fn(&Functions, &[f32], &mut [f32]);

    impl Functions {
        for_avx512_bf16! {
            fn exp2_slice(x: &[f32], y: &mut [f32]) {
                for_each_vector(x.len(), |at, mask| store_f32(exp2(load_f32(x, at, mask)), y, at, mask));
            }

            fn silu_slice(x: &[f32], y: &mut [f32]) {
                for_each_vector(x.len(), |at, mask| store_f32(silu(load_f32(x, at, mask)), y, at, mask));
            }

            fn gelu_slice(x: &[f32], y: &mut [f32]) {
                for_each_vector(x.len(), |at, mask| store_f32(gelu(load_f32(x, at, mask)), y, at, mask));
            }
        }
    }

    fn apply(function: Function, x: &[f32]) -> Vec<f32> {
        let mut y = vec![0.0; x.len()];
        function(&Functions, x, &mut y);
        y
    }

    #[test]
    fn errors_of_the_vector_functions_are_far_below_bf16_rounding() {
        if !Isa::available().contains(&Isa::Avx512Bf16) {
            eprintln!("skipped: this CPU lacks AVX-512 BF16");
            return;
        }
        // The length is not a multiple of a vector's.
        let x: Vec<f32> = (-2505..2505).map(|i| i as f32 / 20.0).collect();
        for (x, y) in x.iter().zip(apply(Functions::exp2_slice, &x)) {
            let want = f64::from(*x).exp2();
            assert!((f64::from(y) - want).abs() <= 8e-5 * want, "2^{x}: {y:e}");
        }
        for (x, y) in x.iter().zip(apply(Functions::silu_slice, &x)).filter(|(x, _)| **x > -87.0) {
            let wide = f64::from(*x);
            let want = wide / (1.0 + (-wide).exp());
            assert!((f64::from(y) - want).abs() <= 1.5e-4 * want.abs(), "silu({x}): {y:e}");
        }
        for (x, y) in x.iter().zip(apply(Functions::gelu_slice, &x)) {
            let want = crate::cpu::vector_math::gelu(*x);
            assert!((y - want).abs() <= 4.1e-5 * x.abs(), "gelu({x}): {y:e}, not {want:e}");
        }
    }

    #[test]
    fn infinite_nan_and_huge_arguments_give_their_limits() {
        if !Isa::available().contains(&Isa::Avx512Bf16) {
            eprintln!("skipped: this CPU lacks AVX-512 BF16");
            return;
        }
        assert_eq!(
            apply(Functions::exp2_slice, &[f32::NEG_INFINITY, -1e30, 1e30]),
            [0.0, 0.0, f32::INFINITY]
        );
        assert_eq!(apply(Functions::silu_slice, &[f32::MIN, -1000.0, 0.0]), [0.0, 0.0, 0.0]);
        for function in [Functions::silu_slice as Function, Functions::gelu_slice] {
            let y = apply(function, &[f32::NAN, 1e30, 60.0]);
            assert!(
                y[0].is_nan() && y[1..].iter().zip([1e30, 60.0]).all(|(y, x)| (y - x).abs() <= 1e-4 * x),
                "{y:?}"
            );
        }
        assert!(apply(Functions::exp2_slice, &[f32::NAN])[0].is_nan());
    }
}
