//! Winograd convolution F(4×4, 3×3) after Lavin and Gray (arXiv:1509.09308): 3×3 convolutions with a quarter
//! of the multiplications.
//!
//! The output is divided into tiles of 4×4 pixels, each of which depends on 6×6 input pixels. The input
//! transform evaluates an input tile at 6×6 points, the filter transform evaluates a filter at the same
//! points. At every point the convolution is one product, so a tile needs 36 products per channel instead of
//! 16 · 9. For each point there is one GEMM of all tiles by all filters; the output transform interpolates
//! the 16 outputs from the 36 points.
//!
//! The transforms and the GEMMs are in f32 for all dtypes, because the transforms cancel leading digits and
//! would lose too much precision in bf16. With the points 0, ±5/8, ±3/2 and ∞ the rounding error is 1.5 times
//! that of direct convolution in f32 (3 times with the usual points 0, ±1, ±2 and ∞), and the constants are
//! exact in f32.

mod transforms;
#[cfg(test)]
mod tests;

use std::mem::MaybeUninit;
use std::ops::Range;

use rayon::prelude::*;

use self::transforms::{Lanes, filter_transform, input_transform, output_transform, transform_2d};
use super::gemm::chunks;
use super::gemm::epilogue::finish;
use super::gemm::micro_kernel::NR;
use super::isa::multiversion;
use super::{Activation, Element, Epilogue, Gemm, Isa, Lhs, Packed, Shared, fill};

/// Output pixels of a tile, in one direction.
const OUT_TILE: usize = 4;
/// Input pixels of a tile, and points, in one direction.
const IN_TILE: usize = 6;
/// Points of a tile.
const POINTS: usize = IN_TILE * IN_TILE;

/// Maximum size, in bytes, of transformed weights that are assumed to stay in the shared cache. For those
/// every thread processes its own band of `THREAD_TILES` tiles, whose intermediate results fit its private
/// cache.
const CACHED_WEIGHT_BYTES: usize = 4 << 20;
const THREAD_TILES: usize = 72;
/// Larger weights are streamed from memory once per band, which all threads process together. A band has as
/// many tiles as its intermediate results fit these bytes of shared cache, but at least `MIN_BAND_TILES` to
/// amortize the read.
const MAX_BAND_BYTES: usize = 24 << 20;
const MIN_BAND_TILES: usize = 240;
/// Maximum ratio of the number of transformed weights to the number of input and output values of one image.
/// For smaller images the weights cost too much memory and memory bandwidth. The ratio is that of a single
/// image, so that the result of an image does not depend on the batch size. In the published UNet at 256
/// pixels, the two levels with the largest images are below it (ratios up to 67), and so is the whole VAE.
const MAX_WEIGHT_RATIO: usize = 72;
/// The same where bf16 products are twice as fast, so that Winograd gains less and f32 weights cost
/// relatively more memory. Below it are one level of the UNet (ratios up to 8.4) and the VAE except its
/// smallest images (9).
const MAX_WEIGHT_RATIO_FAST_BF16: usize = 9;
/// Adjacent tiles transformed by one task.
const TILES_PER_TASK: usize = 8;

/// Transformed filters: for every point a packed weight of (out, channels).
pub struct Winograd {
    points: Vec<Packed<f32>>,
}

/// Images of a 3×3 convolution with stride 1 and padding 1, whose output has the size of its input.
#[derive(Debug, Clone, Copy)]
pub struct Images {
    pub count: usize,
    /// Height of the output.
    pub height: usize,
    /// Width of the output.
    pub width: usize,
    /// Whether the tensor has half this height and width and is upsampled 2× by nearest neighbour.
    pub doubled: bool,
}

/// Grid of tiles over all images; tiles are numbered row by row, image by image.
struct TileGrid {
    images: Images,
    /// Tile rows of an image.
    rows: usize,
    /// Tile columns of an image.
    columns: usize,
}

/// Position of a tile's top left output pixel.
struct TileOrigin {
    image: usize,
    y: usize,
    x: usize,
}

impl Winograd {
    /// Whether Winograd is faster than direct convolution for `images`, and worth the memory of its weights.
    pub fn is_profitable<T: Element>(isa: Isa, channels: usize, out: usize, images: &Images) -> bool {
        let (slowdown, max_weight_ratio) = match (T::PAIR, isa) {
            // Direct convolution multiplies in f32 as well.
            (1, _) | (_, Isa::Portable | Isa::Avx2 | Isa::Avx512 | Isa::Neon) => (1, MAX_WEIGHT_RATIO),
            // Direct convolution in bf16 has twice the throughput.
            (_, Isa::Avx512Bf16) => (2, MAX_WEIGHT_RATIO_FAST_BF16),
            _ => return false,
        };
        // Direct convolution of an upsampled image needs four taps per output pixel (see `upsample_conv`).
        let taps = if images.doubled { 4 } else { 9 };
        let has_fewer_products = taps * OUT_TILE * OUT_TILE >= 3 * slowdown * POINTS / 2;
        let values = images.height * images.width * (channels + out);
        channels.is_multiple_of(NR)
            && out.is_multiple_of(NR)
            && channels.min(out) >= 4 * NR
            && has_fewer_products
            && POINTS * channels * out < max_weight_ratio * values
    }

