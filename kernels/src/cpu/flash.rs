//! One head of attention, block by block: scores of a few queries against a few hundred keys live in the
//! cache, the softmax runs along (Dao et al. 2022, arXiv 2205.14135), and the score matrix is never whole.

use std::ops::Range;

use super::isa::multiversion;
use super::microkernel::{GROUP, Strip};
use super::packed::Lines;
use super::{Element, Isa, vector_math};

/// Queries that share a pass over keys and values: whole strips of every microkernel.
pub const QUERIES: usize = 48;
/// Keys whose scores are held at a time.
const KEYS: usize = 512;

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
pub struct Head<T> {
    /// Sixteen keys to a group, summed over the head's dimensions.
    keys: Lines<T>,
    /// Sixteen dimensions to a group, summed over the keys.
    values: Lines<T>,
    count: usize,
    dim: usize,
}

impl<T: Element> Head<T> {
    /// Room for `count` keys of `dim` dimensions, whole pairs.
    pub fn new(count: usize, dim: usize) -> Self {
        Self {
            keys: Lines::zeroed(count.div_ceil(GROUP) * dim.div_ceil(T::PAIR)),
            values: Lines::zeroed(dim.div_ceil(GROUP) * count.div_ceil(T::PAIR)),
            count,
            dim,
        }
    }

    /// Elements from a group of keys to the next, and from a group of dimensions to the next.
    fn strides(&self) -> (usize, usize) {
        let lines = |n: usize| n.div_ceil(T::PAIR) * Lines::<T>::LEN;
        (lines(self.dim), lines(self.count))
    }

    /// Takes another head of the same size.
    pub fn pack(&mut self, keys: Rows<T>, values: Rows<T>) {
        let (line, pair, dim) = (Lines::<T>::LEN, T::PAIR, self.dim);
        let (key_stride, value_stride) = self.strides();
        for (group, packed) in self.keys.as_mut_slice().chunks_exact_mut(key_stride).enumerate() {
            let first = group * GROUP;
            for j in first..self.count.min(first + GROUP) {
                let lane = (j - first) * pair;
                let row = keys.row(j, dim).chunks_exact(pair);
                for (line, from) in packed.chunks_exact_mut(line).zip(row) {
                    line[lane..lane + pair].iter_mut().zip(from).for_each(|(to, x)| *to = *x);
                }
            }
        }
        for (group, packed) in self.values.as_mut_slice().chunks_exact_mut(value_stride).enumerate() {
            let here = group * GROUP..dim.min((group + 1) * GROUP);
            for (i, line) in packed.chunks_exact_mut(line).enumerate() {
                for j in i * pair..self.count.min((i + 1) * pair) {
                    let lanes = line.chunks_exact_mut(pair);
                    for (lane, x) in lanes.zip(&values.row(j, dim)[here.clone()]) {
                        lane[j - i * pair] = *x;
                    }
                }
            }
        }
    }
}

/// What a thread keeps between blocks.
pub struct Scratch<T> {
    scores: Vec<f32>,
    /// Exponentials of the scores, the left-hand side of the second product.
    weights: Vec<T>,
    sums: Vec<f32>,
    /// Per query: the largest score so far, the sum of exponentials relative to it.
    running: Vec<(f32, f32)>,
    pointers: Vec<*const T>,
}

impl<T: Element> Scratch<T> {
    pub fn new() -> Self {
        Self {
            scores: Vec::new(),
            weights: Vec::new(),
            sums: Vec::new(),
            running: Vec::new(),
            pointers: Vec::new(),
        }
    }
}

/// softmax(q kᵀ / √dim) v for the queries `block` (at most [`QUERIES`]) of a head; `out(i)` is where query
/// `i` goes.
pub fn attend<'o, T: Element>(
    isa: Isa,
    (queries, block): (Rows<T>, Range<usize>),
    head: &Head<T>,
    scratch: &mut Scratch<T>,
    mut out: impl FnMut(usize) -> &'o mut [T],
) {
    let scale = (head.dim as f32).powf(-0.5);
    let (key_stride, value_stride) = head.strides();
    let rows = block.len();
    let width = head.count.min(KEYS).next_multiple_of(GROUP);
    let out_width = head.dim.next_multiple_of(GROUP);
    scratch.scores.resize(rows * width, 0.);
    scratch.weights.resize(rows * width, T::default());
    scratch.sums.clear();
    scratch.sums.resize(rows * out_width, 0.);
    scratch.running.clear();
    scratch.running.resize(rows, (f32::NEG_INFINITY, 0.));

    for first in (0..head.count).step_by(KEYS) {
        let keys = (head.count - first).min(KEYS);
        scratch.pointers.clear();
        scratch.pointers.extend(block.clone().map(|i| queries.row(i, head.dim).as_ptr()));
        let product = Product {
            rows: &scratch.pointers,
            steps: head.dim / T::PAIR,
            groups: keys.div_ceil(GROUP),
            group_stride: key_stride,
            accumulate: false,
        };
        // SAFETY: rows of `dim` elements; `first` is a whole number of groups, of which there are enough for
        // `keys`; the scores have that many columns.
        unsafe {
            let columns = head.keys.as_ptr().add(first / GROUP * key_stride);
            product.run(isa, columns, scratch.scores.as_mut_ptr(), width);
        }

        for (i, running) in scratch.running.iter_mut().enumerate() {
            let scores = &scratch.scores[i * width..][..keys];
            let weights = &mut scratch.weights[i * width..][..keys.next_multiple_of(T::PAIR)];
            let shrink = soften(isa, scores, scale, running, weights);
            if first > 0 && shrink != 1. {
                scale_all(isa, &mut scratch.sums[i * out_width..][..out_width], shrink);
            }
        }

        scratch.pointers.clear();
        scratch.pointers.extend(scratch.weights.chunks_exact(width).map(<[T]>::as_ptr));
        let product = Product {
            rows: &scratch.pointers,
            steps: keys.div_ceil(T::PAIR),
            groups: head.dim.div_ceil(GROUP),
            group_stride: value_stride,
            accumulate: first > 0,
        };
        // SAFETY: rows of at least `keys` weights, whole pairs; `first` is a whole number of lines, of which
        // there are enough for `keys`; the sums have a column per dimension, rounded up to groups.
        unsafe {
            let columns = head.values.as_ptr().add(first / T::PAIR * Lines::<T>::LEN);
            product.run(isa, columns, scratch.sums.as_mut_ptr(), out_width);
        }
    }
    for (i, sums) in scratch.sums.chunks_exact(out_width.max(1)).enumerate() {
        store(isa, &sums[..head.dim], 1. / scratch.running[i].1, out(block.start + i));
    }
}

