//! Group norm, alone and followed by SiLU.

use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::Arc;

use candle_core::{D, DType, Device, Result, Tensor, bail};
use half::bf16;
use rayon::prelude::*;

use crate::cpu::{Element, Isa, PixelMap, Shared, chunks, fill, multiversion, slice};
use crate::cuda;
use crate::profile::{self, Kind, Work};

/// Positions whose sums are taken together in f32, before they go into sums in f64.
const POSITIONS: usize = 64;

/// The weights of a group norm.
#[derive(Debug, Clone)]
pub struct GroupNorm {
    weight: Tensor,
    bias: Tensor,
    groups: usize,
    eps: f64,
    /// Weights and biases, for the CPU version.
    affine: Arc<(Vec<f32>, Vec<f32>)>,
    isa: Isa,
}

/// What follows the norm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Nothing,
    Silu,
}

impl GroupNorm {
    /// `weight`, `bias`: (channels).
    pub fn new(weight: Tensor, bias: Tensor, groups: usize, eps: f64) -> Result<Self> {
        Self::for_isa(weight, bias, (groups, eps), Isa::current())
    }

    pub(crate) fn for_isa(
        weight: Tensor,
        bias: Tensor,
        (groups, eps): (usize, f64),
        isa: Isa,
    ) -> Result<Self> {
        let channels = weight.dims1()?;
        if bias.dims() != [channels] || groups == 0 || !channels.is_multiple_of(groups) {
            bail!("group norm: weight {:?}, bias {:?}, {groups} groups", weight.shape(), bias.shape());
        }
        let floats = |x: &Tensor| x.to_dtype(DType::F32)?.to_vec1::<f32>();
        let affine = Arc::new((floats(&weight)?, floats(&bias)?));
        Ok(Self { weight, bias, groups, eps, affine, isa })
    }

    pub fn channels(&self) -> usize {
        self.affine.0.len()
    }

