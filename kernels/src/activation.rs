//! Element-wise activations. An activation fused into a norm or a linear layer is in that operation's file.

use std::mem::MaybeUninit;

use candle_core::{DType, Device, Result, Tensor};
use half::bf16;
use rayon::prelude::*;

use crate::cpu::{Activation, Element, Isa, Shared, fill, multiversion, slice};
use crate::cuda::{self, Epilogue};
use crate::profile::{self, Kind, Work};

/// Elements per parallel task.
const CHUNK: usize = 1 << 14;

/// SiLU: x · sigmoid(x).
pub fn silu(x: &Tensor) -> Result<Tensor> {
    silu_for(x, Isa::current())
}

/// GELU in the erf form, which the original uses everywhere (candle's `gelu` is the tanh form).
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    gelu_for(x, Isa::current())
}

pub(crate) fn silu_for(x: &Tensor, isa: Isa) -> Result<Tensor> {
    let _timer = profile::timer(x, || Work::moving(Kind::Activation, x));
    match (x.device(), x.dtype()) {
        _ if cuda::supports(x) && x.elem_count() > 0 => cuda::epilogue(x, Epilogue::only(Activation::Silu)),
        (Device::Cpu, DType::F32) => map(x, |x, y: &mut [MaybeUninit<f32>]| silu_slice(isa, x, y)),
        (Device::Cpu, DType::BF16) => map(x, |x, y: &mut [MaybeUninit<bf16>]| silu_slice(isa, x, y)),
        _ => silu_reference(x),
    }
}

pub(crate) fn gelu_for(x: &Tensor, isa: Isa) -> Result<Tensor> {
    let _timer = profile::timer(x, || Work::moving(Kind::Activation, x));
    match (x.device(), x.dtype()) {
        _ if cuda::supports(x) && x.elem_count() > 0 => cuda::epilogue(x, Epilogue::only(Activation::Gelu)),
        (Device::Cpu, DType::F32) => map(x, |x, y: &mut [MaybeUninit<f32>]| gelu_slice(isa, x, y)),
        (Device::Cpu, DType::BF16) => map(x, |x, y: &mut [MaybeUninit<bf16>]| gelu_slice(isa, x, y)),
        _ => gelu_reference(x),
    }
}

/// Reference for [`silu`].
pub fn silu_reference(x: &Tensor) -> Result<Tensor> {
    x.silu()
}

/// Reference for [`gelu`].
pub fn gelu_reference(x: &Tensor) -> Result<Tensor> {
    x.gelu_erf()
}

/// Runs `apply(input, output)` on every chunk of `x`, in parallel.
fn map<T: Element>(x: &Tensor, apply: impl Fn(&[T], &mut [MaybeUninit<T>]) + Sync) -> Result<Tensor> {
    let contiguous = x.contiguous()?;
    let values = slice::<T>(&contiguous)?;
    let values = &values[..];
    let write = |out: &Shared<T>| {
        values.par_chunks(CHUNK).enumerate().for_each(|(i, chunk)| {
            // SAFETY: chunk `i` owns the output from `i * CHUNK` on; the chunks are disjoint and within the
            // output.
            apply(chunk, unsafe { out.part(i * CHUNK, chunk.len()) });
        });
    };
    // SAFETY: the chunks cover the output, and `apply` writes every element of a chunk.
    let out = unsafe { fill(values.len(), write) };
    Tensor::from_vec(out, x.shape(), &Device::Cpu)
}

multiversion! {
    fn silu_slice<T: Element>(x: &[T], y: &mut [MaybeUninit<T>]) {
        for (x, y) in x.iter().zip(y) {
            y.write(T::narrow(T::silu(x.widen())));
        }
    }
}

multiversion! {
    fn gelu_slice<T: Element>(x: &[T], y: &mut [MaybeUninit<T>]) {
        for (x, y) in x.iter().zip(y) {
            y.write(T::narrow(T::gelu(x.widen())));
        }
    }
}
