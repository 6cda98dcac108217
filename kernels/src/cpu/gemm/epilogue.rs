//! What follows a matrix product while its sums are still in the cache.

use std::mem::MaybeUninit;
use std::ops::Range;

use super::super::isa::multiversion;
use super::super::{Element, Isa};

/// Applied after the bias and the residual.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    None,
    Silu,
    Gelu,
    /// The output's first half times GELU of its second.
    Geglu,
}

/// Added after the bias.
#[derive(Debug, Clone, Copy)]
pub struct Residual<'a, T> {
    /// Row-major, as wide as the output.
    pub values: &'a [T],
    /// Consecutive output rows that share a row of `values`.
    pub rows_per_value: usize,
}

/// Bias, residual and activation of one output.
#[derive(Debug, Clone, Copy)]
pub struct Epilogue<'a, T> {
    pub bias: &'a [f32],
    pub residual: Option<Residual<'a, T>>,
    pub activation: Activation,
}

impl<T> Epilogue<'_, T> {
    /// The part `here` of what is added to an output row of `columns`; empty where nothing is.
    pub fn residual_of(&self, row: usize, columns: usize, here: &Range<usize>) -> &[T] {
        self.residual.as_ref().map_or(&[], |residual| {
            let at = row / residual.rows_per_value * columns;
            &residual.values[at + here.start..at + here.end]
        })
    }
}

/// One row: `out` = activation(`sums` + `bias` + `residual`); an empty `residual` is none.
pub fn finish<T: Element>(
    isa: Isa,
    sums: &[f32],
    bias: &[f32],
    residual: &[T],
    activation: Activation,
    out: &mut [MaybeUninit<T>],
) {
    match T::row_kernels(isa) {
        Some(kernels) => kernels.finish(sums, bias, residual, activation, out),
        None => finish_plain(isa, sums, bias, residual, activation, out),
    }
}

/// One row of GEGLU: `out` = values · gelu(gates); both are sums and the bias that is added to them.
pub fn finish_geglu<T: Element>(
    isa: Isa,
    values: [&[f32]; 2],
    gates: [&[f32]; 2],
    out: &mut [MaybeUninit<T>],
) {
    match T::row_kernels(isa) {
        Some(kernels) => kernels.finish_geglu(values, gates, out),
        None => finish_geglu_plain(isa, values, gates, out),
    }
}

multiversion! {
    fn finish_plain<T: Element>(sums: &[f32], bias: &[f32], residual: &[T], activation: Activation, out: &mut [MaybeUninit<T>]) {
        if residual.is_empty() {
            let values = sums.iter().zip(bias).map(|(s, b)| s + b);
            store(values, activation, out);
        } else {
            let values = sums.iter().zip(bias).zip(residual).map(|((s, b), r)| s + b + r.widen());
            store(values, activation, out);
        }
    }
}

#[inline(always)]
fn store<T: Element>(values: impl Iterator<Item = f32>, activation: Activation, out: &mut [MaybeUninit<T>]) {
    match activation {
        Activation::Silu => write_all(values.map(T::silu), out),
        Activation::Gelu => write_all(values.map(T::gelu), out),
        Activation::None | Activation::Geglu => write_all(values, out),
    }
}

#[inline(always)]
fn write_all<T: Element>(values: impl Iterator<Item = f32>, out: &mut [MaybeUninit<T>]) {
    for (o, v) in out.iter_mut().zip(values) {
        o.write(T::narrow(v));
    }
}

multiversion! {
    fn finish_geglu_plain<T: Element>(values: [&[f32]; 2], gates: [&[f32]; 2], out: &mut [MaybeUninit<T>]) {
        let values = values[0].iter().zip(values[1]).map(|(v, b)| v + b);
        let gates = gates[0].iter().zip(gates[1]).map(|(g, b)| T::gelu(g + b));
        for ((o, v), g) in out.iter_mut().zip(values).zip(gates) {
            o.write(T::narrow(v * g));
        }
    }
}
