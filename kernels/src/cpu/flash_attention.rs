//! One head of attention, block by block: scores of a few queries against a few hundred keys live in the
//! cache, the softmax runs along (Dao et al. 2022, arXiv 2205.14135), and the score matrix is never whole.

use std::mem::MaybeUninit;
use std::ops::Range;

use super::element::MicrokernelDispatch;
use super::gemm::micro_kernel::{Microkernel, NR, Strip};
use super::gemm::pack::Lines;
use super::gemm::tiles::{self, DEPTH, LhsTiles, MicroTile, Prefetch, SIDE, Started};
use super::isa::multiversion;
use super::{Element, Isa, vector_math};

/// Queries that share a pass over keys and values: whole strips of every microkernel, and whole tiles.
pub const QUERIES: usize = 48;
/// Keys whose scores are held at a time.
const KEYS: usize = 512;
/// No microkernel takes more rows at a time.
const MAX_ROWS: usize = 8;

/// Rows of one head within a tensor, `stride` elements apart.
#[derive(Clone, Copy)]
pub struct Rows<'a, T> {
    /// From the first element of the first row on.
    pub values: &'a [T],
    pub stride: usize,
}

impl<'a, T> Rows<'a, T> {
    fn row(&self, i: usize, dim: usize) -> &'a [T] {
        &self.values[i * self.stride..][..dim]
    }
}

/// Keys and values of one head, in the microkernels' order.
pub struct PackedKv<T> {
    /// Sixteen keys to a group, summed over the head's dimensions.
    keys: Lines<T>,
    /// Sixteen dimensions to a group, summed over the keys.
    values: Lines<T>,
    count: usize,
    dim: usize,
}

impl<T: Element> PackedKv<T> {
    /// Room for `count` keys of `dim` dimensions, whole pairs.
    pub fn new(count: usize, dim: usize) -> Self {
        Self {
            keys: Lines::zeroed(count.div_ceil(NR) * Lines::<T>::of_group(dim.div_ceil(T::PAIR))),
            values: Lines::zeroed(dim.div_ceil(NR) * Lines::<T>::of_group(count.div_ceil(T::PAIR))),
            count,
            dim,
        }
    }

    /// Elements from a group of keys to the next, and from a group of dimensions to the next.
    fn strides(&self) -> (usize, usize) {
        let lines = |n: usize| Lines::<T>::of_group(n.div_ceil(T::PAIR)) * Lines::<T>::LEN;
        (lines(self.dim), lines(self.count))
    }

    /// Takes another head of the same size.
    pub fn pack(&mut self, keys: Rows<T>, values: Rows<T>) {
        let (count, dim) = (self.count, self.dim);
        let (key_stride, value_stride) = self.strides();
        let lines = |stride: usize| (stride / Lines::<T>::LEN).max(1);
        let groups = self.keys.as_mut_lines().chunks_exact_mut(lines(key_stride)).enumerate();
        for (first, packed) in groups.map(|(group, packed)| (group * NR, packed)) {
            for j in first..count.min(first + NR) {
                let pairs = keys.row(j, dim).chunks_exact(T::PAIR);
                for (line, pair) in packed.iter_mut().zip(pairs) {
                    line.0[j - first] = T::lane(pair);
                }
            }
        }
        let groups = self.values.as_mut_lines().chunks_exact_mut(lines(value_stride)).enumerate();
        for (group, packed) in groups {
            let here = group * NR..dim.min((group + 1) * NR);
            for (line, j) in packed.iter_mut().zip((0..count).step_by(T::PAIR)) {
                let row = |j: usize| if j < count { &values.row(j, dim)[here.clone()] } else { &[] };
                T::lanes(row(j), row(j + 1), &mut line.0);
            }
        }
    }
}

/// What a thread keeps between blocks.
pub struct Scratch<T> {
    /// Of the block, with zeros after the head's dimensions: for tiles.
    queries: Vec<T>,
    scores: Vec<f32>,
    /// Exponentials of the scores, the left-hand side of the second product.
    weights: Vec<T>,
    sums: Vec<f32>,
    /// Per query: the largest score so far, the sum of exponentials relative to it.
    running: Vec<(f32, f32)>,
}

impl<T: Element> Scratch<T> {
    pub fn new() -> Self {
        Self {
            queries: Vec::new(),
            scores: Vec::new(),
            weights: Vec::new(),
            sums: Vec::new(),
            running: Vec::new(),
        }
    }
}

