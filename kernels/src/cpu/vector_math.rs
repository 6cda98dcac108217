//! Exponential and activations in straight-line f32, so that loops over them vectorise. No `mul_add`: the
//! versions for different instruction sets must agree.

/// e^x within 2 units in the last place; 0 below −87.3, large above 88.3, NaN stays NaN.
/// Reduction by powers of two and the polynomial of Cephes' `expf`.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.; // 1.5 · 2²³: adding it rounds to an integer in the low bits.
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
    let p = p * (r * r) + r + 1.;
    let exponent = shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23;
    let y = p * f32::from_bits(exponent);
    if x < -87.3 { 0. } else { y }
}

/// x · sigmoid(x).
#[inline(always)]
pub fn silu(x: f32) -> f32 {
    x / (1. + exp(-x))
}

/// x · Φ(x), the erf form, absolute error under 3e-7 · |x|.
/// Abramowitz and Stegun 7.1.26 for erfc of |x| / √2, so that the tail keeps its relative size.
#[inline(always)]
pub fn gelu(x: f32) -> f32 {
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1. / (1. + 0.327_591_1 * z);
    let p = 1.061_405_4;
    let p = p * t - 1.453_152;
    let p = p * t + 1.421_413_8;
    let p = p * t - 0.284_496_72;
    let p = p * t + 0.254_829_6;
    let tail = 0.5 * p * t * exp(-z * z);
    x * if x < 0. { tail } else { 1. - tail }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Φ by the power series of erf, in f64.
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
    fn exp_is_within_two_units_in_the_last_place() {
        for i in -8700..8800 {
            let x = i as f32 / 100.;
            let want = f64::from(x).exp();
            let error = (f64::from(exp(x)) - want).abs() / want;
            assert!(error < 2.4e-7, "exp({x}): {error:e}");
        }
        assert_eq!((exp(-1000.), exp(f32::NEG_INFINITY), exp(0.)), (0., 0., 1.));
        assert!(exp(f32::NAN).is_nan() && exp(1000.) > 1e38);
    }

    #[test]
    fn gelu_and_silu_follow_their_definitions() {
        for i in -400..400 {
            let x = i as f32 / 80.;
            let (wide, scale) = (f64::from(x), f64::from(x).abs().max(1e-3));
            let error = (f64::from(gelu(x)) - wide * normal_cdf(wide)).abs() / scale;
            assert!(error < 3e-7, "gelu({x}): {error:e}");
            let error = (f64::from(silu(x)) - wide / (1. + (-wide).exp())).abs() / scale;
            assert!(error < 3e-7, "silu({x}): {error:e}");
        }
    }
}