/// A matrix product with one pointer per row.
struct Product<'a, T> {
    rows: &'a [*const T],
    /// Lines that are summed.
    steps: usize,
    groups: usize,
    group_stride: usize,
    accumulate: bool,
}

impl<T: Element> Product<'_, T> {
    /// # Safety
    /// Every row must be good for `steps` pairs, `columns` for `groups` groups of `steps` lines, and `sums`
    /// for `rows` rows of `groups` × 16 floats, `sums_stride` apart.
    unsafe fn run(&self, isa: Isa, columns: *const T, sums: *mut f32, sums_stride: usize) {
        let kernel = T::microkernel(isa);
        for group in (0..self.groups).step_by(kernel.max_groups) {
            let groups = (self.groups - group).min(kernel.max_groups);
            for (strip, rows) in self.rows.chunks(kernel.max_rows).enumerate() {
                // SAFETY: the caller's promise; pieces stay within the given rows and groups.
                unsafe {
                    let piece = Strip {
                        rows: rows.as_ptr(),
                        shift: 0,
                        segments: 1,
                        steps: self.steps,
                        columns: columns.add(group * self.group_stride),
                        group_stride: self.group_stride,
                        sums: sums.add(strip * kernel.max_rows * sums_stride + group * GROUP),
                        sums_stride,
                        accumulate: self.accumulate,
                    };
                    (kernel.run)(rows.len(), groups, &piece);
                }
            }
        }
    }
}

multiversion! {
    /// Exponentials of a row of scores relative to the largest so far, zeros after them; returns what
    /// earlier sums shrink by.
    fn soften<T: Element>(scores: &[f32], scale: f32, running: &mut (f32, f32), weights: &mut [T]) -> f32 {
        let (whole, rest) = scores.as_chunks::<GROUP>();
        let mut lanes = [f32::NEG_INFINITY; GROUP];
        for scores in whole {
            for (lane, score) in lanes.iter_mut().zip(scores) {
                *lane = if *score > *lane { *score } else { *lane };
            }
        }
        // Not chained to the loop above: only fixed lengths keep the lanes in a register.
        for (lane, score) in lanes.iter_mut().zip(rest) {
            *lane = if *score > *lane { *score } else { *lane };
        }
        let largest = halve(lanes, |a, b| if b > a { b } else { a }) * scale;
        let largest = if largest > running.0 { largest } else { running.0 };
        let shrink = vector_math::exp(running.0 - largest);

        let mut lanes = [0.; GROUP];
        let (exponentials, after) = weights.split_at_mut(scores.len());
        let (to_whole, to_rest) = exponentials.as_chunks_mut::<GROUP>();
        for (scores, to) in whole.iter().zip(to_whole) {
            for ((score, to), lane) in scores.iter().zip(to).zip(&mut lanes) {
                let e = vector_math::exp(score * scale - largest);
                *lane += e;
                *to = T::narrow(e);
            }
        }
        for ((score, to), lane) in rest.iter().zip(to_rest).zip(&mut lanes) {
            let e = vector_math::exp(score * scale - largest);
            *lane += e;
            *to = T::narrow(e);
        }
        after.fill(T::default());
        *running = (largest, running.1 * shrink + halve(lanes, |a, b| a + b));
        shrink
    }
}

/// The lanes taken together in pairs, four times: short chains, in a fixed order.
#[inline(always)]
fn halve(lanes: [f32; GROUP], with: impl Fn(f32, f32) -> f32) -> f32 {
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
    fn store<T: Element>(sums: &[f32], by: f32, out: &mut [T]) {
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = T::narrow(sum * by);
        }
    }
}