/// softmax(q kᵀ / √dim) v for the queries `block` (at most [`QUERIES`]) of a head; `out(i)` is where query
/// `i` goes.
pub fn flash_attention_block<'o, T: Element>(
    engine: &Engine<T>,
    isa: Isa,
    (queries, block): (Rows<T>, Range<usize>),
    head: &PackedKv<T>,
    scratch: &mut Scratch<T>,
    mut out: impl FnMut(usize) -> &'o mut [MaybeUninit<T>],
) {
    let scale = (head.dim as f32).powf(-0.5);
    let (key_stride, value_stride) = head.strides();
    let rows = block.len();
    let width = head.count.min(KEYS).next_multiple_of(NR);
    let out_width = head.dim.next_multiple_of(NR);
    // Tiles read and write sixteen rows at a time; whole lines of weights more than a power of two from row to row
    // do not all fall on the same places of the cache.
    let high = rows.next_multiple_of(tiles::ROWS);
    let weights_width = width.next_multiple_of(DEPTH) + DEPTH;
    scratch.scores.resize(high * width, 0.);
    scratch.weights.resize(high * weights_width, T::default());
    scratch.sums.resize(high * out_width, 0.);
    scratch.running.clear();
    scratch.running.resize(rows, (f32::NEG_INFINITY, 0.));
    let queries = match engine {
        Engine::Registers(_) => (queries.row(block.start, head.dim).as_ptr(), queries.stride),
        Engine::Tiles(_) => {
            let depth = head.dim.next_multiple_of(DEPTH);
            scratch.queries.clear();
            scratch.queries.resize(high * depth, T::default());
            for (to, i) in scratch.queries.chunks_exact_mut(depth).zip(block.clone()) {
                to[..head.dim].copy_from_slice(queries.row(i, head.dim));
            }
            (scratch.queries.as_ptr(), depth)
        }
    };

    for first in (0..head.count).step_by(KEYS) {
        let keys = (head.count - first).min(KEYS);
        let product = Product {
            rows,
            left: queries.0,
            left_stride: queries.1,
            summed: head.dim,
            groups: keys.div_ceil(NR),
            group_stride: key_stride,
            accumulate: false,
        };
        // SAFETY: rows of `dim` elements, for tiles whole ones with zeros; `first` is a whole number of groups, of
        // which there are enough for `keys`; the scores have that many columns.
        unsafe {
            let columns = head.keys.as_ptr().add(first / NR * key_stride);
            engine.run(&product, columns, scratch.scores.as_mut_ptr(), width);
        }

        // Tiles are as deep as two groups.
        let (grouped, padded) = (keys.next_multiple_of(NR), keys.next_multiple_of(DEPTH));
        for (i, running) in scratch.running.iter_mut().enumerate() {
            let scores = &mut scratch.scores[i * width..][..grouped];
            let weights = &mut scratch.weights[i * weights_width..][..padded];
            let shrink = soften(isa, scores, keys, scale, running, weights);
            if first > 0 && shrink != 1. {
                scale_all(isa, &mut scratch.sums[i * out_width..][..out_width], shrink);
            }
        }

        let product = Product {
            rows,
            left: scratch.weights.as_ptr(),
            left_stride: weights_width,
            summed: keys,
            groups: head.dim.div_ceil(NR),
            group_stride: value_stride,
            accumulate: first > 0,
        };
        // SAFETY: rows of `padded` weights; `first` is a whole number of lines (and of tiles), of which there are
        // enough for `keys`; the sums have a column per dimension, rounded up to groups.
        unsafe {
            let columns = head.values.as_ptr().add(first / T::PAIR * Lines::<T>::LEN);
            engine.run(&product, columns, scratch.sums.as_mut_ptr(), out_width);
        }
    }
    for (i, running) in scratch.running.iter().enumerate() {
        let sums = &scratch.sums[i * out_width..][..head.dim];
        store(isa, sums, 1. / running.1, out(block.start + i));
    }
}

/// A matrix product whose rows are equally far from each other.
struct Product<T> {
    rows: usize,
    left: *const T,
    left_stride: usize,
    /// Elements of a row that are summed.
    summed: usize,
    groups: usize,
    group_stride: usize,
    accumulate: bool,
}

/// What computes products, ready on this thread.
pub enum Engine<T> {
    Registers(Microkernel<T>),
    Tiles(Started<T>),
}

impl<T: Element> Engine<T> {
    pub fn start(isa: Isa) -> Self {
        match T::kernel(isa) {
            MicrokernelDispatch::Registers(kernel) => Self::Registers(kernel),
            MicrokernelDispatch::Tiles(kernel) => Self::Tiles(kernel.start()),
        }
    }

