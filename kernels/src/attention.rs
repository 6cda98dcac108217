//! Multi-head attention over tokens and over frames.

use std::mem::MaybeUninit;

use candle_core::{D, DType, Device, Result, Tensor, bail};
use half::bf16;
use rayon::prelude::*;

use crate::cpu::flash_attention::{Engine, Head, QUERIES, Rows, Scratch, attend};
use crate::cpu::{Element, Isa, Shared, fill, slice};
use crate::cuda;
use crate::profile::{self, Kind, Work};
use crate::reference_dtype;

/// Bytes of a frame that are copied together in temporal attention: some positions, for which tiles are taken and given
/// back once; all frames of queries, keys, values and the result stay in the L2 cache.
const RUN_BYTES: usize = 8 << 10;
/// Bytes of scores that the reference holds at a time, as far as a single head allows: at 512 pixels the
/// whole matrix of a chunk has 17 GB in f16.
const SCORE_BYTES: usize = 512 << 20;

/// Softmax(q kᵀ / √head_dim) v for every head.
/// `q`: (batch, tokens, heads × head_dim); `k`, `v`: (batch, others, heads × head_dim) → the shape of `q`.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize) -> Result<Tensor> {
    attention_for(q, k, v, heads, Isa::current())
}

/// Attention over the frames of each position by itself.
/// `q`, `k`, `v`: (batch, frames, positions, heads × head_dim) → the same shape.
pub fn temporal_attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize) -> Result<Tensor> {
    temporal_attention_for(q, k, v, heads, Isa::current())
}

pub(crate) fn attention_for(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, isa: Isa) -> Result<Tensor> {
    let (batch, _, channels) = q.dims3()?;
    let (kb, others, kc) = k.dims3()?;
    let same = (kb, kc) == (batch, channels) && v.dims() == [batch, others, channels];
    if !same || heads == 0 || !channels.is_multiple_of(heads) || others == 0 {
        bail!("attention: q {:?}, k {:?}, v {:?}, {heads} heads", q.shape(), k.shape(), v.shape());
    }
    check_dtypes("attention", q, k, v)?;
    if q.elem_count() == 0 {
        return Ok(q.clone());
    }
    let _timer = profile::timer(q, || work(q, k, heads));
    if cuda::takes(q)
        && let Some(y) = cuda::attention(q, k, v, heads)?
    {
        return Ok(y);
    }
    match version(q, channels / heads) {
        Version::F32 => attention_fused::<f32>(q, k, v, heads, isa),
        Version::Bf16 => attention_fused::<bf16>(q, k, v, heads, isa),
        Version::Widened => widened(q, k, v, |q, k, v| attention_fused::<f32>(q, k, v, heads, isa)),
        Version::Reference => attention_reference(q, k, v, heads),
    }
}

pub(crate) fn temporal_attention_for(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    heads: usize,
    isa: Isa,
) -> Result<Tensor> {
    let (_, frames, _, channels) = q.dims4()?;
    let same = k.dims() == q.dims() && v.dims() == q.dims();
    if !same || heads == 0 || !channels.is_multiple_of(heads) || frames == 0 {
        bail!("temporal attention: q {:?}, k {:?}, v {:?}, {heads} heads", q.shape(), k.shape(), v.shape());
    }
    check_dtypes("temporal attention", q, k, v)?;
    if q.elem_count() == 0 {
        return Ok(q.clone());
    }
    let _timer = profile::timer(q, || temporal_work(q, heads));
    if cuda::takes(q)
        && let Some(y) = cuda::temporal_attention(q, k, v, heads)?
    {
        return Ok(y);
    }
    match version(q, channels / heads) {
        Version::F32 => temporal_attention_fused::<f32>(q, k, v, heads, isa),
        Version::Bf16 => temporal_attention_fused::<bf16>(q, k, v, heads, isa),
        Version::Widened => widened(q, k, v, |q, k, v| temporal_attention_fused::<f32>(q, k, v, heads, isa)),
        Version::Reference => temporal_attention_reference(q, k, v, heads),
    }
}

