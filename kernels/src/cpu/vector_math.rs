//! Exponential and activations as branch-free scalar f32 code that the compiler vectorises. No `mul_add`: all
//! instruction sets must compute the same bits.

/// e^x within 2 ULP. Below −87.3 the result is 0; above 88.3 it is e^88.3; NaN is propagated.
/// Range reduction by powers of two, then the polynomial of Cephes' `expf`.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // 1.5 · 2²³: adding it rounds to an integer, which is in the low bits of the sum.
    const ROUND: f32 = 12_582_912.0;
    let bounded = if x > 88.3 { 88.3 } else { x };
    let bounded = if bounded < -87.3 { -87.3 } else { bounded };
    let shifted = bounded * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = bounded - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_2e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let p = p * (r * r) + r + 1.0;
    let exponent = shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23;
    let y = p * f32::from_bits(exponent);
    if x < -87.3 { 0.0 } else { y }
}

/// SiLU: x · sigmoid(x).
#[inline(always)]
pub fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// GELU in the erf form, x · Φ(x), with an absolute error below 3e-7 · |x|.
/// Abramowitz and Stegun 7.1.26 approximates erfc(|x| / √2), which keeps the relative precision of the tail.
#[inline(always)]
pub fn gelu(x: f32) -> f32 {
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * z);
    let p = 1.061_405_4;
    let p = p * t - 1.453_152;
    let p = p * t + 1.421_413_8;
    let p = p * t - 0.284_496_72;
    let p = p * t + 0.254_829_6;
    let tail = 0.5 * p * t * exp(-z * z);
    x * if x < 0.0 { tail } else { 1.0 - tail }
}

/// e^x with a relative error below 8e-5, for results that are rounded to bf16 (relative error 2e-3). `x` must
/// be at most 88; below −87 the result is e^−87; NaN is propagated. The integer part of the power of two is
/// added to the exponent; its fraction is a cubic fitted for minimal relative error.
#[inline(always)]
pub fn quick_exp(x: f32) -> f32 {
    // As in `exp`.
    const ROUND: f32 = 12_582_912.0;
    let bounded = if x < -87.0 { -87.0 } else { x };
    let power = bounded * std::f32::consts::LOG2_E;
    let shifted = power + ROUND;
    let r = power - (shifted - ROUND);
    let p = 0.055_171_68;
    let p = p * r + 0.242_611_17;
    let p = p * r + 0.693_260_99;
    let p = p * r + 0.999_928_07;
    f32::from_bits(p.to_bits().wrapping_add(shifted.to_bits() << 23))
}

/// SiLU with a relative error below 8e-5.
#[inline(always)]
pub fn quick_silu(x: f32) -> f32 {
    x / (1.0 + quick_exp(if x < -87.0 { 87.0 } else { -x }))
}

/// Coefficients of the polynomial in z² that approximates (Φ(z) − ½) / z, highest power first.
pub const QUICK_GELU: [f32; 8] = [
    -1.278_791_3e-9,
    1.044_910_8e-7,
    -3.710_769e-6,
    7.620_407e-5,
    -1.021_134e-3,
    9.581_672e-3,
    -6.606_449e-2,
    0.398_805_7,
];

/// GELU in the erf form, x · Φ(x), with an absolute error below 4e-5 · |x|. Φ is ½ plus an odd polynomial
/// fitted for
/// |x| ≤ 4; it is 0 and 1 at the ends of this range and constant beyond.
#[inline(always)]
pub fn quick_gelu(x: f32) -> f32 {
    let z = if x > 4.0 { 4.0 } else { x };
    let z = if z < -4.0 { -4.0 } else { z };
    let u = z * z;
    let [first, rest @ ..] = QUICK_GELU;
    let mut p = first;
    for factor in rest {
        p = p * u + factor;
    }
    x * (0.5 + z * p)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Φ from the power series of erf, in f64.
    fn normal_cdf(x: f64) -> f64 {
        let z = x / std::f64::consts::SQRT_2;
        let (mut term, mut sum) = (z, z);
        for n in 1..200 {
            term *= -z * z / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        0.5 + sum / std::f64::consts::PI.sqrt()
    }

    #[test]
    fn exp_is_within_two_ulp() {
        for i in -8700..8800 {
            let x = i as f32 / 100.0;
            let want = f64::from(x).exp();
            let error = (f64::from(exp(x)) - want).abs() / want;
            assert!(error < 2.4e-7, "exp({x}): {error:e}");
        }
        assert_eq!((exp(-1000.0), exp(f32::NEG_INFINITY), exp(0.0)), (0.0, 0.0, 1.0));
        assert!(exp(f32::NAN).is_nan() && exp(1000.0) > 1e38);
    }

    #[test]
    fn errors_of_the_quick_versions_are_far_below_bf16_rounding() {
        for i in -8700..=8700 {
            let x = i as f32 / 100.0;
            let want = f64::from(x).exp();
            let error = (f64::from(quick_exp(x)) - want).abs() / want;
            assert!(error < 8e-5, "exp({x}): {error:e}");
            let wide = f64::from(x / 10.0);
            let want = wide / (1.0 + (-wide).exp());
            let error = (f64::from(quick_silu(x / 10.0)) - want).abs();
            assert!(error <= 8e-5 * want.abs(), "silu({wide}): {error:e}");
        }
        // The series for Φ is accurate in this range.
        for i in -500..=500 {
            let wide = f64::from(i) / 100.0;
            let error = (f64::from(quick_gelu(wide as f32)) - wide * normal_cdf(wide)).abs();
            assert!(error <= 4e-5 * wide.abs(), "gelu({wide}): {error:e}");
        }
        assert!(quick_exp(f32::NEG_INFINITY) < 1e-37 && quick_exp(f32::NAN).is_nan());
        for x in [5.0, 50.0, 1e9] {
            assert!(quick_gelu(-x).abs() <= 4e-5 * x && (quick_gelu(x) - x).abs() <= 4e-5 * x, "gelu({x})");
        }
        assert!(quick_silu(f32::MIN).abs() < 10.0);
        assert!(quick_gelu(f32::NAN).is_nan() && quick_silu(f32::NAN).is_nan());
    }

    #[test]
    fn gelu_and_silu_equal_their_definitions() {
        for i in -400..400 {
            let x = i as f32 / 80.0;
            let (wide, scale) = (f64::from(x), f64::from(x).abs().max(1e-3));
            let error = (f64::from(gelu(x)) - wide * normal_cdf(wide)).abs() / scale;
            assert!(error < 3e-7, "gelu({x}): {error:e}");
            let error = (f64::from(silu(x)) - wide / (1.0 + (-wide).exp())).abs() / scale;
            assert!(error < 3e-7, "silu({x}): {error:e}");
        }
    }
}
