//! Launchers of `group_norm.cu` and `layer_norm.cu`.

use candle_core::{D, DType, Result, Tensor};

use super::launch::Launch;
use super::rows::{self, FILLING_BLOCKS, RowShape};

/// Maximum threads per block of the group norm kernels.
const GROUP_NORM_THREADS: usize = 512;
/// Threads per block of the layer norm kernel.
const LAYER_NORM_THREADS: usize = 128;
/// Threads per warp.
const WARP: usize = 32;

/// Parameters of [`group_norm`].
pub struct GroupNorm<'a> {
    /// (channels).
    pub weight: &'a Tensor,
    pub bias: &'a Tensor,
    pub groups: usize,
    pub eps: f64,
    pub then_silu: bool,
}

/// Group norm of `x`, (batch, ..., channels), not empty. Partial sums in f32, statistics in f64.
pub fn group_norm(x: &Tensor, of: &GroupNorm) -> Result<Tensor> {
    let x = x.contiguous()?;
    let (batch, channels) = (x.dim(0)?, x.dim(D::Minus1)?);
    let positions = x.elem_count() / (batch * channels);
    let (weight, bias) = (like(of.weight, &x)?, like(of.bias, &x)?);
    let device = x.device();

    let [block_x, block_y, _] = rows::block(x.dtype(), channels, GROUP_NORM_THREADS);
    // At least one warp, which reduces the block's sums.
    let block = [block_x, block_y.max(WARP.div_ceil(block_x)), 1];
    let chunks = (FILLING_BLOCKS / batch).clamp(1, positions.div_ceil(block[1]));
    let positions_per_chunk = positions.div_ceil(chunks);
    let chunks = positions.div_ceil(positions_per_chunk);

    let sums = Launch::with_dtype_of("group_norm", "group_norm_sums", &x)
        .grid([chunks, batch, 1])
        .block(block)
        .shared(block[1] * channels * 2 * size_of::<f32>())
        .tensor(&x)
        .output()
        .ints(&[positions, channels, of.groups, positions_per_chunk]);
    // SAFETY: the grid has a block for every chunk of every image, and a block writes the sums of all groups.
    let sums = unsafe { sums.run((batch, chunks, of.groups, 2), DType::F32, device)? };

    let coefficients = Launch::with_dtype_of("group_norm", "group_norm_coefficients", &x)
        .grid([of.groups, batch, 1])
        .block([WARP, 1, 1])
        .tensor(&x)
        .tensor(&sums)
        .tensor(&weight)
        .tensor(&bias)
        .output()
        .ints(&[positions, channels, of.groups, chunks])
        .float(of.eps as f32);
    // SAFETY: the grid has a block for every group of every image; it writes three coefficients per channel.
    let coefficients = unsafe { coefficients.run((batch, 3, channels), DType::F32, device)? };

    let shape = RowShape { rows: positions * batch, columns: channels };
    let [blocks, ..] = rows::launch_dims(x.dtype(), shape, GROUP_NORM_THREADS).grid;
    let out = Launch::with_dtype_of("group_norm", "group_norm_apply", &x)
        .grid([blocks.div_ceil(batch), batch, 1])
        .block(block)
        .tensor(&x)
        .tensor(&coefficients)
        .output()
        .ints(&[positions, channels, usize::from(of.then_silu)]);
    // SAFETY: the threads of an image's blocks cover all its positions and channels.
    unsafe { out.run(x.shape(), x.dtype(), device) }
}

/// Parameters of [`layer_norm`].
pub struct LayerNorm<'a> {
    /// (channels).
    pub weight: &'a Tensor,
    pub bias: &'a Tensor,
    pub eps: f64,
    /// Added after the norm: (count, channels), broadcast over an input of (batch, count, repeats, channels).
    pub added: Option<&'a Tensor>,
}

/// Layer norm of `x`, (..., channels), not empty. Statistics in f32.
pub fn layer_norm(x: &Tensor, of: &LayerNorm) -> Result<Tensor> {
    let x = x.contiguous()?;
    let RowShape { rows, columns: channels } = RowShape::of(&x);
    let (weight, bias) = (like(of.weight, &x)?, like(of.bias, &x)?);
    let added = of.added.map(|added| like(added, &x)).transpose()?;
    let (repeats, count) = match &added {
        Some(added) => (x.dim(D::Minus2)?, added.dim(0)?),
        None => (1, 1),
    };
    let warps = LAYER_NORM_THREADS / WARP;
    let launch = Launch::with_dtype_of("layer_norm", "layer_norm", &x)
        .grid([rows.div_ceil(warps), 1, 1])
        .block([LAYER_NORM_THREADS, 1, 1])
        .tensor(&x)
        .tensor(&weight)
        .tensor(&bias)
        .optional(added.as_ref())
        .output()
        .ints(&[rows, channels, repeats, count])
        .float(of.eps as f32);
    // SAFETY: the warps cover all rows.
    unsafe { launch.run(x.shape(), x.dtype(), x.device()) }
}

/// `weight`, contiguous and in the dtype of `x`.
fn like(weight: &Tensor, x: &Tensor) -> Result<Tensor> {
    weight.to_dtype(x.dtype())?.contiguous()
}
