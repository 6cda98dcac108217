//! The matrix product by tiles: a strip of rows is copied, tile by tile, and multiplied by one pair of groups of
//! columns after the other while it is in the L1 cache; the weights of a task's columns stay in the L2 cache
//! until all its strips have passed.
//!
//! The summed dimension is walked as one, tap after tap, as the weights have it; whether a tile's 32 values are of
//! one tap or of several makes no difference after the copy.

use std::ops::Range;

use super::isa::multiversion;
use super::matmul::{Problem, Scratch, Task, pieces};
use super::microkernel::GROUP;
use super::tiles::{self, DEPTH, Left, Piece, SIDE, TileKernel};
use super::{Element, Packed};

/// Rows that are copied and multiplied together.
pub const STRIP: usize = SIDE * tiles::ROWS;
/// Rows that share a pass over the weights.
pub const ROWS: usize = 384;
/// Tiles of the summed dimension in a pass: a strip of rows and a pair of groups, 20 KB each, share the L1 cache.
const STEPS: usize = 10;

impl<T: Element> Problem<'_, T> {
    /// The sums of a task into `scratch.sums`, row-major with the width of [`Self::width`]; whole strips of them,
    /// whose last rows mean nothing where the task has none.
    pub(super) fn sum_by_tiles<'a>(
        &'a self,
        kernel: TileKernel<T>,
        task: &Task,
        zeros: &'a [T],
        scratch: &mut Scratch<'a, T>,
    ) {
        let (taps, channels, width) = (self.weights.taps, self.weights.padded_channels(), self.width(task));
        let summed = taps * channels;
        scratch.sums.resize(task.rows.len().next_multiple_of(STRIP) * width, 0.);
        if summed == 0 {
            scratch.sums.fill(0.);
            return;
        }
        scratch.strip.resize(STRIP * STEPS * DEPTH, T::default());
        scratch.rows.clear();
        self.source.each(task.rows.clone(), channels, zeros, |_, _, row| scratch.rows.push(row));

        let tiles = kernel.start();
        let steps = summed.div_ceil(DEPTH);
        let per_pass = steps.div_ceil(steps.div_ceil(STEPS));
        let strips = task.rows.len().div_ceil(STRIP);
        for pass in pieces(&(0..steps), per_pass) {
            let next_pass = pass.end..steps.min(pass.end + per_pass);
            for (strip, rows) in scratch.rows.chunks(STRIP * taps).enumerate() {
                let tiles_of_rows = (rows.len() / taps).div_ceil(tiles::ROWS);
                copy_strip(self.isa, rows, taps, pass.clone(), &mut scratch.strip);
                let ahead = share(&next_pass, strip, strips);
                let mut column = 0;
                for panel in self.ranges(task).flat_map(|groups| pieces(&groups, SIDE)) {
                    fetch(self.weights, panel.clone(), ahead.clone());
                    let at = panel.start * self.weights.group_stride() + pass.start * DEPTH * GROUP;
                    // SAFETY: the strip was copied for this many tiles; the weights have whole tiles for all
                    // `steps` of each of their groups; the sums have room for whole strips, and this task only
                    // writes to them. Tiles are of bf16.
                    unsafe {
                        let piece = Piece {
                            left: Left {
                                first: scratch.strip.as_ptr(),
                                row: DEPTH,
                                tile: tiles::ROWS * DEPTH,
                                step: tiles_of_rows * tiles::ROWS * DEPTH,
                            },
                            steps: pass.len(),
                            columns: self.weights.as_ptr().add(at),
                            group_stride: self.weights.group_stride(),
                            sums: scratch.sums.as_mut_ptr().add(strip * STRIP * width + column),
                            sums_stride: width,
                            accumulate: pass.start > 0,
                        };
                        tiles.run(tiles_of_rows, panel.len(), &piece);
                    }
                    column += panel.len() * GROUP;
                }
            }
        }
    }
}

multiversion! {
    /// The `pass` (in tiles) of every row's summed dimension into tiles: those of all rows for the first step, then
    /// those for the next. `rows` are the channels at each of the taps, row by row; zeros follow the last.
    fn copy_strip<T: Element>(rows: &[&[T]], taps: usize, pass: Range<usize>, strip: &mut [T]) {
        let tiles_of_rows = (rows.len() / taps).div_ceil(tiles::ROWS);
        for (row, taps) in rows.chunks_exact(taps).enumerate() {
            let channels = taps[0].len();
            let (mut tap, mut channel) = (pass.start * DEPTH / channels, pass.start * DEPTH % channels);
            let steps = strip.chunks_exact_mut(tiles_of_rows * tiles::ROWS * DEPTH);
            for step in steps.take(pass.len()) {
                let to = &mut step.as_chunks_mut::<DEPTH>().0[row];
                if let Some(from) = taps[tap][channel..].first_chunk::<DEPTH>() {
                    *to = *from;
                    channel += DEPTH;
                } else {
                    for to in to {
                        *to = taps.get(tap).map_or(T::default(), |channels| channels[channel]);
                        channel += 1;
                        if channel == channels {
                            (tap, channel) = (tap + 1, 0);
                        }
                    }
                }
                if channel == channels {
                    (tap, channel) = (tap + 1, 0);
                }
            }
        }
    }
}

/// The part of `range` that falls to number `at` of `count`.
fn share(range: &Range<usize>, at: usize, count: usize) -> Range<usize> {
    range.start + range.len() * at / count..range.start + range.len() * (at + 1) / count
}

/// Asks for tiles of weights ahead of their use, so that the L2 cache has them when the next pass begins.
fn fetch<T: Element>(weights: &Packed<T>, groups: Range<usize>, steps: Range<usize>) {
    #[cfg(target_arch = "x86_64")]
    for group in groups {
        let first = group * weights.group_stride() + steps.start * DEPTH * GROUP;
        for line in (0..steps.len() * DEPTH * GROUP).step_by(DEPTH) {
            // SAFETY: a hint, which reads nothing; SSE is part of x86-64.
            unsafe {
                use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
                _mm_prefetch::<_MM_HINT_T1>(weights.as_ptr().wrapping_add(first + line).cast());
            }
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (weights, groups, steps);
}
