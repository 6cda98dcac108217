//! 3×3 convolutions with a quarter of the products: Winograd's F(4×4, 3×3), as Lavin and Gray laid it out for
//! networks (arXiv:1509.09308). The image is cut into tiles of 4×4 outputs, each from 6×6 inputs. A tile and a
//! filter are both evaluated at 6×6 points, where the convolution is one product per point, 36 instead of
//! 16 · 9; so for each point there is one matrix product, of all tiles by all filters. A last transform
//! interpolates the 16 outputs.
//!
//! All of it is in f32, whatever the tensors are: in bf16 the transforms would lose what they cancel. The points
//! 0, ±5/8, ±3/2 and ∞ keep f32 within half again the rounding of the plain sum (with 0, ±1, ±2 it is three times as much),
//! and the constants are exact.

use std::mem::MaybeUninit;
use std::ops::Range;

use rayon::prelude::*;

use super::gemm::chunks;
use super::gemm::epilogue::finish;
use super::gemm::micro_kernel::NR;
use super::isa::multiversion;
use super::{Activation, Element, Epilogue, Gemm, Isa, Lhs, Packed, Shared, fill};

/// Outputs of a tile, in one direction.
const OUTPUTS: usize = 4;
/// Inputs of a tile, and points, in one direction.
const INPUTS: usize = 6;
const POINTS: usize = INPUTS * INPUTS;

/// The finite points are 0, ±`A` and ±`B`.
const A: f32 = 0.625;
const B: f32 = 1.5;

/// Weights of at most this size stay in a cache: every thread goes its own way, with so few tiles that what is between
/// the transforms stays in its own cache.
const CACHED_BYTES: usize = 4 << 20;
const THREAD_TILES: usize = 72;
/// Larger ones are read from memory, so that all threads work together on so many tiles: at most what a shared cache
/// keeps between the transforms, but as many as it takes to earn the reading.
const BAND_BYTES: usize = 24 << 20;
const BAND_TILES: usize = 240;
/// The transformed weights may be this many times as large, in numbers, as an image that is read and the one that is
/// written: smaller images do not earn the memory, nor the time to read it. Counted for one image, however many there are:
/// what becomes of an image must not depend on its neighbours. Of the published UNet at 256 pixels these are the
/// two levels of the largest images (up to 67), and all of the VAE.
const WEIGHTS_PER_IMAGE: usize = 72;
/// The same where bf16 has twice the speed, so that less is gained, and more memory spent: one level of the UNet (up to 8.4), and
/// the VAE but for its smallest images (9).
const WEIGHTS_PER_BF16_IMAGE: usize = 9;
/// Neighbouring tiles that a thread transforms.
const TILES_PER_TASK: usize = 8;

/// Sixteen neighbouring channels.
type Lanes = [f32; NR];

/// The filters at all points: a packed (out, channels) for each.
pub struct Winograd {
    points: Vec<Packed<f32>>,
}

/// The images of a convolution with stride 1 and a border of one, which its output is as large as.
#[derive(Debug, Clone, Copy)]
pub struct Images {
    pub count: usize,
    /// Of the output.
    pub height: usize,
    pub width: usize,
    /// The input is half as high and wide, and doubled by nearest neighbour.
    pub doubled: bool,
}

/// The tiles of images, counted line by line, image by image.
struct Tiles {
    images: Images,
    lines: usize,
    columns: usize,
}

/// Where a tile's outputs begin.
struct Corner {
    image: usize,
    y: usize,
    x: usize,
}

impl Winograd {
    /// Whether the convolution of such `images` is faster than the plain sum, and worth the memory.
    pub fn is_profitable<T: Element>(isa: Isa, channels: usize, out: usize, images: &Images) -> bool {
        let (slowdown, limit) = match (T::PAIR, isa) {
            // f32 on both sides, or bf16 that is widened to it.
            (1, _) | (_, Isa::Portable | Isa::Avx2 | Isa::Avx512 | Isa::Neon) => (1, WEIGHTS_PER_IMAGE),
            // Twice the products a second in bf16.
            (_, Isa::Avx512Bf16) => (2, WEIGHTS_PER_BF16_IMAGE),
            _ => return false,
        };
        // The plain sum of a doubled image has four taps (see `upsample_conv`).
        let taps = if images.doubled { 4 } else { 9 };
        let fewer_products = taps * OUTPUTS * OUTPUTS >= 3 * slowdown * POINTS / 2;
        channels.is_multiple_of(NR)
            && out.is_multiple_of(NR)
            && channels.min(out) >= 4 * NR
            && fewer_products
            && POINTS * channels * out < limit * images.height * images.width * (channels + out)
    }

