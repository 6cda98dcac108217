//! Layer norm over the channels.

use std::mem::MaybeUninit;
use std::sync::Arc;

use candle_core::{D, DType, Device, Result, Tensor, bail};
use half::bf16;
use rayon::prelude::*;

use crate::cpu::{Element, Isa, RowMap, Shared, Slice, fill, multiversion, slice};
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
        self.run(x, Some(added))
    }

    /// The norm as the prologue of a product. `added`: as for [`Self::forward_plus`], contiguous.
    pub(crate) fn prologue<'a>(&'a self, x: &Tensor, added: Option<&'a Tensor>) -> Result<LayerNormCall<'a>> {
        self.check(x, added)?;
        Ok(LayerNormCall { norm: self, added, repeats: repeats(x, added)? })
    }

    fn check(&self, x: &Tensor, added: Option<&Tensor>) -> Result<()> {
        if x.dim(D::Minus1)? != self.weight.dims1()? {
            bail!("layer norm: input {:?}, weight {:?}", x.shape(), self.weight.shape());
        }
        if let Some(added) = added {
            let (_, count, _, channels) = x.dims4()?;
            if added.dims() != [count, channels] || added.dtype() != x.dtype() {
                bail!("layer norm: input {:?}, added {:?} {:?}", x.shape(), added.dtype(), added.shape());
            }
        }
        Ok(())
    }

    fn run(&self, x: &Tensor, added: Option<&Tensor>) -> Result<Tensor> {
        self.check(x, added)?;
        if x.elem_count() == 0 {
            return Ok(x.clone());
        }
        let _timer = profile::timer(x, || Work::moving(Kind::LayerNorm, x));
        if cuda::supports(x) {
            let Self { weight, bias, eps, .. } = self;
            return cuda::layer_norm(x, &cuda::LayerNorm { weight, bias, eps: *eps, added });
        }
        let dense = added.map(Tensor::contiguous).transpose()?;
        match (x.device(), x.dtype()) {
            (Device::Cpu, DType::F32) => self.fused::<f32>(x, dense.as_ref()),
            (Device::Cpu, DType::BF16) => self.fused::<bf16>(x, dense.as_ref()),
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
        let contiguous = x.contiguous()?;
        let values = slice::<T>(&contiguous)?;
        let values = &values[..];
        let channels = self.affine.0.len().max(1);
        let chunk = (CHUNK / channels).max(1) * channels;
        let call = LayerNormCall { norm: self, added, repeats: repeats(x, added)? };
        let added = call.added::<T>()?;
        let rows = call.rows(added.as_deref());
        let write = |out: &Shared<T>| {
            values.par_chunks(chunk).enumerate().for_each(|(i, chunk_rows)| {
                // SAFETY: chunks are disjoint and as many as the output has.
                let out = unsafe { out.part(i * chunk, chunk_rows.len()) };
                let outputs = out.chunks_exact_mut(channels);
                for ((row, x), y) in
                    (i * chunk / channels..).zip(chunk_rows.chunks_exact(channels)).zip(outputs)
                {
                    rows.map(row, x, y);
                }
            });
        };
        // SAFETY: the chunks are all of it, and every element of a chunk is written.
        let out = unsafe { fill(values.len(), write) };
        Tensor::from_vec(out, x.shape(), &Device::Cpu)
    }
}

/// Rows of `x` for each row of `added`: the repeats of a position.
fn repeats(x: &Tensor, added: Option<&Tensor>) -> Result<usize> {
    if added.is_some() { x.dim(2) } else { Ok(1) }
}

/// A layer norm that is applied to rows one by one, and what is added to them.
#[derive(Clone, Copy)]
pub(crate) struct LayerNormCall<'a> {
    norm: &'a LayerNorm,
    /// (count, channels); row `i` is added to `repeats` rows from `i` × `repeats` on, and again after the last.
    added: Option<&'a Tensor>,
    repeats: usize,
}

impl<'a> LayerNormCall<'a> {
    /// Elements of what is added.
    pub fn added<T: Element>(&self) -> Result<Option<Slice<'a, T>>> {
        self.added.map(slice::<T>).transpose()
    }

    pub fn rows<'b, T: Element>(&self, added: Option<&'b [T]>) -> LayerNormRows<'b, T>
    where
        'a: 'b,
    {
        LayerNormRows { norm: self.norm, added, repeats: self.repeats }
    }
}

/// [`LayerNormCall`] on elements of one type.
pub(crate) struct LayerNormRows<'a, T> {
    norm: &'a LayerNorm,
    added: Option<&'a [T]>,
    repeats: usize,
}

impl<T: Element> RowMap<T> for LayerNormRows<'_, T> {
    fn map(&self, row: usize, from: &[T], to: &mut [MaybeUninit<T>]) {
        let (weight, bias) = &*self.norm.affine;
        let channels = weight.len();
        let added = self.added.map_or(&[][..], |added| {
            let at = row / self.repeats * channels % added.len();
            &added[at..at + channels]
        });
        normalise_row(self.norm.isa, from, &Affine { weight, bias, added }, self.norm.eps as f32, to);
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
