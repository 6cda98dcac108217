//! Microkernel for FEAT_BF16, NEON's matrix product of bf16. One `bfmmla` multiplies two rows by two columns,
//! four elements of each: 16 products, where an f32 multiply-add has four.
//!
//! The loop over [`Registers`](super::gemm::micro_kernel::Registers) cannot express this, because it processes rows
//! and lines one by one, so this file has its own. The packed layout is the same: two lines, interleaved, are
//! columns of four elements.

use std::arch::aarch64::*;
use std::arch::asm;

use half::bf16;

use super::gemm::micro_kernel::{Microkernel, NR, Strip};

/// bf16. Four rows, two pairs, need 16 accumulators. With six rows, 24 accumulators, the compiler spills
/// registers.
pub const BF16: Microkernel<bf16> = Microkernel { max_rows: 4, max_groups: 1, run: choose };

/// Quads, of four columns, in a group.
const QUADS: usize = NR / 4;

/// Accumulators [pair of rows][quad][first or last two columns of the quad]. A register holds a 2×2 block,
/// row-major.
type Sums<const PAIRS: usize> = [[[float32x4_t; 2]; QUADS]; PAIRS];

/// # Safety
/// As for [`Microkernel::run`].
#[target_feature(enable = "neon,bf16")]
unsafe fn choose(rows: usize, groups: usize, strip: &Strip<bf16>) {
    // SAFETY: the caller upholds the contract of `Microkernel::run`.
    unsafe {
        match (rows, groups) {
            (1 | 2, 1) => run::<1>(rows, strip),
            (3 | 4, 1) => run::<2>(rows, strip),
            _ => unreachable!("microkernel called with {rows} rows and {groups} groups"),
        }
    }
}

/// # Safety
/// As for [`Microkernel::run`].
#[inline(always)]
unsafe fn run<const PAIRS: usize>(rows: usize, strip: &Strip<bf16>) {
    // If the number of rows is odd, the last row is computed and stored twice.
    let rows_of = |pair: usize| [2 * pair, (2 * pair + 1).min(rows - 1)];
    // SAFETY: the caller guarantees FEAT_BF16 and the pointers of `strip`; every offset below stays within
    // rows × columns × steps × segments.
    unsafe {
        let sum_at = |row: usize, quad: usize| strip.sums.add(row * strip.sums_stride + 4 * quad);
        let mut sums: Sums<PAIRS> = [[[vdupq_n_f32(0.0); 2]; QUADS]; PAIRS];
        if strip.accumulate {
            for (pair, sums) in sums.iter_mut().enumerate() {
                for (quad, sums) in sums.iter_mut().enumerate() {
                    *sums = transpose(rows_of(pair).map(|row| vld1q_f32(sum_at(row, quad))));
                }
            }
        }
        // From here on, pointers are to pairs of bf16.
        let mut lines = strip.columns.cast::<u32>();
        for segment in 0..strip.segments {
            let mut lefts = [[lines; 2]; PAIRS];
            for (pair, left) in lefts.iter_mut().enumerate() {
                *left = rows_of(pair).map(|row| {
                    let row = *strip.rows.add(segment * rows + row);
                    row.add(strip.shift).cast()
                });
            }
            for step in 0..strip.steps / 2 {
                multiply::<PAIRS, 2>(&mut sums, &lefts, 2 * step, lines);
                lines = lines.add(2 * NR);
            }
            if strip.steps % 2 == 1 {
                multiply::<PAIRS, 1>(&mut sums, &lefts, strip.steps - 1, lines);
                lines = lines.add(NR);
            }
        }
        for (pair, sums) in sums.iter().enumerate() {
            for (quad, sums) in sums.iter().enumerate() {
                for (row, sums) in rows_of(pair).into_iter().zip(transpose(*sums)) {
                    vst1q_f32(sum_at(row, quad), sums);
                }
            }
        }
    }
}

/// Adds the products of `LINES` lines with the rows' pairs from `step` on. `LINES` is 2, or 1 with zeros as
/// the second.
///
/// # Safety
/// The rows must be readable for `step + LINES` pairs and `lines` for `LINES` lines. The CPU must have
/// FEAT_BF16.
#[inline(always)]
unsafe fn multiply<const PAIRS: usize, const LINES: usize>(
    sums: &mut Sums<PAIRS>,
    rows: &[[*const u32; 2]; PAIRS],
    step: usize,
    lines: *const u32,
) {
    // SAFETY: the caller guarantees the pointers and FEAT_BF16; the reads are within `LINES` pairs of a row
    // and `LINES` lines.
    unsafe {
        let elements = |row: *const u32| match LINES {
            1 => vcreate_u32(u64::from(row.add(step).read_unaligned())),
            _ => vld1_u32(row.add(step)),
        };
        let mut lefts = [vdupq_n_u32(0); PAIRS];
        for (left, rows) in lefts.iter_mut().zip(rows) {
            *left = vcombine_u32(elements(rows[0]), elements(rows[1]));
        }
        for quad in 0..QUADS {
            let first = vld1q_u32(lines.add(4 * quad));
            let second = match LINES {
                1 => vdupq_n_u32(0),
                _ => vld1q_u32(lines.add(NR + 4 * quad)),
            };
            let columns = [vzip1q_u32(first, second), vzip2q_u32(first, second)];
            for (sums, left) in sums.iter_mut().zip(lefts) {
                for (sum, columns) in sums[quad].iter_mut().zip(columns) {
                    *sum = multiply_add(*sum, left, columns);
                }
            }
        }
    }
}

/// Converts between two rows of four columns and two 2×2 blocks, row-major; it is its own inverse.
#[inline(always)]
fn transpose(of: [float32x4_t; 2]) -> [float32x4_t; 2] {
    // SAFETY: NEON is part of the architecture.
    unsafe {
        let (a, b) = (vreinterpretq_f64_f32(of[0]), vreinterpretq_f64_f32(of[1]));
        [vreinterpretq_f32_f64(vzip1q_f64(a, b)), vreinterpretq_f32_f64(vzip2q_f64(a, b))]
    }
}

/// `bfmmla`: `sums`, a 2×2 block, plus the product of two rows and two columns of four bf16 each. Inline
/// assembly, because stable Rust has no intrinsic for it.
///
/// # Safety
/// The CPU must have FEAT_BF16, and the function into which this is inlined must enable it.
#[inline(always)]
pub unsafe fn multiply_add(mut sums: float32x4_t, rows: uint32x4_t, columns: uint32x4_t) -> float32x4_t {
    // SAFETY: the caller guarantees FEAT_BF16. The instruction changes no flags, not even the floating-point
    // exception flags.
    unsafe {
        asm!(
            "bfmmla {sums:v}.4s, {rows:v}.8h, {columns:v}.8h",
            sums = inout(vreg) sums,
            rows = in(vreg) rows,
            columns = in(vreg) columns,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}