fn check_dtypes(name: &str, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<()> {
    if k.dtype() != q.dtype() || v.dtype() != q.dtype() {
        bail!("{name}: q {:?}, k {:?}, v {:?}", q.dtype(), k.dtype(), v.dtype());
    }
    Ok(())
}

fn work(q: &Tensor, k: &Tensor, heads: usize) -> Work {
    let (dims, others) = (q.dims(), k.dims()[1]);
    let (batch, tokens, channels) = (dims[0], dims[1], dims[2]);
    Work {
        kind: if tokens == others { Kind::SelfAttention } else { Kind::CrossAttention },
        shape: format!("{batch}×{heads} heads of {}, {tokens} to {others}", channels / heads),
        flop: (4 * batch * tokens * others * channels) as f64,
        bytes: 2. * (profile::bytes(q) + profile::bytes(k)),
    }
}

fn temporal_work(q: &Tensor, heads: usize) -> Work {
    let dims = q.dims();
    let (frames, positions, channels) = (dims[1], dims[2], dims[3]);
    Work {
        kind: Kind::TemporalAttention,
        shape: format!("{frames} frames, {positions} positions, {heads} heads of {}", channels / heads),
        flop: (4 * frames * q.elem_count()) as f64,
        bytes: 4. * profile::bytes(q),
    }
}

/// What computes an attention.
enum Version {
    F32,
    Bf16,
    /// The f32 version, between casts.
    Widened,
    Reference,
}

fn version(q: &Tensor, head_dim: usize) -> Version {
    match (q.device(), q.dtype()) {
        (Device::Cpu, DType::F32) => Version::F32,
        // By pairs of dimensions.
        (Device::Cpu, DType::BF16) if head_dim.is_multiple_of(2) => Version::Bf16,
        (Device::Cpu, DType::BF16 | DType::F16) => Version::Widened,
        _ => Version::Reference,
    }
}

fn widened(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    attention: impl Fn(&Tensor, &Tensor, &Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    let wide = |x: &Tensor| x.to_dtype(DType::F32);
    attention(&wide(q)?, &wide(k)?, &wide(v)?)?.to_dtype(q.dtype())
}

fn attention_fused<T: Element>(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, isa: Isa) -> Result<Tensor> {
    let (batch, tokens, channels) = q.dims3()?;
    let others = k.dim(1)?;
    let dim = channels / heads;
    let (q_dense, k, v) = (q.contiguous()?, k.contiguous()?, v.contiguous()?);
    let (qs, ks, vs) = (slice::<T>(&q_dense)?, slice::<T>(&k)?, slice::<T>(&v)?);
    let (qs, ks, vs) = (&qs[..], &ks[..], &vs[..]);
    let rows = |values| Rows { values, stride: channels };
    let write = |out: &Shared<T>| {
        let of_head = |head: &mut Head<T>, item: usize| {
            let (image, at) = (item / heads, item % heads * dim);
            let keys = image * others * channels + at;
            head.pack(rows(&ks[keys..]), rows(&vs[keys..]));
            let first = image * tokens * channels + at;
            let queries = rows(&qs[first..]);
            let blocks = (0..tokens.div_ceil(QUERIES)).into_par_iter();
            blocks.for_each_init(Scratch::new, |scratch, block| {
                let block = block * QUERIES..tokens.min((block + 1) * QUERIES);
                // SAFETY: queries and heads own disjoint parts of the output.
                let to = |i: usize| unsafe { out.part(first + i * channels, dim) };
                attend(&Engine::start(isa), isa, (queries, block), head, scratch, to);
            });
        };
        let items = (0..batch * heads).into_par_iter();
        items.for_each_init(|| Head::new(others, dim), of_head);
    };
    // SAFETY: every query of every head is written.
    let out = unsafe { fill(q.elem_count(), write) };
    Tensor::from_vec(out, q.shape(), &Device::Cpu)
}

/// The rows of the head that begins at `first`.
fn of_head<T>(values: &[T], first: usize, stride: usize) -> Rows<'_, T> {
    Rows { values: &values[first..], stride }
}

fn temporal_attention_fused<T: Element>(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    heads: usize,
    isa: Isa,
) -> Result<Tensor> {
    let (batch, frames, positions, channels) = q.dims4()?;
    let dim = channels / heads;
    let (q_dense, k, v) = (q.contiguous()?, k.contiguous()?, v.contiguous()?);
    let (qs, ks, vs) = (slice::<T>(&q_dense)?, slice::<T>(&k)?, slice::<T>(&v)?);
    let (qs, ks, vs) = (&qs[..], &ks[..], &vs[..]);
    let at_a_time = (RUN_BYTES / (channels * size_of::<T>())).clamp(1, positions.max(1));
    let blocks: Vec<_> = (0..batch)
        .flat_map(|image| (0..positions).step_by(at_a_time).map(move |first| (image, first)))
        .collect();
    let write = |out: &Shared<T>| {
        let scratch = || (Head::new(frames, dim), Scratch::new(), [Vec::new(), Vec::new(), Vec::new()]);
        blocks.par_iter().for_each_init(scratch, |(head, scratch, copies), &(image, first)| {
            // The frames of a position are a power of two apart, or nearly, and would push each other out of the
            // caches between heads: each is read once and written once, some positions at a time.
            let run = at_a_time.min(positions - first) * channels;
            let from = |frame: usize| ((image * frames + frame) * positions + first) * channels;
            for (copy, values) in copies.iter_mut().zip([qs, ks, vs]) {
                copy.clear();
                (0..frames).for_each(|frame| copy.extend_from_slice(&values[from(frame)..][..run]));
            }
            let [q, k, v] = &*copies;
            let engine = Engine::start(isa);
            let of_heads = |result: &Shared<T>| {
                for at in (0..run).step_by(dim) {
                    head.pack(of_head(k, at, run), of_head(v, at, run));
                    for block in (0..frames).step_by(QUERIES) {
                        let block = block..frames.min(block + QUERIES);
                        // SAFETY: frames and heads own disjoint parts of the result.
                        let to = |i: usize| unsafe { result.part(at + i * run, dim) };
                        attend(&engine, isa, (of_head(q, at, run), block), head, scratch, to);
                    }
                }
            };
            // SAFETY: every frame of every head is written.
            let result = unsafe { fill(frames * run, of_heads) };
            for (frame, row) in result.chunks_exact(run).enumerate() {
                // SAFETY: positions and frames own disjoint parts of the output.
                let to = unsafe { out.part(from(frame), run) };
                to.iter_mut().zip(row).for_each(|(to, x)| *to = MaybeUninit::new(*x));
            }
        });
    };
    // SAFETY: every query of every head is written.
    let out = unsafe { fill(q.elem_count(), write) };
    Tensor::from_vec(out, q.shape(), &Device::Cpu)
}

/// The definition, in plain candle operations.
pub fn attention_reference(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize) -> Result<Tensor> {
    reference_within(q, k, v, heads, SCORE_BYTES)
}

/// The reference, a few heads of the batch at a time, so that their scores have at most `score_bytes`.
pub(crate) fn reference_within(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    heads: usize,
    score_bytes: usize,
) -> Result<Tensor> {
    let (batch, tokens, channels) = q.dims3()?;
    let (others, head_dim) = (k.dim(1)?, channels / heads);
    let dtype = reference_dtype(q);
    // (batch × heads, tokens, head_dim)
    let split = |x: &Tensor| {
        let tokens = x.dim(1)?;
        let x = x.to_dtype(dtype)?.reshape((batch, tokens, heads, head_dim))?.transpose(1, 2)?;
        x.contiguous()?.reshape((batch * heads, tokens, head_dim))
    };
    // Before the product, whose sums can be beyond f16.
    let q_scaled = (split(q)? * (head_dim as f64).powf(-0.5))?;
    let (k, v) = (split(k)?, split(v)?);
    let at_a_time = (score_bytes / (tokens * others * dtype.size_in_bytes()).max(1)).max(1);
    let of_heads = |first: usize| {
        let heads = at_a_time.min(batch * heads - first);
        let part = |x: &Tensor| x.narrow(0, first, heads);
        let scores = part(&q_scaled)?.matmul(&part(&k)?.transpose(1, 2)?)?;
        candle_nn::ops::softmax(&scores, D::Minus1)?.matmul(&part(&v)?)
    };
    let parts = (0..batch * heads).step_by(at_a_time).map(of_heads).collect::<Result<Vec<_>>>()?;
    let y = Tensor::cat(&parts, 0)?.reshape((batch, heads, tokens, head_dim))?.transpose(1, 2)?;
    y.reshape((batch, tokens, channels))?.to_dtype(q.dtype())
}

/// The definition, in plain candle operations.
pub fn temporal_attention_reference(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize) -> Result<Tensor> {
    let (batch, frames, positions, channels) = q.dims4()?;
    let by_position = |x: &Tensor| x.transpose(1, 2)?.reshape((batch * positions, frames, channels));
    let y = attention_reference(&by_position(q)?, &by_position(k)?, &by_position(v)?, heads)?;
    y.reshape((batch, positions, frames, channels))?.transpose(1, 2)?.contiguous()
}
