//! Launchers of `attention.cu`, `attention_tensor_core.cu` and `temporal_attention.cu`.

use std::f64::consts::LOG2_E;

use candle_core::{DType, Result, Tensor};

use super::launch::Launch;

/// Head sizes that the kernels are compiled for, each with all smaller ones.
const SIZES: [usize; 3] = [64, 160, 512];
const TENSOR_CORE_SIZES: [usize; 4] = [48, 64, 80, 160];
/// Frames that the temporal kernels are compiled for, likewise.
const FRAMES: [usize; 3] = [16, 24, 32];

const WARP: usize = 32;
/// From here on a block takes 128 queries: fewer blocks read keys and values, and there are still enough of them.
const MANY_TOKENS: usize = 256;
const TEMPORAL_THREADS: usize = 256;
/// Bytes of keys and values of a temporal block: without asking, and so that several blocks share a multiprocessor.
const TEMPORAL_SHARED: usize = 48 << 10;

/// `q`: (batch, tokens, heads × head_dim); `k`, `v`: (batch, others, heads × head_dim), none of them empty, all of
/// one type → the shape of `q`. `None` where another version is faster, or none was compiled.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize) -> Result<Option<Tensor>> {
    let (q, k, v) = (q.contiguous()?, k.contiguous()?, v.contiguous()?);
    let (batch, tokens, channels) = q.dims3()?;
    let (others, dim) = (k.dim(1)?, channels / heads);
    let fitting = |sizes: &[usize]| sizes.iter().copied().find(|&size| dim <= size);
    // A tensor can begin anywhere within another's memory.
    let is_aligned = |x: &Tensor| x.layout().start_offset().is_multiple_of(8);

    let on_tensor_cores =
        q.dtype() != DType::F32 && dim.is_multiple_of(8) && [&q, &k, &v].into_iter().all(is_aligned);
    let (launch, queries, threads, shared) = if on_tensor_cores {
        // Beyond these sizes the sums do not fit a warp's registers; a product that stores its scores is then
        // faster than sums without tensor cores.
        let Some(size) = fitting(&TENSOR_CORE_SIZES) else { return Ok(None) };
        let queries = if tokens < MANY_TOKENS { 64 } else { 128 };
        // Two tiles of 64 keys, two of values, rows of eight more elements.
        let shared = 4 * 64 * (size + 8) * q.dtype().size_in_bytes();
        let launch =
            Launch::of_dtype("attention_tensor_core", "attention_tensor_core", &q).tile(size, queries);
        (launch, queries, queries / 16 * WARP, shared)
    } else {
        let Some(size) = fitting(&SIZES) else { return Ok(None) };
        // 16 queries, their weights of 32 keys, a tile of 32 rows of 33.
        let shared = (16 * size + 16 * 32 + 32 * 33) * size_of::<f32>();
        (Launch::of_dtype("attention", "attention", &q).up_to(size), 16, 4 * WARP, shared)
    };
    let launch = launch
        .grid([tokens.div_ceil(queries), heads, batch])
        .block([threads, 1, 1])
        .shared(shared)
        .tensor(&q)
        .tensor(&k)
        .tensor(&v)
        .output()
        .ints(&[tokens, others, heads, dim])
        .float(scale(dim));
    // SAFETY: the blocks are all queries of all heads of all images.
    unsafe { launch.run(q.shape(), q.dtype(), q.device()) }.map(Some)
}

/// `q`, `k`, `v`: (batch, frames, positions, heads × head_dim), none of them empty, all of one type → the same
/// shape. `None` where no version was compiled.
pub fn temporal_attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize) -> Result<Option<Tensor>> {
    let (q, k, v) = (q.contiguous()?, k.contiguous()?, v.contiguous()?);
    let (batch, frames, positions, channels) = q.dims4()?;
    let dim = channels / heads;
    let Some(size) = FRAMES.into_iter().find(|&size| frames <= size) else { return Ok(None) };
    let shared = |heads: usize| 2 * frames * heads * dim * q.dtype().size_in_bytes();
    // As many heads as fit, so that what a block reads is as wide as can be.
    let fits =
        |n: &usize| heads.is_multiple_of(*n) && n * size <= TEMPORAL_THREADS && shared(*n) <= TEMPORAL_SHARED;
    let Some(per_block) = (1..=heads).rev().find(fits) else { return Ok(None) };
    let launch = Launch::of_dtype("temporal_attention", "temporal_attention", &q)
        .up_to(size)
        .grid([positions, heads / per_block, batch])
        .block([size, per_block, 1])
        .shared(shared(per_block))
        .tensor(&q)
        .tensor(&k)
        .tensor(&v)
        .output()
        .ints(&[frames, positions, heads, dim, per_block])
        .float(scale(dim));
    // SAFETY: the blocks are all positions and heads of all videos, and a block has a thread for each frame.
    unsafe { launch.run(q.shape(), q.dtype(), q.device()) }.map(Some)
}

/// The kernels' exponentials are powers of two.
fn scale(dim: usize) -> f32 {
    (LOG2_E / (dim as f64).sqrt()) as f32
}