    /// # Safety
    /// Every row must be good for `summed` elements, rounded up to [`DEPTH`] for tiles, `columns` for `groups` groups
    /// of as many, and `sums` for `rows` rows of `groups` × 16 floats, `sums_stride` apart. For tiles rows and sums are
    /// those of whole tiles.
    unsafe fn run(&self, product: &Product<T>, columns: *const T, sums: *mut f32, sums_stride: usize) {
        let Product { rows, left, left_stride, summed, groups, group_stride, accumulate } = *product;
        match self {
            Self::Registers(kernel) => {
                for group in (0..groups).step_by(kernel.max_groups) {
                    for row in (0..rows).step_by(kernel.max_rows) {
                        let count = kernel.max_rows.min(rows - row);
                        // SAFETY: the caller's promise; pieces stay within the given rows and groups.
                        unsafe {
                            let pointers: [*const T; MAX_ROWS] =
                                std::array::from_fn(|r| left.wrapping_add((row + r) * left_stride));
                            let piece = Strip {
                                rows: pointers.as_ptr(),
                                shift: 0,
                                segments: 1,
                                steps: summed.div_ceil(T::PAIR),
                                columns: columns.add(group * group_stride),
                                group_stride,
                                sums: sums.add(row * sums_stride + group * NR),
                                sums_stride,
                                accumulate,
                            };
                            (kernel.run)(count, kernel.max_groups.min(groups - group), &piece);
                        }
                    }
                }
            }
            Self::Tiles(tiles) => {
                let tiles_of_rows = rows.div_ceil(tiles::ROWS);
                for group in (0..groups).step_by(SIDE) {
                    for tile in (0..tiles_of_rows).step_by(SIDE) {
                        let row = tile * tiles::ROWS;
                        // SAFETY: the caller's promise; pieces stay within the given tiles of rows and groups.
                        unsafe {
                            let micro_tile = MicroTile {
                                lhs: LhsTiles {
                                    first: left.add(row * left_stride),
                                    row: left_stride,
                                    tile: tiles::ROWS * left_stride,
                                    step: DEPTH,
                                    segment: 0,
                                },
                                segments: 1,
                                steps: summed.div_ceil(DEPTH),
                                rhs: columns.add(group * group_stride),
                                group_stride,
                                rhs_segment: 0,
                                sums: sums.add(row * sums_stride + group * NR),
                                sums_stride,
                                accumulate,
                                streamed: false,
                                prefetch: [Prefetch::NONE; 2],
                            };
                            let (rows, groups) = (SIDE.min(tiles_of_rows - tile), SIDE.min(groups - group));
                            tiles.run(rows, groups, &micro_tile, None);
                        }
                    }
                }
            }
        }
    }
}

/// Exponentials of a row of scores relative to the largest so far, zeros after them; returns what
/// earlier sums shrink by. Both rows are whole groups, of which `count` scores are keys.
fn soften<T: Element>(
    isa: Isa,
    scores: &mut [f32],
    count: usize,
    scale: f32,
    running: &mut (f32, f32),
    weights: &mut [T],
) -> f32 {
    match T::row_kernels(isa) {
        Some(kernels) => kernels.soften(scores, count, scale, running, weights),
        None => soften_plain(isa, scores, count, scale, running, weights),
    }
}

/// A row of the result: sums times what makes their weights one.
fn store<T: Element>(isa: Isa, sums: &[f32], by: f32, out: &mut [MaybeUninit<T>]) {
    match T::row_kernels(isa) {
        Some(kernels) => kernels.store(sums, by, out),
        None => store_plain(isa, sums, by, out),
    }
}

multiversion! {
    fn soften_plain<T: Element>(
        scores: &mut [f32], count: usize, scale: f32, running: &mut (f32, f32), weights: &mut [T],
    ) -> f32 {
        // Only whole groups below: what is no key must not count.
        scores[count..].fill(f32::NEG_INFINITY);
        let mut lanes = [f32::NEG_INFINITY; NR];
        for scores in scores.as_chunks::<NR>().0 {
            for (lane, score) in lanes.iter_mut().zip(scores) {
                *lane = if *score > *lane { *score } else { *lane };
            }
        }
        let largest = halve(lanes, |a, b| if b > a { b } else { a }) * scale;
        let largest = if largest > running.0 { largest } else { running.0 };
        let shrink = vector_math::exp(running.0 - largest);

        let mut lanes = [0.; NR];
        for (scores, to) in scores.as_chunks::<NR>().0.iter().zip(weights.as_chunks_mut::<NR>().0) {
            for ((score, to), lane) in scores.iter().zip(to).zip(&mut lanes) {
                let e = T::exp_of_negative(score * scale - largest);
                *lane += e;
                *to = T::narrow_positive(e);
            }
        }
        weights[count..].fill(T::default());
        *running = (largest, running.1 * shrink + halve(lanes, |a, b| a + b));
        shrink
    }
}

/// The lanes taken together in pairs, four times: short chains, in a fixed order.
#[inline(always)]
fn halve(lanes: [f32; NR], with: impl Fn(f32, f32) -> f32) -> f32 {
    // Spelled out: a loop over the widths stays a loop, with the lanes in memory.
    let mut eight = [0.; 8];
    for i in 0..8 {
        eight[i] = with(lanes[i], lanes[i + 8]);
    }
    let mut four = [0.; 4];
    for i in 0..4 {
        four[i] = with(eight[i], eight[i + 4]);
    }
    with(with(four[0], four[2]), with(four[1], four[3]))
}

multiversion! {
    fn scale_all(sums: &mut [f32], by: f32) {
        sums.iter_mut().for_each(|sum| *sum *= by);
    }
}

multiversion! {
    fn store_plain<T: Element>(sums: &[f32], by: f32, out: &mut [MaybeUninit<T>]) {
        for (out, sum) in out.iter_mut().zip(sums) {
            out.write(T::narrow(sum * by));
        }
    }
}
