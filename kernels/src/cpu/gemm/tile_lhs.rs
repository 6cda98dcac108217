//! Left operands that tiles read in place: sixteen rows of a tile are always equally far apart.
//!
//! A matrix is read where it is. Images are copied once with their padding: pixels of a line are neighbours, or, where
//! lines are not whole tiles, sixteen images are interleaved and a tile is the same pixel of each.

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;

use rayon::prelude::*;

use super::super::Element;
use super::super::element::Shared;
use super::pack::Lines;
use super::tiles::{DEPTH, ROW_BYTES, ROWS};
use super::{ConvGeometry, Gemm, Lhs};

/// A map that is applied to the pixels of an image while they are copied.
pub trait PixelMap<T>: Sync {
    /// `from`, `to`: whole pixels of one image.
    fn map(&self, image: usize, from: &[T], to: &mut [MaybeUninit<T>]);
}

/// Images with zeros around them: (images / interleaved, height, width, interleaved, channels).
pub struct PaddedImages<T> {
    values: Lines<T>,
    channels: usize,
    /// Images whose pixels are neighbours: 1 or [`ROWS`].
    interleaved: usize,
    /// Images / `interleaved`.
    blocks: usize,
    padding: Padding,
}

/// Sizes with the padding, and the part of it above and to the left.
#[derive(Debug, Clone, Copy)]
pub struct Padding {
    pub height: usize,
    pub width: usize,
    pub top: usize,
    pub left: usize,
}

impl Padding {
    /// What the windows of a convolution cover.
    pub fn of(geometry: &ConvGeometry) -> Self {
        let ConvGeometry { kernel, stride, top, left, out_height, out_width, .. } = *geometry;
        let covered = |size: usize| (size.max(1) - 1) * stride + kernel;
        Self { height: covered(out_height), width: covered(out_width), top, left }
    }
}

impl<T: Element> PaddedImages<T> {
    /// Whether tiles can read images of `channels` (padded to pairs) for `rows` output pixels in place.
    pub fn supports(geometry: &ConvGeometry, channels: usize, rows: usize) -> bool {
        let images = rows / (geometry.out_height * geometry.out_width).max(1);
        let whole_lines = geometry.out_width.is_multiple_of(ROWS);
        channels.is_multiple_of(DEPTH)
            && channels > 0
            && rows > 0
            && (whole_lines || images.is_multiple_of(ROWS))
    }

    /// A copy for which [`Self::supports`] holds. `pixels`: (images, height, width, channels).
    pub fn new(
        pixels: &[T],
        geometry: &ConvGeometry,
        channels: usize,
        padding: Padding,
        map: Option<&dyn PixelMap<T>>,
    ) -> Self {
        let ConvGeometry { height, width, .. } = *geometry;
        let images = pixels.len() / (height * width * channels).max(1);
        let interleaved = if geometry.out_width.is_multiple_of(ROWS) { 1 } else { ROWS };
        let blocks = images / interleaved;
        let line = padding.width * interleaved * channels;
        let shown = width.min(padding.width - padding.left.min(padding.width));
        let copy = |image: usize, from: &[T], to: &mut [MaybeUninit<T>]| match map {
            Some(map) => map.map(image, from, to),
            None => to.iter_mut().zip(from).for_each(|(to, x)| _ = to.write(*x)),
        };
        let write = |out: &Shared<T>| {
            (0..blocks * padding.height).into_par_iter().for_each(|at| {
                let (block, y) = (at / padding.height, at % padding.height);
                // SAFETY: lines are disjoint parts of the copy.
                let to = unsafe { out.part(at * line, line) };
                let Some(y) = y.checked_sub(padding.top).filter(|&y| y < height) else { return zero(to) };
                let pixel = interleaved * channels;
                let (before, rest) = to.split_at_mut(line.min(padding.left * pixel));
                let (within, after) = rest.split_at_mut(shown * pixel);
                zero(before);
                zero(after);
                for i in 0..interleaved {
                    let image = block * interleaved + i;
                    let from = &pixels[(image * height + y) * width * channels..][..shown * channels];
                    if interleaved == 1 {
                        copy(image, from, within);
                        continue;
                    }
                    for (from, to) in from.chunks_exact(channels).zip(within.chunks_exact_mut(pixel)) {
                        copy(image, from, &mut to[i * channels..][..channels]);
                    }
                }
            });
        };
        // SAFETY: every line is written: zeros before and after the image's pixels.
        let values = unsafe { Lines::filled(blocks * padding.height * line / DEPTH, write) };
        Self { values, channels, interleaved, blocks, padding }
    }

