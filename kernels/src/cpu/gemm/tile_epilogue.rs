//! Epilogue of a micro-tile, some rows at a time: between the tile instructions of the next one.

use std::mem::MaybeUninit;
use std::ops::Range;

use super::super::{Activation, Element, Isa};
use super::epilogue::{finish, finish_geglu};
use super::tiles::{Interleaved, MR};

/// f32 sums of a micro-tile in memory: [`MR`] rows of as many columns.
pub const SUMS: usize = MR * MR;

/// Output rows of a strip, and the rows that are added to them, in elements from the first of each tensor.
#[derive(Clone)]
pub struct StripRows {
    pub out: [usize; MR],
    pub residual: [usize; MR],
}

impl StripRows {
    pub const EMPTY: Self = Self { out: [0; MR], residual: [0; MR] };
}

/// Sums of a micro-tile and where they go. Pointers are null where there is nothing to read.
pub struct TileEpilogue<T> {
    pub isa: Isa,
    pub activation: Activation,
    /// `MR` × `MR`; for GEGLU those of the gates are in `gates`.
    pub sums: *const f32,
    pub gates: *const f32,
    /// Of the first column.
    pub bias: *const f32,
    pub gate_bias: *const f32,
    pub out: *mut T,
    pub residual: *const T,
    pub rows: *const StripRows,
    /// Rows of the strip, at most [`MR`], and columns, at most as many.
    pub count: usize,
    pub columns: usize,
    /// Rows that are written.
    pub done: usize,
    pub rows_per_call: usize,
}

/// Writes `rows` of a micro-tile.
///
/// Safety: the CPU has the instruction set; pointers are valid for all rows and columns, `out` exclusively.
pub type WriteRows<T> = unsafe fn(&TileEpilogue<T>, Range<usize>);

impl<T: Element> TileEpilogue<T> {
    /// Nothing to write.
    pub fn empty(isa: Isa) -> Self {
        Self {
            isa,
            activation: Activation::None,
            sums: std::ptr::null(),
            gates: std::ptr::null(),
            bias: std::ptr::null(),
            gate_bias: std::ptr::null(),
            out: std::ptr::null_mut(),
            residual: std::ptr::null(),
            rows: std::ptr::null(),
            count: 0,
            columns: 0,
            done: 0,
            rows_per_call: 0,
        }
    }

    pub fn is_done(&self) -> bool {
        self.done >= self.count
    }

    /// Writes the rows that remain.
    pub fn finish(&mut self) {
        self.write(self.count);
    }

    #[inline(always)]
    fn write(&mut self, end: usize) {
        let rows = self.done..end.min(self.count);
        if rows.is_empty() {
            return;
        }
        self.done = rows.end;
        // SAFETY: who filled in the pointers promised that they are valid; each row is written once.
        unsafe { T::tile_epilogue(self.isa)(self, rows) }
    }
}

impl<T: Element> Interleaved for TileEpilogue<T> {
    #[inline(always)]
    fn advance(&mut self) {
        self.write(self.done + self.rows_per_call);
    }
}

