//! Blocked matrix product (GEMM) in the scheme of BLIS: packed weights, cache blocks, a micro-kernel per instruction
//! set, and the epilogue while the sums are in the cache.
//!
//! The left operand is never packed into patches: a linear layer has one pointer per row, a convolution one per
//! row and tap (implicit im2col).

pub mod epilogue;
pub mod micro_kernel;
pub mod pack;
// Only AMX has tiles, but the loops around them are the same everywhere.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
pub mod tiles;
#[cfg(target_arch = "x86_64")]
pub mod amx;
#[cfg(test)]
pub mod tile_model;
mod macro_kernel;
mod tile_lhs;
mod tile_macro_kernel;
mod tile_epilogue;
mod queue;

use std::mem::MaybeUninit;
use std::ops::Range;

use rayon::prelude::*;

use super::element::{MicrokernelDispatch, Shared, fill};
use super::{Activation, Element, Epilogue, Isa, Packed};
use epilogue::{finish, finish_geglu};
use micro_kernel::NR;

#[cfg(target_arch = "x86_64")]
pub use tile_epilogue::write_rows_bf16;
pub use tile_epilogue::{WriteRows as TileEpilogueRows, write_rows};
pub use tile_lhs::{PaddedImages, Padding, PixelMap};

/// Macro tiles per thread, so that a slow thread does not hold up the others.
const TASKS_PER_THREAD: usize = 4;