    /// Of the transformed weights.
    pub fn bytes(channels: usize, out: usize) -> usize {
        POINTS * channels * out * size_of::<f32>()
    }

    /// `weights`: of 3×3 taps.
    pub fn pack<T: Element>(weights: &Packed<T>) -> Self {
        let points = Packed::many(weights.out, weights.channels, |first, channel| {
            let mut taps = [[[0.; NR]; 3]; 3];
            for (tap, lanes) in taps.as_flattened_mut().iter_mut().enumerate() {
                for (lane, value) in lanes.iter_mut().enumerate() {
                    *value = weights.get(first + lane, channel, tap).widen();
                }
            }
            let points: [[Lanes; INPUTS]; INPUTS] = both_ways(&taps, filter_points);
            std::array::from_fn::<_, POINTS, _>(|point| points[point / INPUTS][point % INPUTS])
        });
        Self { points }
    }

    /// `x`: (images, height, width, channels), halved in height and width where it is doubled. Writes the
    /// whole output.
    pub fn run<T: Element>(
        &self,
        isa: Isa,
        x: &[T],
        images: Images,
        epilogue: &Epilogue<T>,
        out: &Shared<T>,
    ) {
        let tiles = Tiles::of(images);
        let (channels, columns) = (self.points[0].channels, self.points[0].out);
        let solve = |band: Range<usize>| {
            let inputs = tiles.evaluate(isa, x, channels, &band);
            let products = self.multiply(isa, &inputs, band.len());
            tiles.interpolate(isa, &products, &band, epilogue, out);
        };
        if Self::bytes(channels, columns) <= CACHED_BYTES {
            let bands: Vec<_> = chunks(&(0..tiles.count()), THREAD_TILES).collect();
            bands.into_par_iter().for_each(solve);
        } else {
            let most = BAND_BYTES / (POINTS * (channels + columns) * size_of::<f32>());
            let bands = tiles.count().div_ceil(most.max(BAND_TILES)).max(1);
            chunks(&(0..tiles.count()), tiles.count().div_ceil(bands).max(1)).for_each(solve);
        }
    }

    /// `inputs`: (point, tile, channel) → for each point (tile, output).
    fn multiply(&self, isa: Isa, inputs: &[f32], tiles: usize) -> Vec<Vec<f32>> {
        let no_bias = vec![0.; self.points[0].out];
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
            // SAFETY: a problem writes all its rows and columns.
            unsafe { fill(tiles * weights.out, |out| problem.run_in(tasks, out)) }
        });
        products.collect()
    }
}

impl Tiles {
    fn of(images: Images) -> Self {
        let (lines, columns) = (images.height.div_ceil(OUTPUTS), images.width.div_ceil(OUTPUTS));
        Self { images, lines, columns }
    }

    fn count(&self) -> usize {
        self.images.count * self.lines * self.columns
    }

    fn corner(&self, tile: usize) -> Corner {
        let (line, column) = (tile / self.columns, tile % self.columns);
        Corner { image: line / self.lines, y: line % self.lines * OUTPUTS, x: column * OUTPUTS }
    }