    /// `x`: (batch, ..., channels). The statistics of a group run over everything but the batch, so what
    /// is normalised together is decided by the shape: (batch, frames × height × width, channels) for a
    /// norm over frames, (batch × frames, height × width, channels) for one per frame. In f32.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.normalise(x, Then::Nothing)
    }

    /// [`Self::forward`], then SiLU.
    pub fn forward_silu(&self, x: &Tensor) -> Result<Tensor> {
        self.normalise(x, Then::Silu)
    }

    fn normalise(&self, x: &Tensor, then: Then) -> Result<Tensor> {
        if x.rank() < 2 || x.dim(D::Minus1)? != self.weight.dims1()? {
            bail!("group norm: input {:?}, weight {:?}", x.shape(), self.weight.shape());
        }
        if x.elem_count() == 0 {
            return Ok(x.clone());
        }
        let _timer = profile::timer(x, || Work::moving(Kind::GroupNorm, x));
        if cuda::supports(x) {
            let Self { weight, bias, groups, eps, .. } = self;
            let of =
                cuda::GroupNorm { weight, bias, groups: *groups, eps: *eps, then_silu: then == Then::Silu };
            return cuda::group_norm(x, &of);
        }
        match (x.device(), x.dtype()) {
            (Device::Cpu, DType::F32) => self.fused::<f32>(x, then),
            (Device::Cpu, DType::BF16) => self.fused::<bf16>(x, then),
            _ => {
                let y = group_norm_reference(x, &self.weight, &self.bias, self.groups, self.eps)?;
                if then == Then::Silu { crate::silu(&y) } else { Ok(y) }
            }
        }
    }

    /// One pass for the sums, one that writes.
    fn fused<T: Element>(&self, x: &Tensor, then: Then) -> Result<Tensor> {
        let contiguous = x.contiguous()?;
        let values = slice::<T>(&contiguous)?;
        let values = &values[..];
        let batch = x.dim(0)?;
        let parts = self.parts(values.len(), batch);
        let lines = self.statistics(values, batch);
        let write = |out: &Shared<T>| {
            parts.chunks.par_iter().enumerate().for_each(|(i, range)| {
                let lines = &lines[i / parts.per_image];
                // SAFETY: the chunks are disjoint ranges of the output.
                let out = unsafe { out.part(range.start, range.len()) };
                apply(self.isa, &values[range.clone()], lines, then, out);
            });
        };
        // SAFETY: the chunks are all of it, and every element of a chunk is written.
        let out = unsafe { fill(values.len(), write) };
        Tensor::from_vec(out, x.shape(), &Device::Cpu)
    }

    /// Ranges of elements that threads take.
    fn parts(&self, len: usize, batch: usize) -> Parts {
        let image = len / batch.max(1);
        let chunk = POSITIONS * self.affine.0.len();
        let starts = (0..len).step_by(image.max(1));
        Parts {
            chunks: starts.flat_map(|at| chunks(&(at..at + image), chunk)).collect(),
            per_image: image.div_ceil(chunk.max(1)).max(1),
        }
    }

    /// The norm of each of `batch` equal parts of `values`.
    fn statistics<T: Element>(&self, values: &[T], batch: usize) -> Vec<Lines> {
        let channels = self.affine.0.len();
        let image = values.len() / batch.max(1);
        let Parts { chunks, per_image } = self.parts(values.len(), batch);
        let origins: Vec<Vec<f32>> =
            values.chunks(image.max(1)).map(|image| self.origins(&image[..channels])).collect();
        // For every chunk the sums of its channels, then the sums of their squares.
        let partial: Vec<Vec<f32>> = chunks
            .par_iter()
            .enumerate()
            .map(|(i, range)| {
                let mut sums = vec![0.; 2 * channels];
                let (sum, squares) = sums.split_at_mut(channels);
                add_up(self.isa, &values[range.clone()], &origins[i / per_image], sum, squares);
                sums
            })
            .collect();
        partial
            .chunks(per_image)
            .zip(origins)
            .map(|(of_image, origins)| self.lines(of_image, origins, image / channels.max(1)))
            .collect()
    }

    /// The norm with SiLU as the prologue of a convolution of `x`: (images, height, width, channels), bf16 on the CPU.
    /// Statistics run over each `frames` images.
    pub(crate) fn prologue(&self, x: &Tensor, frames: usize) -> Result<GroupNormSilu> {
        let _timer = profile::timer(x, || Work::moving(Kind::GroupNorm, x));
        let contiguous = x.contiguous()?;
        let values = slice::<bf16>(&contiguous)?;
        let lines = self.statistics(&values, x.dim(0)? / frames.max(1));
        Ok(GroupNormSilu { isa: self.isa, lines, frames })
    }

    /// For every channel of an image one value of its group: the sums are taken of the
    /// distances to it, so that squares of large means do not drown the variance.
    fn origins<T: Element>(&self, first: &[T]) -> Vec<f32> {
        let width = first.len() / self.groups;
        (0..first.len()).map(|c| first[c / width * width].widen()).collect()
    }

    /// Norm, weight and bias of one image.
    fn lines(&self, partial: &[Vec<f32>], origins: Vec<f32>, positions: usize) -> Lines {
        let (weight, bias) = &*self.affine;
        let channels = weight.len();
        let mut sums = vec![0f64; 2 * channels];
        for chunk in partial {
            for (sum, x) in sums.iter_mut().zip(chunk) {
                *sum += f64::from(*x);
            }
        }
        let width = channels / self.groups;
        let count = (positions * width) as f64;
        let (mut scale, mut shift) = (Vec::with_capacity(channels), Vec::with_capacity(channels));
        for group in 0..self.groups {
            let of_group = group * width..(group + 1) * width;
            // Both of the distances to the group's origin.
            let mean = sums[of_group.clone()].iter().sum::<f64>() / count;
            let squares = &sums[channels + of_group.start..channels + of_group.end];
            let variance = (squares.iter().sum::<f64>() / count - mean * mean).max(0.);
            let inverse = 1. / (variance + self.eps).sqrt();
            for c in of_group {
                let slope = f64::from(weight[c]) * inverse;
                scale.push(slope as f32);
                shift.push((f64::from(bias[c]) - slope * mean) as f32);
            }
        }
        Lines { origin: origins, scale, shift }
    }
}

/// Ranges of a tensor, `per_image` for each image.
struct Parts {
    chunks: Vec<Range<usize>>,
    per_image: usize,
}