    /// Size of the transformed weights in bytes.
    pub fn bytes(channels: usize, out: usize) -> usize {
        POINTS * channels * out * size_of::<f32>()
    }

    /// Transforms packed 3×3 filters.
    pub fn pack<T: Element>(weights: &Packed<T>) -> Self {
        let points = Packed::many(weights.out, weights.channels, |first, channel| {
            let mut taps = [[[0.0; NR]; 3]; 3];
            for (tap, lanes) in taps.as_flattened_mut().iter_mut().enumerate() {
                for (lane, value) in lanes.iter_mut().enumerate() {
                    *value = weights.get(first + lane, channel, tap).widen();
                }
            }
            let points: [[Lanes; IN_TILE]; IN_TILE] = transform_2d(&taps, filter_transform);
            std::array::from_fn::<_, POINTS, _>(|point| points[point / IN_TILE][point % IN_TILE])
        });
        Self { points }
    }

    /// Convolves `x`, (images, height, width, channels), with half the height and width if `images.doubled`.
    /// Writes every element of `out`.
    pub fn run<T: Element>(
        &self,
        isa: Isa,
        x: &[T],
        images: Images,
        epilogue: &Epilogue<T>,
        out: &Shared<T>,
    ) {
        let grid = TileGrid::new(images);
        let (channels, columns) = (self.points[0].channels, self.points[0].out);
        let run_band = |band: Range<usize>| {
            let inputs = grid.transform_inputs(isa, x, channels, &band);
            let products = self.multiply(isa, &inputs, band.len());
            grid.transform_outputs(isa, &products, &band, epilogue, out);
        };
        if Self::bytes(channels, columns) <= CACHED_WEIGHT_BYTES {
            let bands: Vec<_> = chunks(&(0..grid.tiles()), THREAD_TILES).collect();
            bands.into_par_iter().for_each(run_band);
        } else {
            let max_tiles = MAX_BAND_BYTES / (POINTS * (channels + columns) * size_of::<f32>());
            let bands = grid.tiles().div_ceil(max_tiles.max(MIN_BAND_TILES)).max(1);
            chunks(&(0..grid.tiles()), grid.tiles().div_ceil(bands).max(1)).for_each(run_band);
        }
    }

    /// One GEMM per point. `inputs`: (point, tile, channel) → for every point (tile, output channel).
    fn multiply(&self, isa: Isa, inputs: &[f32], tiles: usize) -> Vec<Vec<f32>> {
        let no_bias = vec![0.0; self.points[0].out];
        let tasks = Gemm::<f32>::tasks_for_all_threads().div_ceil(POINTS);
        let inputs = inputs.par_chunks_exact(inputs.len() / POINTS);
        let products = self.points.par_iter().zip(inputs).map(|(weights, inputs)| {
            let problem = Gemm {
                isa,
                rows: tiles,
                lhs: Lhs::Matrix(inputs),
                weights,
                epilogue: Epilogue { bias: &no_bias, residual: None, activation: Activation::None },
            };
            // SAFETY: the GEMM writes all rows and columns of its output.
            unsafe { fill(tiles * weights.out, |out| problem.run_in(tasks, out)) }
        });
        products.collect()
    }
}

impl TileGrid {
    fn new(images: Images) -> Self {
        Self { images, rows: images.height.div_ceil(OUT_TILE), columns: images.width.div_ceil(OUT_TILE) }
    }

    /// Number of tiles.
    fn tiles(&self) -> usize {
        self.images.count * self.rows * self.columns
    }

    fn origin(&self, tile: usize) -> TileOrigin {
        let (row, column) = (tile / self.columns, tile % self.columns);
        TileOrigin { image: row / self.rows, y: row % self.rows * OUT_TILE, x: column * OUT_TILE }
    }

    /// Input transform of the tiles of `band` → (point, tile, channel).
    fn transform_inputs<T: Element>(
        &self,
        isa: Isa,
        x: &[T],
        channels: usize,
        band: &Range<usize>,
    ) -> Vec<f32> {
        let zeros = vec![T::default(); channels];
        let write = |out: &Shared<f32>| {
            let tasks: Vec<_> = chunks(band, TILES_PER_TASK).collect();
            tasks.into_par_iter().for_each(|tiles| {
                for tile in tiles {
                    let pixels = self.input_pixels(x, channels, &zeros, tile);
                    let row = |point: usize| (point * band.len() + tile - band.start) * channels;
                    // SAFETY: within the output; the rows of different points and tiles do not overlap.
                    let mut rows = std::array::from_fn(|point| unsafe { out.part(row(point), channels) });
                    transform_input_tile(isa, &pixels, &mut rows);
                }
            });
        };
        // SAFETY: the tasks cover the band; every point and channel of a tile is written.
        unsafe { fill(POINTS * band.len() * channels, write) }
    }

