//! Weights in the order in which the microkernels read them.
//!
//! Sixteen outputs make a group; within a group the summed dimension runs tap by tap, channel by channel
//! (pair by pair for bf16), and each step is one 64-byte line of the group's sixteen outputs. The same
//! order serves every instruction set, AMX tiles included.

use std::marker::PhantomData;

use rayon::prelude::*;

use super::Element;
use super::microkernel::GROUP;

/// One cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u32; GROUP]);

/// Zeroed memory in whole cache lines.
pub struct Lines<T> {
    lines: Vec<Line>,
    element: PhantomData<T>,
}

impl<T: Element> Lines<T> {
    /// Elements in a line: sixteen f32, or sixteen pairs of bf16.
    pub const LEN: usize = GROUP * T::PAIR;

    pub fn zeroed(lines: usize) -> Self {
        Self { lines: vec![Line([0; GROUP]); lines], element: PhantomData }
    }

    pub fn as_ptr(&self) -> *const T {
        self.lines.as_ptr().cast()
    }

    pub fn as_mut_slice(&mut self) -> &mut [T] {
        let len = self.lines.len() * Self::LEN;
        // SAFETY: a line is `LEN` elements large and better aligned, and any bits are a valid f32 or bf16.
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
        let steps = taps * channels.div_ceil(T::PAIR);
        let mut lines = Lines::zeroed(out.div_ceil(GROUP) * steps);
        let groups = lines.as_mut_slice().par_chunks_mut((steps * Lines::<T>::LEN).max(1));
        groups.enumerate().for_each(|(group, packed)| {
            let first = group * GROUP;
            for (within, o) in (first..out.min(first + GROUP)).enumerate() {
                for tap in 0..taps {
                    let start = tap * channels.div_ceil(T::PAIR) * Lines::<T>::LEN;
                    for c in 0..channels {
                        let at = start + (c / T::PAIR) * Lines::<T>::LEN + within * T::PAIR + c % T::PAIR;
                        packed[at] = weight((o * channels + c) * taps + tap);
                    }
                }
            }
        });
        Self { lines, out, channels, taps }
    }

    pub fn groups(&self) -> usize {
        self.out.div_ceil(GROUP)
    }

    /// The input's channels, rounded up to whole pairs.
    pub fn padded_channels(&self) -> usize {
        self.channels.next_multiple_of(T::PAIR)
    }

    /// Elements from a group to the next.
    pub fn group_stride(&self) -> usize {
        self.taps * self.padded_channels() * GROUP
    }

    pub fn as_ptr(&self) -> *const T {
        self.lines.as_ptr()
    }
}
