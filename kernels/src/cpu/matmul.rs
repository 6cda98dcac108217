//! The blocked matrix product: rows gathered by pointer times packed weights. A linear layer has one
//! pointer per row, a convolution one per row and tap, so no patch is ever copied.

use std::ops::Range;

use rayon::prelude::*;

use super::element::{Kernel, Shared};
use super::epilogue::{finish, finish_geglu};
use super::microkernel::{GROUP, Microkernel, Strip};
use super::tile_matmul;
use super::{Activation, Element, Epilogue, Isa, Packed};

/// Bytes of a row that are summed before the next columns: with [`ROWS`] rows they stay in the L2 cache.
const ROW_BYTES: usize = 1536;
/// Rows that share a pass over the weights.
const ROWS: usize = 240;
/// Groups of columns whose sums a task keeps.
const GROUPS: usize = 20;
/// Pieces of work per thread, so that a slow thread does not hold up the others.
const TASKS_PER_THREAD: usize = 4;

/// Where the left-hand rows are. Their channels are as many as the packed weight's, padded ones included.
pub enum Source<'a, T> {
    /// Row-major (rows, channels).
    Matrix(&'a [T]),
    /// The patches of channels-last images (batch, height, width, channels).
    Patches(&'a [T], Geometry),
}

/// How a convolution walks over an image.
#[derive(Debug, Clone, Copy)]
pub struct Geometry {
    pub height: usize,
    pub width: usize,
    pub kernel: usize,
    pub stride: usize,
    /// Zeros above and to the left of the image; those below and to the right follow from the output's size.
    pub top: usize,
    pub left: usize,
    pub out_height: usize,
    pub out_width: usize,
    /// Where the output is only every second pixel of an image, in both directions: the row and the column of the
    /// first one (0 or 1).
    pub quarter: Option<(usize, usize)>,
}

/// One product and what follows it.
pub struct Problem<'a, T: Element> {
    pub isa: Isa,
    /// Rows of the output.
    pub rows: usize,
    pub source: Source<'a, T>,
    pub weights: &'a Packed<T>,
    pub epilogue: Epilogue<'a, T>,
}

/// A run of taps, or a range of one tap's channels, that is summed in one go.
struct Stretch {
    taps: Range<usize>,
    /// In elements, of the packed (padded) channels.
    channels: Range<usize>,
}

/// What a thread keeps between its tasks.
pub(super) struct Scratch<'a, T> {
    /// Of a task, row-major.
    pub sums: Vec<f32>,
    pub pointers: Vec<*const T>,
    /// The same as `pointers`, and a strip of them copied together: for tiles.
    pub rows: Vec<&'a [T]>,
    pub strip: Vec<T>,
}

/// The rows and the groups of columns of one task.
pub(super) struct Task {
    pub rows: Range<usize>,
    pub groups: Range<usize>,
}