    /// A pixel by its place in the image without padding.
    pub fn pixel(&self, image: usize, y: usize, x: usize) -> &[T] {
        let Padding { height, width, top, left } = self.padding;
        let line = image / self.interleaved * height + y + top;
        let pixel = (line * width + x + left) * self.interleaved + image % self.interleaved;
        &self.values.as_slice()[pixel * self.channels..][..self.channels]
    }
}

fn zero<T: Default>(to: &mut [MaybeUninit<T>]) {
    to.iter_mut().for_each(|to| _ = to.write(T::default()));
}

/// Addresses of the tiles of a left operand.
pub struct TileLhs<'a, T> {
    first: *const T,
    /// Memory of `first` where it is not borrowed.
    _owned: Option<PaddedImages<T>>,
    borrowed: PhantomData<&'a T>,
    /// Elements from a row to the next within a tile.
    pub row: usize,
    /// Tiles in a line, lines in an image, blocks of interleaved images.
    tiles_across: usize,
    lines: usize,
    blocks: usize,
    /// Elements from a tile, line and block to the next.
    steps: [usize; 3],
    /// Elements from a tap to the next, across and down.
    pub tap: [usize; 2],
    geometry: Option<ConvGeometry>,
    interleaved: bool,
}

// SAFETY: the pointer is to elements that are borrowed for `'a` or owned, and only read.
unsafe impl<T: Sync> Sync for TileLhs<'_, T> {}

/// Taps of a window that are not all padding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValidTaps {
    pub down: Range<usize>,
    pub across: Range<usize>,
}

impl ValidTaps {
    /// The smallest window that covers both.
    pub fn union(&self, other: &Self) -> Self {
        let union = |a: &Range<usize>, b: &Range<usize>| match (a.is_empty(), b.is_empty()) {
            (true, _) => b.clone(),
            (_, true) => a.clone(),
            _ => a.start.min(b.start)..a.end.max(b.end),
        };
        Self { down: union(&self.down, &other.down), across: union(&self.across, &other.across) }
    }
}

impl<T: Element> Gemm<'_, T> {
    /// `None` where tiles cannot be read in place: strips of rows are copied then.
    pub(super) fn tile_lhs(&self) -> Option<TileLhs<'_, T>> {
        let channels = self.weights.padded_channels();
        match self.lhs {
            Lhs::Matrix(values) => {
                let aligned = values.as_ptr().addr().is_multiple_of(ROW_BYTES);
                let whole = channels.is_multiple_of(DEPTH) && channels > 0;
                (aligned && whole).then(|| TileLhs {
                    first: values.as_ptr(),
                    _owned: None,
                    borrowed: PhantomData,
                    row: channels,
                    tiles_across: usize::MAX,
                    lines: 1,
                    blocks: 1,
                    steps: [ROWS * channels, 0, 0],
                    tap: [0, 0],
                    geometry: None,
                    interleaved: false,
                })
            }
            Lhs::Mapped(..) => None,
            Lhs::Im2col(pixels, geometry) => {
                PaddedImages::<T>::supports(&geometry, channels, self.rows).then(|| {
                    let padding = Padding::of(&geometry);
                    let images = PaddedImages::new(pixels, &geometry, channels, padding, None);
                    let lhs = TileLhs::of_images(&images, geometry);
                    // The elements stay where they are when their owner moves.
                    TileLhs { _owned: Some(images), ..lhs }
                })
            }
            Lhs::Padded(images, geometry) => Some(TileLhs::of_images(images, geometry)),
        }
    }
}