/// The left operand. Its channels are as many as the packed weight's, padding included.
pub enum Lhs<'a, T> {
    /// Row-major (rows, channels).
    Matrix(&'a [T]),
    /// The same with a map that is applied to each row first, such as a layer norm.
    Mapped(&'a [T], &'a dyn RowMap<T>),
    /// The patches of channels-last images (batch, height, width, channels).
    Im2col(&'a [T], ConvGeometry),
    /// The same from a padded copy.
    Padded(&'a PaddedImages<T>, ConvGeometry),
}

/// A map of the rows of a left operand.
pub trait RowMap<T>: Sync {
    /// `from`: row number `row`; `to`: as long.
    fn map(&self, row: usize, from: &[T], to: &mut [MaybeUninit<T>]);
}

/// Sizes of a convolution over an image.
#[derive(Debug, Clone, Copy)]
pub struct ConvGeometry {
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

/// A product and its epilogue.
pub struct Gemm<'a, T: Element> {
    pub isa: Isa,
    /// Rows of the output.
    pub rows: usize,
    pub lhs: Lhs<'a, T>,
    pub weights: &'a Packed<T>,
    pub epilogue: Epilogue<'a, T>,
}

/// Output rows and groups of [`NR`] columns that a thread computes at a time.
#[derive(Clone)]
struct MacroTile {
    rows: Range<usize>,
    groups: Range<usize>,
}

impl<T: Element> Gemm<'_, T> {
    /// Columns of the output: those of the weights, or half of them after GEGLU.
    pub fn columns(&self) -> usize {
        if self.is_geglu() { self.weights.out / 2 } else { self.weights.out }
    }

    /// Writes the output, row-major, on all threads.
    pub fn run(&self, out: &Shared<T>) {
        self.run_in(Self::tasks_for_all_threads(), out);
    }

    /// Macro tiles that keep all threads busy when nothing else runs.
    pub fn tasks_for_all_threads() -> usize {
        rayon::current_num_threads() * TASKS_PER_THREAD
    }

    /// [`Self::run`] in about `tasks` macro tiles, where other products are computed at the same time.
    pub fn run_in(&self, tasks: usize, out: &Shared<T>) {
        if self.rows == 0 || self.columns() == 0 {
            return;
        }
        let kernel = T::kernel(self.isa);
        let maps_rows = matches!(kernel, MicrokernelDispatch::Tiles(_)) && self.is_in_whole_tiles();
        if let Lhs::Mapped(values, map) = self.lhs
            && !maps_rows
        {
            let rows = self.mapped_rows(values, map);
            let Gemm { isa, rows: count, weights, epilogue, .. } = *self;
            return Gemm { isa, rows: count, lhs: Lhs::Matrix(&rows), weights, epilogue }.run_in(tasks, out);
        }
        match kernel {
            MicrokernelDispatch::Registers(kernel) => self.run_by_registers(&kernel, tasks, out),
            MicrokernelDispatch::Tiles(kernel) => self.run_by_tiles(kernel, tasks, out),
        }
    }

    /// The map's results, for micro-kernels that read rows in place.
    fn mapped_rows(&self, values: &[T], map: &dyn RowMap<T>) -> Vec<T> {
        let channels = self.weights.padded_channels().max(1);
        let write = |to: &Shared<T>| {
            values.par_chunks(channels).enumerate().for_each(|(row, from)| {
                // SAFETY: rows are disjoint parts of the copy.
                map.map(row, from, unsafe { to.part(row * channels, from.len()) });
            });
        };
        // SAFETY: every row is written.
        unsafe { fill(values.len(), write) }
    }

    /// Whether a tile of the left operand never spans two taps.
    fn is_in_whole_tiles(&self) -> bool {
        let channels = self.weights.padded_channels();
        channels > 0 && channels.is_multiple_of(tiles::DEPTH)
    }

    fn is_geglu(&self) -> bool {
        self.epilogue.activation == Activation::Geglu
    }

    /// Groups of columns of the output: after GEGLU those of the values.
    fn output_groups(&self) -> usize {
        self.weights.groups() / if self.is_geglu() { 2 } else { 1 }
    }

    /// Bias, residual and activation of one row and some groups of columns; `sums`: for GEGLU those of the values,
    /// then those of the gates.
    fn finish_row(&self, row: usize, groups: &Range<usize>, sums: &[f32], out: &Shared<T>) {
        let Epilogue { bias, activation, .. } = self.epilogue;
        let columns = self.columns();
        let first = groups.start * NR;
        let here = first..columns.min(groups.end * NR);
        let row = self.lhs.output_row(row);
        // SAFETY: within the output; no other thread has these rows and columns.
        let out = unsafe { out.part(row * columns + first, here.len()) };
        if self.is_geglu() {
            let (values, gates) = sums.split_at(sums.len() / 2);
            let gate_bias = &bias[columns + first..columns + here.end];
            finish_geglu(self.isa, [values, &bias[here.clone()]], [gates, gate_bias], out);
        } else {
            let residual = self.epilogue.residual_of(row, columns, &here);
            finish(self.isa, sums, &bias[here.clone()], residual, activation, out);
        }
    }
}

impl<T: Element> Lhs<'_, T> {
    /// `take(row, tap, pixel)` for the `channels` that each of `rows` reads at each tap, row by row; outside of
    /// the image they are `zeros`.
    fn each<'a>(
        &'a self,
        rows: Range<usize>,
        channels: usize,
        zeros: &'a [T],
        mut take: impl FnMut(usize, usize, &'a [T]),
    ) {
        let geometry = match self {
            // Mapped rows are read from a copy, never from here.
            Lhs::Matrix(values) | Lhs::Mapped(values, _) => {
                return rows.for_each(|row| take(row, 0, &values[row * channels..][..channels]));
            }
            Lhs::Im2col(_, geometry) | Lhs::Padded(_, geometry) => geometry,
        };
        let ConvGeometry { height, width, kernel, stride, top, left, .. } = *geometry;
        let (mut x, rest) = (rows.start % geometry.out_width, rows.start / geometry.out_width);
        let (mut y, mut image) = (rest % geometry.out_height, rest / geometry.out_height);
        let within = |at: usize, before: usize, size: usize| at.checked_sub(before).filter(|&at| at < size);
        for row in rows {
            for down in 0..kernel {
                let line = within(y * stride + down, top, height);
                for across in 0..kernel {
                    let pixel = match (line, within(x * stride + across, left, width)) {
                        (Some(line), Some(column)) => match self {
                            Lhs::Padded(images, _) => images.pixel(image, line, column),
                            Lhs::Im2col(values, _) | Lhs::Matrix(values) | Lhs::Mapped(values, _) => {
                                &values[((image * height + line) * width + column) * channels..][..channels]
                            }
                        },
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

    /// Row of the output tensor for a row of the product.
    fn output_row(&self, row: usize) -> usize {
        match self {
            Lhs::Im2col(_, ConvGeometry { quarter: Some((down, across)), out_width, .. })
            | Lhs::Padded(_, ConvGeometry { quarter: Some((down, across)), out_width, .. }) => {
                // Counted over all images, since each has a whole number of them.
                let (line, column) = (row / out_width, row % out_width);
                (2 * line + down) * 2 * out_width + 2 * column + across
            }
            _ => row,
        }
    }
}

/// `range` in chunks of `step`, the last one shorter.
pub fn chunks(range: &Range<usize>, step: usize) -> impl Iterator<Item = Range<usize>> + Clone + use<> {
    let end = range.end;
    range.clone().step_by(step).map(move |at| at..end.min(at + step))
}
