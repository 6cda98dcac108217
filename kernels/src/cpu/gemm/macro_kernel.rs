//! Macro-kernel over register micro-kernels: `KC` of the summed dimension at a time, so that a macro tile's rows
//! and a panel of weights stay in the L2 and L1 caches.

use std::ops::Range;

use rayon::prelude::*;

use super::super::Element;
use super::super::element::Shared;
use super::micro_kernel::{Microkernel, NR, Strip};
use super::{Gemm, MacroTile, chunks};

/// Bytes of a row that are summed before the next columns: with [`MC`] rows they stay in the L2 cache.
const KC_BYTES: usize = 1536;
/// Rows that share a pass over the weights.
const MC: usize = 240;
/// Groups of columns whose sums a macro tile keeps.
const NC_GROUPS: usize = 20;

/// A run of taps, or a range of one tap's channels, that is summed in one go.
struct KBlock {
    taps: Range<usize>,
    /// In elements, of the packed (padded) channels.
    channels: Range<usize>,
}

/// Buffers that a thread reuses.
struct Scratch<T> {
    /// Of a macro tile, row-major.
    sums: Vec<f32>,
    pointers: Vec<*const T>,
}

impl<T: Element> Gemm<'_, T> {
    pub(super) fn run_by_registers(&self, kernel: &Microkernel<T>, tasks: usize, out: &Shared<T>) {
        let zeros = vec![T::default(); self.weights.padded_channels()];
        let scratch = || Scratch { sums: Vec::new(), pointers: Vec::new() };
        self.macro_tiles(kernel.max_rows, tasks).par_iter().for_each_init(scratch, |scratch, task| {
            self.sum(kernel, task, &zeros, scratch);
            for (row, sums) in task.rows.clone().zip(scratch.sums.chunks_exact(self.width(task))) {
                self.finish_row(row, &task.groups, sums, out);
            }
        });
    }

    /// Large macro tiles, but at least `wanted` of them where possible. The sums do not depend on this choice.
    fn macro_tiles(&self, unit: usize, wanted: usize) -> Vec<MacroTile> {
        let groups = self.output_groups();
        let mut high = MC.min(self.rows).max(1);
        let mut wide = (NC_GROUPS / if self.is_geglu() { 2 } else { 1 }).min(groups).max(1);
        let count = |high: usize, wide: usize| self.rows.div_ceil(high) * groups.div_ceil(wide);
        while count(high, wide) < wanted && (wide > 4 || high > 4 * unit) {
            if wide > 4 && (high <= 4 * unit || wide * NR > high) {
                wide = wide.div_ceil(2);
            } else {
                high = high.div_ceil(2);
            }
        }
        // Even shares, in whole micro-tiles.
        let high = self.rows.div_ceil(self.rows.div_ceil(high).max(1)).next_multiple_of(unit);
        let wide = groups.div_ceil(groups.div_ceil(wide).max(1)).max(1);
        chunks(&(0..self.rows), high)
            .flat_map(|rows| {
                chunks(&(0..groups), wide).map(move |groups| MacroTile { rows: rows.clone(), groups })
            })
            .collect()
    }

    /// In the order in which the sums are taken, which only the weights' shape decides.
    fn k_blocks(&self) -> Vec<KBlock> {
        let (taps, channels) = (self.weights.taps, self.weights.padded_channels());
        let limit = KC_BYTES / size_of::<T>();
        if channels <= limit {
            let step = (limit / channels.max(1)).max(1);
            let starts = (0..taps).step_by(step);
            return starts
                .map(|tap| KBlock { taps: tap..taps.min(tap + step), channels: 0..channels })
                .collect();
        }
        let step = channels.div_ceil(channels.div_ceil(limit)).next_multiple_of(T::PAIR);
        let of_tap = |tap: usize| {
            (0..channels)
                .step_by(step)
                .map(move |c| KBlock { taps: tap..tap + 1, channels: c..channels.min(c + step) })
        };
        (0..taps).flat_map(of_tap).collect()
    }

    /// The sums of a macro tile into `scratch.sums`, row-major with the width of [`Self::width`].
    fn sum(&self, kernel: &Microkernel<T>, task: &MacroTile, zeros: &[T], scratch: &mut Scratch<T>) {
        let (taps, width) = (self.weights.taps, self.width(task));
        scratch.sums.resize(task.rows.len() * width, 0.);
        scratch.pointers.clear();
        scratch.pointers.resize(task.rows.len() * taps, zeros.as_ptr());
        let strips = chunks(&task.rows, kernel.max_rows);
        for strip in strips.clone() {
            let of_strip = &mut scratch.pointers[(strip.start - task.rows.start) * taps..];
            let take =
                |row, tap, pixel: &[T]| of_strip[tap * strip.len() + row - strip.start] = pixel.as_ptr();
            self.lhs.each(strip.clone(), self.weights.padded_channels(), zeros, take);
        }
        for (i, block) in self.k_blocks().iter().enumerate() {
            let mut column = 0;
            for range in self.ranges(task) {
                for panel in chunks(&range, kernel.max_groups) {
                    let at = panel.start * self.weights.group_stride()
                        + (block.taps.start * self.weights.padded_channels() + block.channels.start) * NR;
                    for strip in strips.clone() {
                        let first = strip.start - task.rows.start;
                        // SAFETY: `pointers` holds taps × rows of this strip from `first * taps` on; the
                        // microkernel reads whole channels of them and of the packed lines, whose counts
                        // these are, and writes within the rows and columns that `sums` was sized for.
                        unsafe {
                            let strip_arguments = Strip {
                                rows: scratch
                                    .pointers
                                    .as_ptr()
                                    .add(first * taps + block.taps.start * strip.len()),
                                shift: block.channels.start,
                                segments: block.taps.len(),
                                steps: block.channels.len() / T::PAIR,
                                columns: self.weights.as_ptr().add(at),
                                group_stride: self.weights.group_stride(),
                                sums: scratch.sums.as_mut_ptr().add(first * width + column),
                                sums_stride: width,
                                accumulate: i > 0,
                            };
                            (kernel.run)(strip.len(), panel.len(), &strip_arguments);
                        }
                    }
                    column += panel.len() * NR;
                }
            }
        }
    }

    /// The ranges of packed groups of a macro tile: for GEGLU those of the values, then those of the gates.
    fn ranges(&self, task: &MacroTile) -> impl Iterator<Item = Range<usize>> {
        let half = self.output_groups();
        let gates = self.is_geglu().then(|| task.groups.start + half..task.groups.end + half);
        std::iter::once(task.groups.clone()).chain(gates)
    }

    /// Columns of a macro tile's sums.
    fn width(&self, task: &MacroTile) -> usize {
        self.ranges(task).map(|groups| groups.len() * NR).sum()
    }
}
