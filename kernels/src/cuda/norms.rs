//! Launchers of `group_norm.cu` and `layer_norm.cu`.

use candle_core::{D, DType, Result, Tensor};

use super::launch::Launch;
use super::rows::{self, FILLING_BLOCKS};

/// Threads of the group norm's blocks, at most.
const GROUP_THREADS: usize = 512;
/// Of the kernels that have a warp per group or per row.
const WARP: usize = 32;
const LAYER_THREADS: usize = 128;

/// What [`group_norm`] needs beside its input.
pub struct GroupNorm<'a> {
    /// (channels).
    pub weight: &'a Tensor,
    pub bias: &'a Tensor,
    pub groups: usize,
    pub eps: f64,
    pub then_silu: bool,
}

/// `x`: (batch, ..., channels), not empty. Statistics in f32.
pub fn group_norm(x: &Tensor, of: &GroupNorm) -> Result<Tensor> {
    let x = x.contiguous()?;
    let (batch, channels) = (x.dim(0)?, x.dim(D::Minus1)?);
    let positions = x.elem_count() / (batch * channels);
    let (weight, bias) = (like(of.weight, &x)?, like(of.bias, &x)?);
    let device = x.device();

    let [wide, high, _] = rows::block(x.dtype(), channels, GROUP_THREADS);
    // At least a warp, which adds up.
    let block = [wide, high.max(WARP.div_ceil(wide)), 1];
    let chunks = (FILLING_BLOCKS / batch).clamp(1, positions.div_ceil(block[1]));
    let chunk = positions.div_ceil(chunks);
    let chunks = positions.div_ceil(chunk);

    let sums = Launch::of_dtype("group_norm", "group_norm_sums", &x)
        .grid([chunks, batch, 1])
        .block(block)
        .shared(block[1] * channels * 2 * size_of::<f32>())
        .tensor(&x)
        .output()
        .ints(&[positions, channels, of.groups, chunk]);
    // SAFETY: every chunk writes its sums of every group of its image.
    let sums = unsafe { sums.run((batch, chunks, of.groups, 2), DType::F32, device)? };

    let lines = Launch::of_dtype("group_norm", "group_norm_lines", &x)
        .grid([of.groups, batch, 1])
        .block([WARP, 1, 1])
        .tensor(&x)
        .tensor(&sums)
        .tensor(&weight)
        .tensor(&bias)
        .output()
        .ints(&[positions, channels, of.groups, chunks])
        .float(of.eps as f32);
    // SAFETY: every group writes the three numbers of each of its channels.
    let lines = unsafe { lines.run((batch, 3, channels), DType::F32, device)? };

    let ([blocks, ..], _) = rows::geometry(x.dtype(), (positions * batch, channels), GROUP_THREADS);
    let out = Launch::of_dtype("group_norm", "group_norm_apply", &x)
        .grid([blocks.div_ceil(batch), batch, 1])
        .block(block)
        .tensor(&x)
        .tensor(&lines)
        .output()
        .ints(&[positions, channels, usize::from(of.then_silu)]);
    // SAFETY: the blocks of an image walk over all its positions and channels.
    unsafe { out.run(x.shape(), x.dtype(), device) }
}

/// What [`layer_norm`] needs beside its input.
pub struct LayerNorm<'a> {
    /// (channels).
    pub weight: &'a Tensor,
    pub bias: &'a Tensor,
    pub eps: f64,
    /// (count, channels), added to an input of (batch, count, repeats, channels).
    pub added: Option<&'a Tensor>,
}

/// `x`: (..., channels), not empty. Statistics in f32.
pub fn layer_norm(x: &Tensor, of: &LayerNorm) -> Result<Tensor> {
    let x = x.contiguous()?;
    let (rows, channels) = rows::dims(&x);
    let (weight, bias) = (like(of.weight, &x)?, like(of.bias, &x)?);
    let added = of.added.map(|added| like(added, &x)).transpose()?;
    let (repeats, count) = match &added {
        Some(added) => (x.dim(D::Minus2)?, added.dim(0)?),
        None => (1, 1),
    };
    let warps = LAYER_THREADS / WARP;
    let launch = Launch::of_dtype("layer_norm", "layer_norm", &x)
        .grid([rows.div_ceil(warps), 1, 1])
        .block([LAYER_THREADS, 1, 1])
        .tensor(&x)
        .tensor(&weight)
        .tensor(&bias)
        .optional(added.as_ref())
        .output()
        .ints(&[rows, channels, repeats, count])
        .float(of.eps as f32);
    // SAFETY: the warps walk over all rows.
    unsafe { launch.run(x.shape(), x.dtype(), x.device()) }
}

/// `weight`, of the type of `x` and contiguous.
fn like(weight: &Tensor, x: &Tensor) -> Result<Tensor> {
    weight.to_dtype(x.dtype())?.contiguous()
}
