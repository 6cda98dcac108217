//! Launchers of `attention.cu`, `attention_tensor_core.cu` and `temporal_attention.cu`.

use std::f64::consts::LOG2_E;

use candle_core::{DType, Result, Tensor};

use super::launch::Launch;

/// Maximum head dimensions for which the kernels are compiled.
const HEAD_DIMS: [usize; 3] = [64, 160, 512];
const TENSOR_CORE_HEAD_DIMS: [usize; 4] = [48, 64, 80, 160];
/// Maximum numbers of frames for which the temporal kernels are compiled.
const FRAMES: [usize; 3] = [16, 24, 32];

const WARP: usize = 32;
/// Number of queries from which a block has 128 instead of 64: keys and values are then read by half as many
/// blocks, which still fill the GPU.
const MIN_Q_LEN_FOR_LARGE_BLOCKS: usize = 256;
/// Maximum threads of a temporal block.
const TEMPORAL_THREADS: usize = 256;
/// Maximum shared memory of a temporal block for keys and values, in bytes: no opt-in is needed, and several
/// blocks fit a multiprocessor.
const MAX_TEMPORAL_SHARED: usize = 48 << 10;

/// FlashAttention of `q`, (batch, q_len, heads × head_dim), over `k` and `v`, (batch, kv_len, heads ×
/// head_dim) → the shape of `q`. No tensor is empty, and all have one dtype. `None` if no kernel supports the
/// head dimension, or another version is faster.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize) -> Result<Option<Tensor>> {
    let (q, k, v) = (q.contiguous()?, k.contiguous()?, v.contiguous()?);
    let (batch, q_len, channels) = q.dims3()?;
    let (kv_len, head_dim) = (k.dim(1)?, channels / heads);
    let Some(Variant { launch, block_m, threads, shared }) = variant([&q, &k, &v], head_dim) else {
        return Ok(None);
    };
    let launch = launch
        .grid([q_len.div_ceil(block_m), heads, batch])
        .block([threads, 1, 1])
        .shared(shared)
        .tensor(&q)
        .tensor(&k)
        .tensor(&v)
        .output()
        .ints(&[q_len, kv_len, heads, head_dim])
        .float(scale_log2(head_dim));
    // SAFETY: the grid covers all queries of all heads of the batch.
    unsafe { launch.run(q.shape(), q.dtype(), q.device()) }.map(Some)
}

/// A compiled attention kernel and its launch parameters.
struct Variant<'a> {
    launch: Launch<'a>,
    /// Queries per block.
    block_m: usize,
    threads: usize,
    /// Bytes of shared memory.
    shared: usize,
}

/// The kernel for contiguous `q`, `k`, `v` of `head_dim`.
fn variant<'a>(qkv: [&Tensor; 3], head_dim: usize) -> Option<Variant<'a>> {
    let [q, ..] = qkv;
    let smallest_fit = |sizes: &[usize]| sizes.iter().copied().find(|&size| head_dim <= size);
    // The tensor-core kernel loads 16 bytes at a time; a view can start at any element of its storage.
    let is_aligned = |x: &Tensor| x.layout().start_offset().is_multiple_of(8);
    if q.dtype() != DType::F32 && head_dim.is_multiple_of(8) && qkv.into_iter().all(is_aligned) {
        // For larger heads the output accumulators exceed a warp's registers. A matrix product that stores
        // its scores is then faster than the kernel without tensor cores, so there is no fallback to it.
        let size = smallest_fit(&TENSOR_CORE_HEAD_DIMS)?;
        let block_m = if q.dims()[1] < MIN_Q_LEN_FOR_LARGE_BLOCKS { 64 } else { 128 };
        // Two tiles of 64 keys and two of 64 values, in rows padded by eight elements.
        let shared = 4 * 64 * (size + 8) * q.dtype().size_in_bytes();
        let launch =
            Launch::with_dtype_of("attention_tensor_core", "attention_tensor_core", q).tile(size, block_m);
        return Some(Variant { launch, block_m, threads: block_m / 16 * WARP, shared });
    }
    let size = smallest_fit(&HEAD_DIMS)?;
    // 16 queries, their probabilities for 32 keys, and a tile of 32 rows of 33 floats.
    let shared = (16 * size + 16 * 32 + 32 * 33) * size_of::<f32>();
    let launch = Launch::with_dtype_of("attention", "attention", q).max_size(size);
    Some(Variant { launch, block_m: 16, threads: 4 * WARP, shared })
}

/// Attention over the frames of each position. `q`, `k`, `v`: (batch, frames, positions, heads × head_dim),
/// not empty, of one dtype → the same shape. `None` if no kernel supports the number of frames or the head
/// dimension.
pub fn temporal_attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize) -> Result<Option<Tensor>> {
    let (q, k, v) = (q.contiguous()?, k.contiguous()?, v.contiguous()?);
    let (batch, frames, positions, channels) = q.dims4()?;
    let head_dim = channels / heads;
    let Some(size) = FRAMES.into_iter().find(|&size| frames <= size) else { return Ok(None) };
    let shared = |heads: usize| 2 * frames * heads * head_dim * q.dtype().size_in_bytes();
    // As many heads per block as fit, for the longest contiguous reads.
    let fits = |n: &usize| {
        heads.is_multiple_of(*n) && n * size <= TEMPORAL_THREADS && shared(*n) <= MAX_TEMPORAL_SHARED
    };
    let Some(heads_per_block) = (1..=heads).rev().find(fits) else { return Ok(None) };
    let launch = Launch::with_dtype_of("temporal_attention", "temporal_attention", &q)
        .max_size(size)
        .grid([positions, heads / heads_per_block, batch])
        .block([size, heads_per_block, 1])
        .shared(shared(heads_per_block))
        .tensor(&q)
        .tensor(&k)
        .tensor(&v)
        .output()
        .ints(&[frames, positions, heads, head_dim, heads_per_block])
        .float(scale_log2(head_dim));
    // SAFETY: the grid covers all positions and heads of the batch, and a block has a thread for every frame
    // of a head.
    unsafe { launch.run(q.shape(), q.dtype(), q.device()) }.map(Some)
}

/// Softmax scale log2(e) / √head_dim: the kernels compute exp as a power of 2.
fn scale_log2(head_dim: usize) -> f32 {
    (LOG2_E / (head_dim as f64).sqrt()) as f32
}
