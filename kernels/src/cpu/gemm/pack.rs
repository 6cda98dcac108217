//! Weights in the order in which the microkernels read them.
//!
//! Sixteen outputs make a group; within a group the summed dimension runs tap by tap, channel by channel
//! (pair by pair for bf16), and each step is one 64-byte line of the group's sixteen outputs. A group of bf16 ends
//! with lines of zeros, up to a whole tile of sixteen lines, so that the same order serves every instruction set.

use std::marker::PhantomData;

use rayon::prelude::*;

use super::super::Element;
use super::super::element::Shared;
use super::micro_kernel::NR;
use super::tiles;

/// One cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct Line(pub [u32; NR]);

/// Zeroed memory in whole cache lines.
pub struct Lines<T> {
    lines: Vec<Line>,
    element: PhantomData<T>,
}

impl<T: Element> Lines<T> {
    /// Elements in a line: sixteen f32, or sixteen pairs of bf16.
    pub const LEN: usize = NR * T::PAIR;

    /// Lines of a group that sums over `pairs` single f32 or pairs of bf16.
    pub fn of_group(pairs: usize) -> usize {
        pairs.next_multiple_of(if T::PAIR == 2 { tiles::ROWS } else { 1 })
    }

    pub fn zeroed(lines: usize) -> Self {
        Self { lines: vec![Line([0; NR]); lines], element: PhantomData }
    }

    /// `lines` lines that `write` fills.
    ///
    /// # Safety
    /// `write` must write every element.
    pub unsafe fn filled(lines: usize, write: impl FnOnce(&Shared<T>)) -> Self {
        let mut memory = Vec::<Line>::with_capacity(lines);
        write(&Shared::new(memory.spare_capacity_mut().as_mut_ptr().cast()));
        // SAFETY: there is room for `lines`, and the caller promises that they were written.
        unsafe { memory.set_len(lines) };
        Self { lines: memory, element: PhantomData }
    }

    pub fn as_ptr(&self) -> *const T {
        self.lines.as_ptr().cast()
    }

    /// Every lane is an f32, or a pair of bf16 with the first in its low half.
    pub fn as_mut_lines(&mut self) -> &mut [Line] {
        &mut self.lines
    }

    pub fn as_slice(&self) -> &[T] {
        let len = self.lines.len() * Self::LEN;
        // SAFETY: a line is `LEN` elements large and better aligned, and any bits are a valid f32 or bf16.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), len) }
    }

    pub fn as_mut_slice(&mut self) -> &mut [T] {
        let len = self.lines.len() * Self::LEN;
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), len) }
    }
}

/// A weight of (out, channels, taps), packed.
pub struct Packed<T> {
    lines: Lines<T>,
    pub out: usize,
    /// Of the input; those of the packed weight are rounded up to whole pairs.
    pub channels: usize,
    pub taps: usize,
}

impl<T: Element> Packed<T> {
    /// `weight(i)`: the element at `i` of a row-major (out, channels, taps).
    pub fn new(out: usize, channels: usize, taps: usize, weight: impl Fn(usize) -> T + Sync) -> Self {
        let group = Lines::<T>::of_group(taps * channels.div_ceil(T::PAIR));
        let mut lines = Lines::zeroed(out.div_ceil(NR) * group);
        let groups = lines.as_mut_slice().par_chunks_mut((group * Lines::<T>::LEN).max(1));
        groups.enumerate().for_each(|(group, packed)| {
            let first = group * NR;
            for o in first..out.min(first + NR) {
                for tap in 0..taps {
                    let start = tap * channels.div_ceil(T::PAIR) * Lines::<T>::LEN;
                    for c in 0..channels {
                        packed[start + Self::within(o, c)] = weight((o * channels + c) * taps + tap);
                    }
                }
            }
        });
        Self { lines, out, channels, taps }
    }

    /// The weight of output `o` for channel `c` at `tap`, as it was packed.
    pub fn get(&self, o: usize, c: usize, tap: usize) -> T {
        let tap = tap * self.padded_channels() * NR;
        self.lines.as_slice()[o / NR * self.group_stride() + tap + Self::within(o, c)]
    }

    /// Where output `o` and channel `c` are from the first line of their group and tap on.
    fn within(o: usize, c: usize) -> usize {
        c / T::PAIR * Lines::<T>::LEN + o % NR * T::PAIR + c % T::PAIR
    }

    pub fn groups(&self) -> usize {
        self.out.div_ceil(NR)
    }

    /// The input's channels, rounded up to whole pairs.
    pub fn padded_channels(&self) -> usize {
        self.channels.next_multiple_of(T::PAIR)
    }

    /// Elements from a group to the next.
    pub fn group_stride(&self) -> usize {
        Lines::<T>::of_group(self.taps * self.padded_channels() / T::PAIR) * Lines::<T>::LEN
    }

    pub fn as_ptr(&self) -> *const T {
        self.lines.as_ptr()
    }
}

impl Packed<f32> {
    /// `N` weights of one tap that are made together: `lanes(first, c)` has, for each of them, those of the sixteen
    /// outputs from `first` on for channel `c`. `out` is whole groups.
    pub fn many<const N: usize>(
        out: usize,
        channels: usize,
        lanes: impl Fn(usize, usize) -> [[f32; NR]; N] + Sync,
    ) -> Vec<Self> {
        let new = || Self { lines: Lines::zeroed(out / NR * channels), out, channels, taps: 1 };
        let mut all: Vec<Self> = (0..N).map(|_| new()).collect();
        let mut rest: Vec<_> =
            all.iter_mut().map(|one| one.lines.as_mut_slice().chunks_exact_mut(channels * NR)).collect();
        // The same group of all weights, for each group.
        let groups: Vec<Vec<&mut [f32]>> =
            (0..out / NR).map(|_| rest.iter_mut().filter_map(Iterator::next).collect()).collect();
        groups.into_par_iter().enumerate().for_each(|(group, mut packed)| {
            for c in 0..channels {
                for (packed, lanes) in packed.iter_mut().zip(lanes(group * NR, c)) {
                    packed[c * NR..][..NR].copy_from_slice(&lanes);
                }
            }
        });
        all
    }
}