impl<T: Element> Problem<'_, T> {
    /// Columns of the output: those of the weights, or half of them after GEGLU.
    pub fn columns(&self) -> usize {
        if self.is_geglu() { self.weights.out / 2 } else { self.weights.out }
    }

    /// Writes the output, row-major, by all threads.
    pub fn run(&self, out: &Shared<T>) {
        self.run_in(Self::tasks_for_all_threads(), out);
    }

    /// As many tasks as keep all threads at work when this is all there is to do.
    pub fn tasks_for_all_threads() -> usize {
        rayon::current_num_threads() * TASKS_PER_THREAD
    }

    /// The same in about as many `tasks`, where other problems are solved at the same time.
    pub fn run_in(&self, tasks: usize, out: &Shared<T>) {
        if self.rows == 0 || self.columns() == 0 {
            return;
        }
        let zeros = vec![T::default(); self.weights.padded_channels()];
        let scratch =
            || Scratch { sums: Vec::new(), pointers: Vec::new(), rows: Vec::new(), strip: Vec::new() };
        self.tasks(tasks).par_iter().for_each_init(scratch, |scratch, task| {
            match T::kernel(self.isa) {
                Kernel::Registers(kernel) => self.sum(&kernel, task, &zeros, scratch),
                Kernel::Tiles(kernel) => self.sum_by_tiles(kernel, task, &zeros, scratch),
            }
            self.finish(task, &scratch.sums, out);
        });
    }

    fn is_geglu(&self) -> bool {
        self.epilogue.activation == Activation::Geglu
    }

    /// Groups of columns that tasks are made of: after GEGLU those of the first half.
    fn task_groups(&self) -> usize {
        self.weights.groups() / if self.is_geglu() { 2 } else { 1 }
    }

    /// Large tasks, but as many as are `wanted` where they can be. The sums do not depend on this choice.
    fn tasks(&self, wanted: usize) -> Vec<Task> {
        let groups = self.task_groups();
        let (unit, rows) = match T::kernel(self.isa) {
            Kernel::Registers(kernel) => (kernel.max_rows, ROWS),
            Kernel::Tiles(_) => (tile_matmul::STRIP, tile_matmul::ROWS),
        };
        let mut high = rows.min(self.rows).max(1);
        let mut wide = (GROUPS / if self.is_geglu() { 2 } else { 1 }).min(groups).max(1);
        let count = |high: usize, wide: usize| self.rows.div_ceil(high) * groups.div_ceil(wide);
        while count(high, wide) < wanted && (wide > 4 || high > 4 * unit) {
            if wide > 4 && (high <= 4 * unit || wide * GROUP > high) {
                wide = wide.div_ceil(2);
            } else {
                high = high.div_ceil(2);
            }
        }
        // Even pieces, in whole strips.
        let high = self.rows.div_ceil(self.rows.div_ceil(high).max(1)).next_multiple_of(unit);
        let wide = groups.div_ceil(groups.div_ceil(wide).max(1)).max(1);
        pieces(&(0..self.rows), high)
            .flat_map(|rows| {
                pieces(&(0..groups), wide).map(move |groups| Task { rows: rows.clone(), groups })
            })
            .collect()
    }

    /// In the order in which the sums are taken, which only the weights' shape decides.
    fn stretches(&self) -> Vec<Stretch> {
        let (taps, channels) = (self.weights.taps, self.weights.padded_channels());
        let limit = ROW_BYTES / size_of::<T>();
        if channels <= limit {
            let step = (limit / channels.max(1)).max(1);
            let starts = (0..taps).step_by(step);
            return starts
                .map(|tap| Stretch { taps: tap..taps.min(tap + step), channels: 0..channels })
                .collect();
        }
        let step = channels.div_ceil(channels.div_ceil(limit)).next_multiple_of(T::PAIR);
        let of_tap = |tap: usize| {
            (0..channels)
                .step_by(step)
                .map(move |c| Stretch { taps: tap..tap + 1, channels: c..channels.min(c + step) })
        };
        (0..taps).flat_map(of_tap).collect()
    }

    /// The sums of a task into `scratch.sums`, row-major with the width of [`Self::width`].
    fn sum(&self, kernel: &Microkernel<T>, task: &Task, zeros: &[T], scratch: &mut Scratch<T>) {
        let (taps, width) = (self.weights.taps, self.width(task));
        scratch.sums.resize(task.rows.len() * width, 0.);
        scratch.pointers.clear();
        scratch.pointers.resize(task.rows.len() * taps, zeros.as_ptr());
        let strips = pieces(&task.rows, kernel.max_rows);
        for strip in strips.clone() {
            let of_strip = &mut scratch.pointers[(strip.start - task.rows.start) * taps..];
            let take =
                |row, tap, pixel: &[T]| of_strip[tap * strip.len() + row - strip.start] = pixel.as_ptr();
            self.source.each(strip.clone(), self.weights.padded_channels(), zeros, take);
        }
        for (i, stretch) in self.stretches().iter().enumerate() {
            let mut column = 0;
            for range in self.ranges(task) {
                for panel in pieces(&range, kernel.max_groups) {
                    let at = panel.start * self.weights.group_stride()
                        + (stretch.taps.start * self.weights.padded_channels() + stretch.channels.start)
                            * GROUP;
                    for strip in strips.clone() {
                        let first = strip.start - task.rows.start;
                        // SAFETY: `pointers` holds taps × rows of this strip from `first * taps` on; the
                        // microkernel reads whole channels of them and of the packed lines, whose counts
                        // these are, and writes within the rows and columns that `sums` was sized for.
                        unsafe {
                            let piece = Strip {
                                rows: scratch
                                    .pointers
                                    .as_ptr()
                                    .add(first * taps + stretch.taps.start * strip.len()),
                                shift: stretch.channels.start,
                                segments: stretch.taps.len(),
                                steps: stretch.channels.len() / T::PAIR,
                                columns: self.weights.as_ptr().add(at),
                                group_stride: self.weights.group_stride(),
                                sums: scratch.sums.as_mut_ptr().add(first * width + column),
                                sums_stride: width,
                                accumulate: i > 0,
                            };
                            (kernel.run)(strip.len(), panel.len(), &piece);
                        }
                    }
                    column += panel.len() * GROUP;
                }
            }
        }
    }

    /// The ranges of groups that a task sums: for GEGLU those of the values, then those of the gates.
    pub(super) fn ranges(&self, task: &Task) -> impl Iterator<Item = Range<usize>> {
        let half = self.task_groups();
        let gates = self.is_geglu().then(|| task.groups.start + half..task.groups.end + half);
        std::iter::once(task.groups.clone()).chain(gates)
    }

    /// Columns of a task's sums.
    pub(super) fn width(&self, task: &Task) -> usize {
        self.ranges(task).map(|groups| groups.len() * GROUP).sum()
    }

    /// Bias, residual and activation, into the output's rows and columns of the task.
    fn finish(&self, task: &Task, sums: &[f32], out: &Shared<T>) {
        let Epilogue { bias, activation, .. } = self.epilogue;
        let (width, columns) = (self.width(task), self.columns());
        let first = task.groups.start * GROUP;
        let here = first..columns.min(task.groups.end * GROUP);
        for (row, sums) in task.rows.clone().zip(sums.chunks_exact(width)) {
            let row = self.source.output_row(row);
            // SAFETY: within the output; no other task has these rows and columns.
            let out = unsafe { out.part(row * columns + first, here.len()) };
            if self.is_geglu() {
                let (values, gates) = sums.split_at(width / 2);
                let gate_bias = &bias[columns + first..columns + here.end];
                finish_geglu(self.isa, [values, &bias[here.clone()]], [gates, gate_bias], out);
            } else {
                let residual = self.epilogue.residual_of(row, columns, &here);
                finish(self.isa, sums, &bias[here.clone()], residual, activation, out);
            }
        }
    }
}

