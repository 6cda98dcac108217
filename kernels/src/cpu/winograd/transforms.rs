//! One-dimensional transforms of F(4×4, 3×3) and their application to two dimensions, on [`NR`] channels
//! at a time.

use super::super::gemm::micro_kernel::NR;
use super::{IN_TILE, OUT_TILE};

/// The finite points are 0, ±`A` and ±`B`; the last point is ∞.
const A: f32 = 0.625;
const B: f32 = 1.5;

/// Sixteen adjacent channels.
pub type Lanes = [f32; NR];

/// `transform` of every row, then of every column. The result is transposed. Since this holds for inputs and
/// filters alike, their products are transposed as well, and the output transform restores the orientation.
#[inline(always)]
pub fn transform_2d<const N: usize, const M: usize>(
    square: &[[Lanes; N]; N],
    transform: impl Fn(&[Lanes], usize, &mut [Lanes; M]),
) -> [[Lanes; M]; M] {
    let mut rows = [[[0.0; NR]; M]; N];
    for (row, to) in square.iter().zip(&mut rows) {
        transform(row, 1, to);
    }
    let mut out = [[[0.0; NR]; M]; M];
    for (column, to) in out.iter_mut().enumerate() {
        transform(&rows.as_flattened()[column..], M, to);
    }
    out
}

/// Filter transform of three taps, `stride` apart: the values at the points of the polynomial with the taps
/// as its coefficients, each divided by the product of the point's distances to the other points (the
/// denominators of Lagrange interpolation).
#[inline(always)]
pub fn filter_transform(taps: &[Lanes], stride: usize, out: &mut [Lanes; IN_TILE]) {
    const AT_A: f32 = 1.0 / (2.0 * A * A * (A * A - B * B));
    const AT_B: f32 = 1.0 / (2.0 * B * B * (B * B - A * A));
    let (g0, g1, g2) = (&taps[0], &taps[stride], &taps[2 * stride]);
    for lane in 0..NR {
        let (g0, g1, g2) = (g0[lane], g1[lane], g2[lane]);
        let (even_a, odd_a) = (g0 + A * A * g2, A * g1);
        let (even_b, odd_b) = (g0 + B * B * g2, B * g1);
        out[0][lane] = g0 / (A * A * B * B);
        out[1][lane] = (even_a + odd_a) * AT_A;
        out[2][lane] = (even_a - odd_a) * AT_A;
        out[3][lane] = (even_b + odd_b) * AT_B;
        out[4][lane] = (even_b - odd_b) * AT_B;
        out[5][lane] = g2;
    }
}

/// Input transform of six pixels, `stride` apart: for every point, their dot product with the coefficients of
/// the polynomial that vanishes at all other points, such as x(x + A)(x² − B²) for the point A.
#[inline(always)]
pub fn input_transform(inputs: &[Lanes], stride: usize, out: &mut [Lanes; IN_TILE]) {
    let (d0, d1, d2) = (&inputs[0], &inputs[stride], &inputs[2 * stride]);
    let (d3, d4, d5) = (&inputs[3 * stride], &inputs[4 * stride], &inputs[5 * stride]);
    for lane in 0..NR {
        let (d0, d1, d2, d3, d4, d5) = (d0[lane], d1[lane], d2[lane], d3[lane], d4[lane], d5[lane]);
        let (even_a, odd_a) = (d4 - B * B * d2, A * (d3 - B * B * d1));
        let (even_b, odd_b) = (d4 - A * A * d2, B * (d3 - A * A * d1));
        out[0][lane] = A * A * B * B * d0 - (A * A + B * B) * d2 + d4;
        out[1][lane] = even_a + odd_a;
        out[2][lane] = even_a - odd_a;
        out[3][lane] = even_b + odd_b;
        out[4][lane] = even_b - odd_b;
        out[5][lane] = A * A * B * B * d1 - (A * A + B * B) * d3 + d5;
    }
}

/// Output transform of the products at six points, `stride` apart: output i is the sum over the points of
/// their power i times the product there. The point ∞ contributes only to the highest power, 3.
#[inline(always)]
pub fn output_transform(points: &[Lanes], stride: usize, out: &mut [Lanes; OUT_TILE]) {
    let (zero, a, minus_a) = (&points[0], &points[stride], &points[2 * stride]);
    let (b, minus_b, infinity) = (&points[3 * stride], &points[4 * stride], &points[5 * stride]);
    for lane in 0..NR {
        let (even_a, odd_a) = (a[lane] + minus_a[lane], a[lane] - minus_a[lane]);
        let (even_b, odd_b) = (b[lane] + minus_b[lane], b[lane] - minus_b[lane]);
        out[0][lane] = zero[lane] + even_a + even_b;
        out[1][lane] = A * odd_a + B * odd_b;
        out[2][lane] = A * A * even_a + B * B * even_b;
        out[3][lane] = A * A * A * odd_a + B * B * B * odd_b + infinity[lane];
    }
}