impl<T: Element> TileLhs<'_, T> {
    /// Must not outlive `images`.
    fn of_images(images: &PaddedImages<T>, geometry: ConvGeometry) -> Self {
        let ConvGeometry { stride, top, left, out_height, out_width, .. } = geometry;
        let PaddedImages { channels, interleaved, padding, .. } = *images;
        let pixel = interleaved * channels;
        let line = padding.width * pixel;
        let is_interleaved = interleaved > 1;
        let (row, tile, tiles_across) = match is_interleaved {
            true => (channels, stride * pixel, out_width),
            false => (stride * channels, ROWS * stride * channels, out_width / ROWS),
        };
        let origin = (padding.top - top) * line + (padding.left - left) * pixel;
        Self {
            first: images.values.as_ptr().wrapping_add(origin),
            _owned: None,
            borrowed: PhantomData,
            row,
            tiles_across,
            lines: out_height,
            blocks: images.blocks,
            steps: [tile, stride * line, padding.height * line],
            tap: [pixel, line],
            geometry: Some(geometry),
            interleaved: is_interleaved,
        }
    }

    /// Column of tiles, line, and image (or block of interleaved images) of a tile.
    fn place(&self, tile: usize) -> [usize; 3] {
        // All blocks of a pixel follow each other: then a strip's tiles have the same taps in the padding.
        let (tile, block) = match self.interleaved {
            true => (tile / self.blocks, tile % self.blocks),
            false => (tile, 0),
        };
        let (x, rest) = (tile % self.tiles_across, tile / self.tiles_across);
        let (y, image) = (rest % self.lines, rest / self.lines);
        [x, y, image + block]
    }

    /// The first row of a tile at the first tap.
    pub fn tile(&self, tile: usize) -> *const T {
        let start: usize = self.place(tile).iter().zip(self.steps).map(|(at, step)| at * step).sum();
        self.first.wrapping_add(start)
    }

    /// Taps of a tile that are not padding in all of its rows.
    pub fn valid_taps(&self, tile: usize) -> ValidTaps {
        let Some(geometry) = self.geometry else { return ValidTaps { down: 0..1, across: 0..1 } };
        let ConvGeometry { height, width, kernel, stride, top, left, .. } = geometry;
        let valid = |at: usize, before: usize, size: usize| {
            let first = before.saturating_sub(at * stride).min(kernel);
            first..(before + size).saturating_sub(at * stride).min(kernel).max(first)
        };
        let [x, y, _] = self.place(tile);
        ValidTaps {
            down: valid(y, top, height),
            across: if self.interleaved { valid(x, left, width) } else { 0..kernel },
        }
    }

    /// Row of the product for a row of a tile.
    pub fn product_row(&self, row: usize) -> usize {
        if !self.interleaved {
            return row;
        }
        let [x, y, block] = self.place(row / ROWS);
        (block * ROWS + row % ROWS) * self.tiles_across * self.lines + y * self.tiles_across + x
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    /// Numbers that tell every pixel and channel apart, over small images.
    #[test]
    fn tiles_are_the_windows_of_the_images() {
        for (images, size, stride) in [(1, 16, 1), (2, 32, 2), (32, 4, 1), (16, 6, 2)] {
            let channels = DEPTH;
            let count = images * size * size * channels;
            let pixels: Vec<bf16> = (0..count).map(|i| bf16::from_bits(1 + (i % 0x7f00) as u16)).collect();
            let out = size.div_ceil(stride);
            let geometry = ConvGeometry {
                height: size,
                width: size,
                kernel: 3,
                stride,
                top: 1,
                left: 1,
                out_height: out,
                out_width: out,
                quarter: None,
            };
            let rows = images * out * out;
            assert!(PaddedImages::<bf16>::supports(&geometry, channels, rows), "{images} of {size}");
            let padded = PaddedImages::new(&pixels, &geometry, channels, Padding::of(&geometry), None);
            let lhs = TileLhs::of_images(&padded, geometry);
            let zeros = vec![bf16::ZERO; channels];
            let mut windows = vec![&zeros[..]; rows * 9];
            let source = Lhs::Im2col(&pixels, geometry);
            source.each(0..rows, channels, &zeros, |row, tap, pixel| windows[row * 9 + tap] = pixel);
            for row in 0..rows {
                let (tile, within) = (row / ROWS, row % ROWS);
                let valid = lhs.valid_taps(tile);
                for tap in 0..9 {
                    let start = tap % 3 * lhs.tap[0] + tap / 3 * lhs.tap[1] + within * lhs.row;
                    let first = lhs.tile(tile).wrapping_add(start);
                    // SAFETY: whole pixels of the padded copy.
                    let got = unsafe { std::slice::from_raw_parts(first, channels) };
                    let want = windows[lhs.product_row(row) * 9 + tap];
                    assert!(got == want, "{images} of {size}: row {row}, tap {tap}");
                    let is_valid = valid.down.contains(&(tap / 3)) && valid.across.contains(&(tap % 3));
                    assert!(
                        is_valid || want == zeros,
                        "{images} of {size}: row {row}, tap {tap} is not padding"
                    );
                }
            }
        }
    }
}