impl<T> Source<'_, T> {
    /// `take(row, tap, pixel)` for the `channels` that each of `rows` reads at each tap, row by row; outside of
    /// the image they are `zeros`.
    pub(super) fn each<'a>(
        &'a self,
        rows: Range<usize>,
        channels: usize,
        zeros: &'a [T],
        mut take: impl FnMut(usize, usize, &'a [T]),
    ) {
        let (pixels, geometry) = match self {
            Source::Matrix(values) => {
                return rows.for_each(|row| take(row, 0, &values[row * channels..][..channels]));
            }
            Source::Patches(pixels, geometry) => (pixels, geometry),
        };
        let Geometry { height, width, kernel, stride, top, left, .. } = *geometry;
        let (mut x, rest) = (rows.start % geometry.out_width, rows.start / geometry.out_width);
        let (mut y, mut image) = (rest % geometry.out_height, rest / geometry.out_height);
        let within = |at: usize, before: usize, size: usize| at.checked_sub(before).filter(|&at| at < size);
        for row in rows {
            for down in 0..kernel {
                let line = within(y * stride + down, top, height);
                let line = line.map(|line| &pixels[(image * height + line) * width * channels..]);
                for across in 0..kernel {
                    let pixel = match (line, within(x * stride + across, left, width)) {
                        (Some(line), Some(column)) => &line[column * channels..][..channels],
                        _ => zeros,
                    };
                    take(row, down * kernel + across, pixel);
                }
            }
            x += 1;
            if x == geometry.out_width {
                (x, y) = (0, y + 1);
            }
            if y == geometry.out_height {
                (y, image) = (0, image + 1);
            }
        }
    }

    /// Where an output row is written.
    fn output_row(&self, row: usize) -> usize {
        match self {
            Source::Patches(_, Geometry { quarter: Some((down, across)), out_width, .. }) => {
                // Counted over all images, since each has a whole number of them.
                let (line, column) = (row / out_width, row % out_width);
                (2 * line + down) * 2 * out_width + 2 * column + across
            }
            _ => row,
        }
    }
}

/// `range` in pieces of `step`, the last one shorter.
pub fn pieces(range: &Range<usize>, step: usize) -> impl Iterator<Item = Range<usize>> + Clone + use<> {
    let end = range.end;
    range.clone().step_by(step).map(move |at| at..end.min(at + step))
}
