//! Layer norm over the channels.

use std::mem::MaybeUninit;
use std::sync::Arc;

use candle_core::{D, DType, Device, Result, Tensor, bail};
use half::bf16;
use rayon::prelude::*;

use crate::cpu::{Element, Isa, Shared, fill, multiversion, slice};
use crate::cuda;
use crate::profile::{self, Kind, Work};

/// Elements that a thread takes at a time.
const CHUNK: usize = 1 << 14;
/// Independent sums, so that adding vectorises.
const LANES: usize = 16;

/// The weights of a layer norm.
#[derive(Debug, Clone)]
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
    /// Weights and biases in f32, for the CPU version.
    affine: Arc<(Vec<f32>, Vec<f32>)>,
    isa: Isa,
}

impl LayerNorm {
    /// `weight`, `bias`: (channels).
    pub fn new(weight: Tensor, bias: Tensor, eps: f64) -> Result<Self> {
        Self::for_isa(weight, bias, eps, Isa::current())
    }

    pub(crate) fn for_isa(weight: Tensor, bias: Tensor, eps: f64, isa: Isa) -> Result<Self> {
        if weight.dims1()? != bias.dims1()? {
            bail!("layer norm: weight {:?}, bias {:?}", weight.shape(), bias.shape());
        }
        let floats = |x: &Tensor| x.to_dtype(DType::F32)?.to_vec1::<f32>();
        let affine = Arc::new((floats(&weight)?, floats(&bias)?));
        Ok(Self { weight, bias, eps, affine, isa })
    }

    /// `x`: (..., channels) → the same shape. Statistics in f32.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.run(x, None)
    }

    /// [`Self::forward`] plus `added`, as positions are added to tokens.
    /// `x`: (batch, count, repeats, channels); `added`: (count, channels).
    pub fn forward_plus(&self, x: &Tensor, added: &Tensor) -> Result<Tensor> {
        let (_, count, _, channels) = x.dims4()?;
        if added.dims() != [count, channels] || added.dtype() != x.dtype() {
            bail!("layer norm: input {:?}, added {:?} {:?}", x.shape(), added.dtype(), added.shape());
        }
        self.run(x, Some(added))
    }

    fn run(&self, x: &Tensor, added: Option<&Tensor>) -> Result<Tensor> {
        if x.dim(D::Minus1)? != self.weight.dims1()? {
            bail!("layer norm: input {:?}, weight {:?}", x.shape(), self.weight.shape());
        }
        if x.elem_count() == 0 {
            return Ok(x.clone());
        }
        let _timer = profile::timer(x, || Work::moving(Kind::LayerNorm, x));
        if cuda::takes(x) {
            let Self { weight, bias, eps, .. } = self;
            return cuda::layer_norm(x, &cuda::LayerNorm { weight, bias, eps: *eps, added });
        }
        match (x.device(), x.dtype()) {
            (Device::Cpu, DType::F32) => self.fused::<f32>(x, added),
            (Device::Cpu, DType::BF16) => self.fused::<bf16>(x, added),
            _ => {
                let y = layer_norm_reference(x, &self.weight, &self.bias, self.eps)?;
                match added {
                    Some(added) => y.broadcast_add(&added.unsqueeze(1)?),
                    None => Ok(y),
                }
            }
        }
    }

    fn fused<T: Element>(&self, x: &Tensor, added: Option<&Tensor>) -> Result<Tensor> {
        // Each row of `added` goes to as many rows of `x` as a position has repeats.
        let repeats = if added.is_some() { x.dim(2)? } else { 1 };
        let added = added.map(Tensor::contiguous).transpose()?;
        let added = added.as_ref().map(slice::<T>).transpose()?;
        let added = added.as_deref();
        let contiguous = x.contiguous()?;
        let values = slice::<T>(&contiguous)?;
        let values = &values[..];
        let (weight, bias) = &*self.affine;
        let channels = weight.len().max(1);
        let chunk = (CHUNK / channels).max(1) * channels;
        let write = |out: &Shared<T>| {
            values.par_chunks(chunk).enumerate().for_each(|(i, rows)| {
                // SAFETY: chunks are disjoint and as many as the output has.
                let out = unsafe { out.part(i * chunk, rows.len()) };
                let outputs = out.chunks_exact_mut(channels);
                for ((row, x), y) in (i * chunk / channels..).zip(rows.chunks_exact(channels)).zip(outputs) {
                    let added = added.map_or(&[][..], |added| {
                        let at = row / repeats * channels % added.len();
                        &added[at..at + channels]
                    });
                    normalise_row(self.isa, x, &Affine { weight, bias, added }, self.eps as f32, y);
                }
            });
        };
        // SAFETY: the chunks are all of it, and every element of a chunk is written.
        let out = unsafe { fill(values.len(), write) };
        Tensor::from_vec(out, x.shape(), &Device::Cpu)
    }
}

/// What follows the norm of a row; nothing is added where `added` is empty.
struct Affine<'a, T> {
    weight: &'a [f32],
    bias: &'a [f32],
    added: &'a [T],
}

fn normalise_row<T: Element>(isa: Isa, x: &[T], affine: &Affine<T>, eps: f32, y: &mut [MaybeUninit<T>]) {
    let Affine { weight, bias, added } = *affine;
    match T::row_kernels(isa) {
        Some(kernels) => kernels.layer_norm(x, [weight, bias], added, eps, y),
        None => normalise_row_plain(isa, x, affine, eps, y),
    }
}

multiversion! {
    fn normalise_row_plain<T: Element>(x: &[T], affine: &Affine<T>, eps: f32, y: &mut [MaybeUninit<T>]) {
        let Affine { weight, bias, added } = affine;
        let count = x.len() as f32;
        let mean = sum(x, |v| v) / count;
        let variance = sum(x, |v| (v - mean) * (v - mean)) / count;
        let scale = 1. / (variance + eps).sqrt();
        let normal = x.iter().zip(*weight).zip(*bias).map(|((x, w), b)| (x.widen() - mean) * scale * w + b);
        if added.is_empty() {
            y.iter_mut().zip(normal).for_each(|(y, v)| *y = MaybeUninit::new(T::narrow(v)));
        } else {
            let sum = normal.zip(*added).map(|(v, a)| v + a.widen());
            y.iter_mut().zip(sum).for_each(|(y, v)| *y = MaybeUninit::new(T::narrow(v)));
        }
    }
}

/// The sum of `of(x)`, in an order that only the length decides.
#[inline(always)]
fn sum<T: Element>(x: &[T], of: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.; LANES];
    let (whole, rest) = x.as_chunks::<LANES>();
    for chunk in whole {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane += of(x.widen());
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane += of(x.widen());
    }
    lanes.iter().sum()
}

/// The definition, in plain candle operations.
pub fn layer_norm_reference(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let xs = x.to_dtype(DType::F32)?;
    let xs = xs.broadcast_sub(&xs.mean_keepdim(D::Minus1)?)?;
    let variance = xs.sqr()?.mean_keepdim(D::Minus1)?;
    let xs = xs.broadcast_div(&(variance + eps)?.sqrt()?)?;
    let xs = xs.broadcast_mul(&weight.to_dtype(DType::F32)?)?.broadcast_add(&bias.to_dtype(DType::F32)?)?;
    xs.to_dtype(x.dtype())
}
