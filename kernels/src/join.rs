//! Concatenation of two tensors along the channels.

use std::mem::MaybeUninit;

use candle_core::{D, DType, Device, Result, Tensor, bail};
use half::bf16;
use rayon::prelude::*;

use crate::cpu::{Element, Shared, fill, slice};
use crate::cuda;
use crate::profile::{self, Kind, Work};

/// Output elements per parallel task.
const CHUNK: usize = 1 << 15;

/// Concatenation of `a`, (..., m), and `b`, (..., n), along the last dimension → (..., m + n).
/// The other dimensions and the dtypes must be equal.
pub fn join_channels(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let leading = |x: &Tensor| x.dims()[..x.rank().saturating_sub(1)].to_vec();
    if a.rank() == 0 || leading(a) != leading(b) || a.dtype() != b.dtype() {
        bail!(
            "join_channels: expected equal dtypes and equal shapes but for the last dimension, got {:?} {:?} and {:?} {:?}",
            a.dtype(),
            a.shape(),
            b.dtype(),
            b.shape()
        );
    }
    let _timer = profile::timer(a, || {
        Work::moving_bytes(Kind::Join, a, 2.0 * (profile::bytes(a) + profile::bytes(b)))
    });
    match (a.device(), a.dtype()) {
        _ if cuda::supports(a) && a.elem_count() > 0 && b.elem_count() > 0 => cuda::join_channels(a, b),
        (Device::Cpu, DType::F32) if b.device().is_cpu() => join_channels_cpu::<f32>(a, b),
        (Device::Cpu, DType::BF16) if b.device().is_cpu() => join_channels_cpu::<bf16>(a, b),
        _ => join_channels_reference(a, b),
    }
}

/// Reference for [`join_channels`], in plain candle operations.
pub fn join_channels_reference(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    Tensor::cat(&[a, b], D::Minus1)
}

fn join_channels_cpu<T: Element>(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (m, n) = (a.dim(D::Minus1)?, b.dim(D::Minus1)?);
    let mut dims = a.dims().to_vec();
    if let Some(last) = dims.last_mut() {
        *last = m + n;
    }
    if m == 0 || n == 0 {
        return Ok(if m == 0 { b.clone() } else { a.clone() });
    }
    let (a, b) = (a.contiguous()?, b.contiguous()?);
    let (left, right) = (slice::<T>(&a)?, slice::<T>(&b)?);
    let (left, right) = (&left[..], &right[..]);
    let rows = (CHUNK / (m + n)).max(1);
    let write = |out: &Shared<T>| {
        let chunks = left.par_chunks(rows * m).zip(right.par_chunks(rows * n)).enumerate();
        chunks.for_each(|(i, (left, right))| {
            // SAFETY: chunk `i` owns output rows `i * rows ..`; the chunks are disjoint and lie within the
            // output.
            let out = unsafe { out.part(i * rows * (m + n), left.len() + right.len()) };
            let inputs = left.chunks_exact(m).zip(right.chunks_exact(n));
            for (out, (left, right)) in out.chunks_exact_mut(m + n).zip(inputs) {
                let (to_left, to_right) = out.split_at_mut(m);
                to_left.iter_mut().zip(left).for_each(|(to, x)| *to = MaybeUninit::new(*x));
                to_right.iter_mut().zip(right).for_each(|(to, x)| *to = MaybeUninit::new(*x));
            }
        });
    };
    // SAFETY: the chunks cover every row, and both parts of a row are written.
    let out = unsafe { fill(left.len() + right.len(), write) };
    Tensor::from_vec(out, dims, &Device::Cpu)
}