    /// Channels of the 6×6 input pixels of a tile; `zeros` for pixels in the padding.
    fn input_pixels<'a, T>(
        &self,
        x: &'a [T],
        channels: usize,
        zeros: &'a [T],
        tile: usize,
    ) -> [&'a [T]; POINTS] {
        let Images { height, width, doubled, .. } = self.images;
        let origin = self.origin(tile);
        let scale = if doubled { 2 } else { 1 };
        // Coordinate in the tensor of a coordinate in the padded image.
        let unpad = |at: usize, size: usize| at.checked_sub(1).filter(|&at| at < size).map(|at| at / scale);
        std::array::from_fn(|i| {
            let (row, column) = (unpad(origin.y + i / IN_TILE, height), unpad(origin.x + i % IN_TILE, width));
            match (row, column) {
                (Some(row), Some(column)) => {
                    let row = origin.image * (height / scale) + row;
                    &x[(row * (width / scale) + column) * channels..][..channels]
                }
                _ => zeros,
            }
        })
    }

    /// Output transform and epilogue of the tiles of `band`. `products`: for every point (tile, output
    /// channel).
    fn transform_outputs<T: Element>(
        &self,
        isa: Isa,
        products: &[Vec<f32>],
        band: &Range<usize>,
        epilogue: &Epilogue<T>,
        out: &Shared<T>,
    ) {
        let Images { height, width, .. } = self.images;
        let columns = epilogue.bias.len();
        let tasks: Vec<_> = chunks(band, TILES_PER_TASK).collect();
        let scratch = || vec![0.0; OUT_TILE * OUT_TILE * columns];
        tasks.into_par_iter().for_each_init(scratch, |sums, tiles| {
            for tile in tiles {
                let at = (tile - band.start) * columns;
                let rows = std::array::from_fn(|point| &products[point][at..at + columns]);
                transform_output_tile(isa, &rows, sums);
                let origin = self.origin(tile);
                for (i, sums) in sums.chunks_exact(columns).enumerate() {
                    let (y, x) = (origin.y + i / OUT_TILE, origin.x + i % OUT_TILE);
                    if y >= height || x >= width {
                        continue;
                    }
                    let row = (origin.image * height + y) * width + x;
                    // SAFETY: within the output; every pixel belongs to one tile.
                    let out = unsafe { out.part(row * columns, columns) };
                    finish(
                        isa,
                        sums,
                        epilogue.bias,
                        epilogue.residual_of(row, columns, &(0..columns)),
                        epilogue.activation,
                        out,
                    );
                }
            }
        });
    }
}

multiversion! {
    /// Input transform of a tile: its 36 pixels → `rows`, one per point.
    fn transform_input_tile<T: Element>(pixels: &[&[T]; POINTS], rows: &mut [&mut [MaybeUninit<f32>]; POINTS]) {
        for first in (0..pixels[0].len()).step_by(NR) {
            let mut lanes = [[[0.0; NR]; IN_TILE]; IN_TILE];
            for (lanes, pixel) in lanes.as_flattened_mut().iter_mut().zip(pixels) {
                for (lane, value) in lanes.iter_mut().zip(&pixel[first..first + NR]) {
                    *lane = value.widen();
                }
            }
            let points: [[Lanes; IN_TILE]; IN_TILE] = transform_2d(&lanes, input_transform);
            for (lanes, row) in points.as_flattened().iter().zip(rows.iter_mut()) {
                for (to, value) in row[first..first + NR].iter_mut().zip(lanes) {
                    to.write(*value);
                }
            }
        }
    }
}

multiversion! {
    /// Output transform of a tile: the products at its 36 points → `sums`, (output pixel, output channel).
    fn transform_output_tile(rows: &[&[f32]; POINTS], sums: &mut [f32]) {
        let columns = rows[0].len();
        for first in (0..columns).step_by(NR) {
            let mut points = [[[0.0; NR]; IN_TILE]; IN_TILE];
            for (lanes, row) in points.as_flattened_mut().iter_mut().zip(rows) {
                lanes.copy_from_slice(&row[first..first + NR]);
            }
            let outputs: [[Lanes; OUT_TILE]; OUT_TILE] = transform_2d(&points, output_transform);
            for (pixel, lanes) in outputs.as_flattened().iter().enumerate() {
                sums[pixel * columns + first..][..NR].copy_from_slice(lanes);
            }
        }
    }
}