/// [`WriteRows`] on any CPU.
pub unsafe fn write_rows<T: Element>(tile: &TileEpilogue<T>, rows: Range<usize>) {
    let columns = tile.columns;
    for row in rows {
        // SAFETY: the promise of `WriteRows`.
        unsafe {
            let slice = |from: *const f32| std::slice::from_raw_parts(from, columns);
            let out = tile.out.add((*tile.rows).out[row]).cast::<MaybeUninit<T>>();
            let out = std::slice::from_raw_parts_mut(out, columns);
            let sums = slice(tile.sums.add(row * MR));
            if tile.activation == Activation::Geglu {
                let gates = slice(tile.gates.add(row * MR));
                finish_geglu(tile.isa, [sums, slice(tile.bias)], [gates, slice(tile.gate_bias)], out);
                continue;
            }
            let residual = match tile.residual.is_null() {
                true => &[][..],
                false => std::slice::from_raw_parts(tile.residual.add((*tile.rows).residual[row]), columns),
            };
            finish(tile.isa, sums, slice(tile.bias), residual, tile.activation, out);
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub use avx512::write_rows_bf16;

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::*;
    use std::ops::Range;

    use half::bf16;

    use super::{MR, TileEpilogue};
    use crate::cpu::Activation;
    use crate::cpu::avx512_bf16_rows::{gelu, silu};

    /// [`super::WriteRows`] with AVX-512 BF16: a row is two registers of sums and one of results.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    pub unsafe fn write_rows_bf16(tile: &TileEpilogue<bf16>, rows: Range<usize>) {
        // SAFETY: the caller's promise; masked lanes are not accessed.
        unsafe {
            match tile.activation {
                Activation::Geglu => write_geglu(tile, rows),
                Activation::None if tile.residual.is_null() => write::<false>(tile, rows, |x| x),
                Activation::None => write::<true>(tile, rows, |x| x),
                Activation::Silu => write::<true>(tile, rows, |x| silu(x)),
                Activation::Gelu => write::<true>(tile, rows, |x| gelu(x)),
            }
        }
    }

    /// Lanes of the first and the second sixteen columns, and of all.
    fn masks(columns: usize) -> (__mmask16, __mmask16, __mmask32) {
        let all = if columns >= MR { u32::MAX } else { (1u32 << columns) - 1 };
        (all as u16, (all >> 16) as u16, all)
    }

    /// # Safety
    /// As for [`super::WriteRows`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn write<const RESIDUAL: bool>(
        tile: &TileEpilogue<bf16>,
        rows: Range<usize>,
        activation: impl Fn(__m512) -> __m512,
    ) {
        let (low, high, all) = masks(tile.columns);
        // SAFETY: the caller's promise.
        unsafe {
            let bias = load_biases(tile.bias, low, high);
            for row in rows {
                let sums = tile.sums.add(row * MR);
                let mut x = _mm512_add_ps(_mm512_load_ps(sums), bias.0);
                let mut y = _mm512_add_ps(_mm512_load_ps(sums.add(16)), bias.1);
                if RESIDUAL && !tile.residual.is_null() {
                    let from = tile.residual.add((*tile.rows).residual[row]);
                    x = _mm512_add_ps(x, wide(from, low));
                    y = _mm512_add_ps(y, wide(from.wrapping_add(16), high));
                }
                store(tile.out.add((*tile.rows).out[row]), activation(x), activation(y), all);
            }
        }
    }

    /// # Safety
    /// As for [`super::WriteRows`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn write_geglu(tile: &TileEpilogue<bf16>, rows: Range<usize>) {
        let (low, high, all) = masks(tile.columns);
        // SAFETY: the caller's promise.
        unsafe {
            let bias = load_biases(tile.bias, low, high);
            let gate_bias = load_biases(tile.gate_bias, low, high);
            for row in rows {
                let (sums, gates) = (tile.sums.add(row * MR), tile.gates.add(row * MR));
                let x = _mm512_add_ps(_mm512_load_ps(sums), bias.0);
                let y = _mm512_add_ps(_mm512_load_ps(sums.add(16)), bias.1);
                let x_gate = _mm512_add_ps(_mm512_load_ps(gates), gate_bias.0);
                let y_gate = _mm512_add_ps(_mm512_load_ps(gates.add(16)), gate_bias.1);
                let x = _mm512_mul_ps(x, gelu(x_gate));
                let y = _mm512_mul_ps(y, gelu(y_gate));
                store(tile.out.add((*tile.rows).out[row]), x, y, all);
            }
        }
    }

    /// # Safety
    /// `from` is valid for the lanes of the masks.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn load_biases(from: *const f32, low: __mmask16, high: __mmask16) -> (__m512, __m512) {
        // SAFETY: the caller's promise.
        unsafe { (_mm512_maskz_loadu_ps(low, from), _mm512_maskz_loadu_ps(high, from.wrapping_add(16))) }
    }

    /// bf16 widened to f32.
    ///
    /// # Safety
    /// `from` is valid for the lanes of the mask.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn wide(from: *const bf16, mask: __mmask16) -> __m512 {
        // SAFETY: the caller's promise.
        let x = unsafe { _mm256_maskz_loadu_epi16(mask, from.cast()) };
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(x)))
    }

    /// Both rounded to bf16.
    ///
    /// # Safety
    /// `to` is valid for the lanes of the mask.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn store(to: *mut bf16, x: __m512, y: __m512, mask: __mmask32) {
        // SAFETY: 32 bf16 are 512 bits; the caller's promise.
        unsafe {
            let bits: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(y, x));
            _mm512_mask_storeu_epi16(to.cast(), mask, bits);
        }
    }
}
