//! The microkernel for NEON's products of bf16 matrices (FEAT_BF16): one instruction multiplies two rows by two
//! columns, four elements of each, where a multiply-add has four products in all.
//!
//! Its loop is its own, since the one over [`Registers`](super::gemm::micro_kernel::Registers) takes rows and lines one by
//! one. The packed order is the same: two lines woven into each other are columns of four elements.

use std::arch::aarch64::*;
use std::arch::asm;

use half::bf16;

use super::gemm::micro_kernel::{Microkernel, NR, Strip};

/// bf16. Two pairs of rows have 16 sums; with a third, 24, the compiler runs out of registers and moves sums about.
pub const BF16: Microkernel<bf16> = Microkernel { max_rows: 4, max_groups: 1, run: choose };

/// Vectors of columns in a group.
const QUADS: usize = NR / 4;

/// Per pair of rows and four columns: the sums of the first two columns, then those of the last two. In a register
/// they are row by row.
type Sums<const PAIRS: usize> = [[[float32x4_t; 2]; QUADS]; PAIRS];

/// # Safety
/// As for [`Microkernel::run`].
#[target_feature(enable = "neon,bf16")]
unsafe fn choose(rows: usize, groups: usize, strip: &Strip<bf16>) {
    // SAFETY: the caller's promise.
    unsafe {
        match (rows, groups) {
            (1 | 2, 1) => run::<1>(rows, strip),
            (3 | 4, 1) => run::<2>(rows, strip),
            _ => unreachable!("a microkernel was given {rows} rows and {groups} groups"),
        }
    }
}

/// # Safety
/// As for [`Microkernel::run`].
#[inline(always)]
unsafe fn run<const PAIRS: usize>(rows: usize, strip: &Strip<bf16>) {
    // A row without a second one is computed, and written, twice.
    let rows_of = |pair: usize| [2 * pair, (2 * pair + 1).min(rows - 1)];
    // SAFETY: the caller's promise about the pointers of `strip`; every offset below stays within rows × columns ×
    // steps × segments. FEAT_BF16 is the caller's too.
    unsafe {
        let sum_at = |row: usize, quad: usize| strip.sums.add(row * strip.sums_stride + 4 * quad);
        let mut sums: Sums<PAIRS> = [[[vdupq_n_f32(0.); 2]; QUADS]; PAIRS];
        if strip.accumulate {
            for (pair, sums) in sums.iter_mut().enumerate() {
                for (quad, sums) in sums.iter_mut().enumerate() {
                    *sums = transpose(rows_of(pair).map(|row| vld1q_f32(sum_at(row, quad))));
                }
            }
        }
        // From here on an element is a pair of bf16.
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

/// Adds the products of the rows, from `step` on, and of as many `LINES`: two, or one with zeros for the second.
///
/// # Safety
/// The rows and the lines have that many elements, and the CPU FEAT_BF16.
#[inline(always)]
unsafe fn multiply<const PAIRS: usize, const LINES: usize>(
    sums: &mut Sums<PAIRS>,
    rows: &[[*const u32; 2]; PAIRS],
    step: usize,
    lines: *const u32,
) {
    // SAFETY: the caller's promise.
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

/// Two rows of four columns as two columns of both rows and the other two, and back.
#[inline(always)]
fn transpose(of: [float32x4_t; 2]) -> [float32x4_t; 2] {
    // SAFETY: NEON is part of the architecture.
    unsafe {
        let (a, b) = (vreinterpretq_f64_f32(of[0]), vreinterpretq_f64_f32(of[1]));
        [vreinterpretq_f32_f64(vzip1q_f64(a, b)), vreinterpretq_f32_f64(vzip2q_f64(a, b))]
    }
}

/// `sums`, of two rows by two columns, with the products of four bf16 of each row and each column added. Rust has
/// the instruction only as assembly.
///
/// # Safety
/// The CPU must have FEAT_BF16, and the function that this becomes part of must have it switched on.
#[inline(always)]
pub unsafe fn multiply_add(mut sums: float32x4_t, rows: uint32x4_t, columns: uint32x4_t) -> float32x4_t {
    // SAFETY: the caller's promise; the instruction sets no flags, not even those of inexact results.
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