    /// The inputs of the tiles of `band` at all points: (point, tile, channel).
    fn evaluate<T: Element>(&self, isa: Isa, x: &[T], channels: usize, band: &Range<usize>) -> Vec<f32> {
        let zeros = vec![T::default(); channels];
        let write = |out: &Shared<f32>| {
            let tasks: Vec<_> = chunks(band, TILES_PER_TASK).collect();
            tasks.into_par_iter().for_each(|tiles| {
                for tile in tiles {
                    let pixels = self.inputs(x, channels, &zeros, tile);
                    let row = |point: usize| (point * band.len() + tile - band.start) * channels;
                    // SAFETY: within the output; the rows of different points and tiles do not overlap.
                    let mut rows = std::array::from_fn(|point| unsafe { out.part(row(point), channels) });
                    evaluate(isa, &pixels, &mut rows);
                }
            });
        };
        // SAFETY: every tile of the band is written at every point, in all channels.
        unsafe { fill(POINTS * band.len() * channels, write) }
    }

    /// The channels of a tile's 6×6 pixels; outside of the image they are `zeros`.
    fn inputs<'a, T>(&self, x: &'a [T], channels: usize, zeros: &'a [T], tile: usize) -> [&'a [T]; POINTS] {
        let Images { height, width, doubled, .. } = self.images;
        let corner = self.corner(tile);
        let shrink = if doubled { 2 } else { 1 };
        let within = |at: usize, size: usize| at.checked_sub(1).filter(|&at| at < size).map(|at| at / shrink);
        std::array::from_fn(|i| {
            let (line, column) =
                (within(corner.y + i / INPUTS, height), within(corner.x + i % INPUTS, width));
            match (line, column) {
                (Some(line), Some(column)) => {
                    let line = corner.image * (height / shrink) + line;
                    &x[(line * (width / shrink) + column) * channels..][..channels]
                }
                _ => zeros,
            }
        })
    }

    /// The outputs of the tiles of `band`, from the products at each point, (tile, output).
    fn interpolate<T: Element>(
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
        let scratch = || vec![0.; OUTPUTS * OUTPUTS * columns];
        tasks.into_par_iter().for_each_init(scratch, |sums, tiles| {
            for tile in tiles {
                let at = (tile - band.start) * columns;
                let rows = std::array::from_fn(|point| &products[point][at..at + columns]);
                interpolate(isa, &rows, sums);
                let corner = self.corner(tile);
                for (i, sums) in sums.chunks_exact(columns).enumerate() {
                    let (y, x) = (corner.y + i / OUTPUTS, corner.x + i % OUTPUTS);
                    if y >= height || x >= width {
                        continue;
                    }
                    let row = (corner.image * height + y) * width + x;
                    // SAFETY: within the output; no other tile has this pixel.
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
    /// A tile's 36 pixels, as `rows` at the 36 points.
    fn evaluate<T: Element>(pixels: &[&[T]; POINTS], rows: &mut [&mut [MaybeUninit<f32>]; POINTS]) {
        for first in (0..pixels[0].len()).step_by(NR) {
            let mut lanes = [[[0.; NR]; INPUTS]; INPUTS];
            for (lanes, pixel) in lanes.as_flattened_mut().iter_mut().zip(pixels) {
                for (lane, value) in lanes.iter_mut().zip(&pixel[first..first + NR]) {
                    *lane = value.widen();
                }
            }
            let points: [[Lanes; INPUTS]; INPUTS] = both_ways(&lanes, input_points);
            for (lanes, row) in points.as_flattened().iter().zip(rows.iter_mut()) {
                for (to, value) in row[first..first + NR].iter_mut().zip(lanes) {
                    to.write(*value);
                }
            }
        }
    }
}

multiversion! {
    /// Products at the 36 points, as a tile's 16 outputs in `sums`, (output pixel, column).
    fn interpolate(rows: &[&[f32]; POINTS], sums: &mut [f32]) {
        let columns = rows[0].len();
        for first in (0..columns).step_by(NR) {
            let mut points = [[[0.; NR]; INPUTS]; INPUTS];
            for (lanes, row) in points.as_flattened_mut().iter_mut().zip(rows) {
                lanes.copy_from_slice(&row[first..first + NR]);
            }
            let outputs: [[Lanes; OUTPUTS]; OUTPUTS] = both_ways(&points, outputs);
            for (pixel, lanes) in outputs.as_flattened().iter().enumerate() {
                sums[pixel * columns + first..][..NR].copy_from_slice(lanes);
            }
        }
    }
}

/// `transform` along every line, then along every column; the result lies on its side, lines for columns. Filters and
/// inputs both lie so, hence the products, and the outputs are upright again.
#[inline(always)]
fn both_ways<const N: usize, const M: usize>(
    square: &[[Lanes; N]; N],
    transform: impl Fn(&[Lanes], usize, &mut [Lanes; M]),
) -> [[Lanes; M]; M] {
    let mut lines = [[[0.; NR]; M]; N];
    for (line, to) in square.iter().zip(&mut lines) {
        transform(line, 1, to);
    }
    let mut out = [[[0.; NR]; M]; M];
    for (column, to) in out.iter_mut().enumerate() {
        transform(&lines.as_flattened()[column..], M, to);
    }
    out
}

/// The polynomial whose coefficients are three taps, at each point, divided by the product of the point's distances
/// to the others (Lagrange's denominators). The taps are `step` apart.
#[inline(always)]
fn filter_points(taps: &[Lanes], step: usize, out: &mut [Lanes; INPUTS]) {
    const AT_A: f32 = 1. / (2. * A * A * (A * A - B * B));
    const AT_B: f32 = 1. / (2. * B * B * (B * B - A * A));
    let (g0, g1, g2) = (&taps[0], &taps[step], &taps[2 * step]);
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

/// Six inputs, `step` apart, times the polynomials that vanish at all points but one: x(x + a)(x² - b²) for a, and
/// so on.
#[inline(always)]
fn input_points(inputs: &[Lanes], step: usize, out: &mut [Lanes; INPUTS]) {
    let (d0, d1, d2) = (&inputs[0], &inputs[step], &inputs[2 * step]);
    let (d3, d4, d5) = (&inputs[3 * step], &inputs[4 * step], &inputs[5 * step]);
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

/// The powers 0 to 3 of the points, times the products there, which are `step` apart; ∞ has the highest power alone.
#[inline(always)]
fn outputs(points: &[Lanes], step: usize, out: &mut [Lanes; OUTPUTS]) {
    let (zero, a, minus_a) = (&points[0], &points[step], &points[2 * step]);
    let (b, minus_b, infinity) = (&points[3 * step], &points[4 * step], &points[5 * step]);
    for lane in 0..NR {
        let (even_a, odd_a) = (a[lane] + minus_a[lane], a[lane] - minus_a[lane]);
        let (even_b, odd_b) = (b[lane] + minus_b[lane], b[lane] - minus_b[lane]);
        out[0][lane] = zero[lane] + even_a + even_b;
        out[1][lane] = A * odd_a + B * odd_b;
        out[2][lane] = A * A * even_a + B * B * even_b;
        out[3][lane] = A * A * A * odd_a + B * B * B * odd_b + infinity[lane];
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::super::{ConvGeometry, Residual};
    use super::*;

    /// Numbers in [-1, 1) without a pattern that tiles could share.
    fn numbers<T: Element>(count: usize, seed: u32) -> Vec<T> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            T::narrow((state >> 8) as f32 / (1 << 23) as f32 - 1.)
        };
        (0..count).map(|_| next()).collect()
    }

    /// The largest difference to the plain sum, in units of the largest output.
    fn difference<T: Element>(isa: Isa, images: Images, channels: usize, columns: usize) -> f32 {
        let Images { count, height, width, doubled } = images;
        let pixels = count * height * width;
        let x = numbers::<T>(pixels / if doubled { 4 } else { 1 } * channels, 1);
        let weights = numbers::<T>(columns * channels * 9, 2);
        let weights = Packed::new(columns, channels, 9, |i| weights[i]);
        let (bias, residual) = (numbers::<f32>(columns, 3), numbers::<T>(pixels * columns, 4));
        let residual = Some(Residual { values: &residual, rows_per_value: 1 });
        let epilogue = Epilogue { bias: &bias, residual, activation: Activation::Silu };
        let winograd = Winograd::pack(&weights);
        // SAFETY: the whole output is written, as it is below.
        let got = unsafe { fill(pixels * columns, |out| winograd.run(isa, &x, images, &epilogue, out)) };

        let large = if doubled { double(&x, height / 2, width / 2, channels) } else { x };
        let geometry = ConvGeometry {
            height,
            width,
            kernel: 3,
            stride: 1,
            top: 1,
            left: 1,
            out_height: height,
            out_width: width,
            quarter: None,
        };
        let source = Lhs::Im2col(&large, geometry);
        let problem = Gemm { isa, rows: pixels, lhs: source, weights: &weights, epilogue };
        // SAFETY: as above.
        let want = unsafe { fill(pixels * columns, |out| problem.run(out)) };
        let largest = |values: &mut dyn Iterator<Item = f32>| values.fold(0f32, |a, b| a.max(b.abs()));
        let scale = largest(&mut want.iter().map(|v| v.widen()));
        largest(&mut got.iter().zip(&want).map(|(a, b)| a.widen() - b.widen())) / scale
    }

    fn double<T: Element>(x: &[T], height: usize, width: usize, channels: usize) -> Vec<T> {
        let pixels: Vec<_> = x.chunks_exact(channels).collect();
        let lines = pixels.chunks_exact(width);
        assert_eq!(lines.len() % height, 0);
        let twice =
            |line: &[&[T]]| line.iter().flat_map(|pixel| [*pixel, *pixel]).flatten().copied().collect();
        lines
            .flat_map(|line| {
                let line: Vec<T> = twice(line);
                [line.clone(), line]
            })
            .flatten()
            .collect()
    }

    #[test]
    fn equals_the_plain_sum_for_whole_and_cut_tiles() {
        let images = |count, height, width, doubled| Images { count, height, width, doubled };
        let shapes = [
            (images(2, 8, 12, false), 64, 80),
            (images(3, 9, 7, false), 80, 64),
            (images(1, 1, 2, false), 16, 16),
            (images(2, 10, 6, true), 64, 64),
            // More tiles than one thread takes, and weights that all threads share.
            (images(3, 32, 48, false), 32, 16),
            (images(5, 30, 30, false), 208, 192),
        ];
        for isa in Isa::available() {
            for (images, channels, columns) in shapes {
                let what = format!("{isa:?} {images:?} {channels} to {columns}");
                let worst = difference::<f32>(isa, images, channels, columns);
                assert!(worst <= 5e-6, "{what} in f32: {worst:e}");
                // One rounding of each output apart.
                let worst = difference::<bf16>(isa, images, channels, columns);
                assert!(worst <= 5e-3, "{what} in bf16: {worst:e}");
            }
        }
    }

    #[test]
    fn is_taken_for_large_images_where_f32_is_fast_enough() {
        let frames = |size| Images { count: 16, height: size, width: size, doubled: false };
        let pays = |isa, channels, out, images| Winograd::is_profitable::<bf16>(isa, channels, out, &images);
        for isa in [Isa::Portable, Isa::Avx2, Isa::Avx512Bf16, Isa::Neon] {
            assert!(pays(isa, 960, 320, frames(32)), "{isa:?}");
            assert!(!pays(isa, 320, 4, frames(32)), "{isa:?}: four outputs");
            assert!(!pays(isa, 1280, 1280, frames(8)), "{isa:?}: many weights for few pixels");
        }
        assert!(pays(Isa::Avx2, 1920, 640, frames(16)));
        assert!(!pays(Isa::Avx512Bf16, 640, 640, frames(16)));
        assert!(Winograd::is_profitable::<f32>(Isa::Avx512Bf16, 640, 640, &frames(16)));
        // The VAE's smallest images, and the next.
        assert!(!pays(Isa::Avx512Bf16, 512, 512, frames(32)));
        assert!(pays(Isa::Avx512Bf16, 512, 512, frames(64)));
        let doubled = Images { doubled: true, ..frames(32) };
        assert!(pays(Isa::Avx2, 320, 320, doubled));
        // Four taps at twice the speed are fewer than the transforms are worth.
        assert!(!pays(Isa::Avx512Bf16, 320, 320, doubled));
        for isa in [Isa::Amx, Isa::TileModel, Isa::NeonBf16] {
            assert!(!pays(isa, 320, 320, frames(32)), "{isa:?}");
        }
    }
}