/// Group norm and SiLU of pixels whose statistics are known.
pub(crate) struct GroupNormSilu {
    isa: Isa,
    lines: Vec<Lines>,
    /// Images that share statistics.
    frames: usize,
}

impl<T: Element> PixelMap<T> for GroupNormSilu {
    fn map(&self, image: usize, from: &[T], to: &mut [MaybeUninit<T>]) {
        apply(self.isa, from, &self.lines[image / self.frames], Then::Silu, to);
    }
}

/// y = (x − origin) · scale + shift, per channel. Without the origin, a large mean would cancel only after
/// its rounding.
struct Lines {
    origin: Vec<f32>,
    scale: Vec<f32>,
    shift: Vec<f32>,
}

/// Sums and sums of squares per channel, of the distances to `origins`.
fn add_up<T: Element>(isa: Isa, x: &[T], origins: &[f32], sums: &mut [f32], squares: &mut [f32]) {
    match T::row_kernels(isa) {
        Some(kernels) => kernels.add_up(x, origins, sums, squares),
        None => add_up_plain(isa, x, origins, sums, squares),
    }
}

fn apply<T: Element>(isa: Isa, x: &[T], lines: &Lines, then: Then, out: &mut [MaybeUninit<T>]) {
    let Lines { origin, scale, shift } = lines;
    match (T::row_kernels(isa), then) {
        (Some(kernels), _) => kernels.apply(x, [origin, scale, shift], then == Then::Silu, out),
        (None, Then::Nothing) => apply_plain(isa, x, lines, out),
        (None, Then::Silu) => apply_silu_plain(isa, x, lines, out),
    }
}

multiversion! {
    fn add_up_plain<T: Element>(x: &[T], origins: &[f32], sums: &mut [f32], squares: &mut [f32]) {
        for row in x.chunks_exact(sums.len()) {
            let row = row.iter().zip(origins);
            for (((x, origin), sum), square) in row.zip(sums.iter_mut()).zip(squares.iter_mut()) {
                let x = x.widen() - origin;
                *sum += x;
                *square += x * x;
            }
        }
    }
}

multiversion! {
    fn apply_plain<T: Element>(x: &[T], lines: &Lines, out: &mut [MaybeUninit<T>]) {
        let Lines { origin, scale, shift } = lines;
        for (x, out) in x.chunks_exact(scale.len()).zip(out.chunks_exact_mut(scale.len())) {
            for ((((x, y), o), a), b) in x.iter().zip(out).zip(origin).zip(scale).zip(shift) {
                y.write(T::narrow((x.widen() - o) * a + b));
            }
        }
    }
}

multiversion! {
    fn apply_silu_plain<T: Element>(x: &[T], lines: &Lines, out: &mut [MaybeUninit<T>]) {
        let Lines { origin, scale, shift } = lines;
        for (x, out) in x.chunks_exact(scale.len()).zip(out.chunks_exact_mut(scale.len())) {
            for ((((x, y), o), a), b) in x.iter().zip(out).zip(origin).zip(scale).zip(shift) {
                y.write(T::narrow(T::silu((x.widen() - o) * a + b)));
            }
        }
    }
}

/// The definition, in plain candle operations.
pub fn group_norm_reference(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    groups: usize,
    eps: f64,
) -> Result<Tensor> {
    let (batch, channels) = (x.dim(0)?, x.dim(D::Minus1)?);
    let positions = x.elem_count() / (batch * channels);
    let xs = x.to_dtype(DType::F32)?.reshape((batch, positions, groups, channels / groups))?;
    let xs = xs.transpose(1, 2)?.reshape((batch, groups, positions * (channels / groups)))?;
    let xs = xs.broadcast_sub(&xs.mean_keepdim(D::Minus1)?)?;
    let variance = xs.sqr()?.mean_keepdim(D::Minus1)?;
    let xs = xs.broadcast_div(&(variance + eps)?.sqrt()?)?;
    let xs = xs.reshape((batch, groups, positions, channels / groups))?.transpose(1, 2)?.reshape(x.dims())?;
    let xs = xs.broadcast_mul(&weight.to_dtype(DType::F32)?)?.broadcast_add(&bias.to_dtype(DType::F32)?)?;
    xs.to_dtype(x.dtype())
}
