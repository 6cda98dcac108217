//! Multi-head attention over tokens and over frames.

use std::mem::MaybeUninit;

use candle_core::{D, DType, Device, Result, Tensor, bail};
use half::bf16;
use rayon::prelude::*;

use crate::cpu::flash_attention::{Engine, PackedKv, QUERIES, Rows, Scratch, flash_attention_block};
use crate::cpu::{Element, Isa, Shared, fill, slice};
use crate::cuda;
use crate::profile::{self, Kind, Work};
use crate::{Qkv, reference_dtype};

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

/// [`attention`] of tokens to themselves. `qkv`: (batch, tokens, heads × head_dim) each.
pub fn self_attention(qkv: &Qkv, heads: usize) -> Result<Tensor> {
    self_attention_for(qkv, heads, Isa::current())
}

/// [`temporal_attention`] of frames to themselves. `qkv`: (batch, frames, positions, heads × head_dim) each.
pub fn temporal_self_attention(qkv: &Qkv, heads: usize) -> Result<Tensor> {
    temporal_self_attention_for(qkv, heads, Isa::current())
}

pub(crate) fn self_attention_for(qkv: &Qkv, heads: usize, isa: Isa) -> Result<Tensor> {
    match qkv {
        Qkv::Separate([q, k, v]) => attention_for(q, k, v, heads, isa),
        Qkv::Joint(joint) => {
            let (batch, tokens, joint_channels) = joint.dims3()?;
            let shape = AttentionShape {
                batch,
                tokens,
                kv_len: tokens,
                channels: joint_channels / 3,
                heads,
                stride: joint_channels,
            };
            if !shape.reads_joint(joint) {
                let [q, k, v] = qkv.split()?;
                return attention_for(&q, &k, &v, heads, isa);
            }
            let _timer = profile::timer(joint, || shape.work(Kind::SelfAttention, joint));
            let values = slice::<bf16>(joint)?;
            let [q, k, v] = [0, 1, 2].map(|i| &values[i * shape.channels..]);
            let out = attention_fused(q, k, v, shape, isa);
            Tensor::from_vec(out, (batch, tokens, shape.channels), &Device::Cpu)
        }
    }
}

pub(crate) fn temporal_self_attention_for(qkv: &Qkv, heads: usize, isa: Isa) -> Result<Tensor> {
    match qkv {
        Qkv::Separate([q, k, v]) => temporal_attention_for(q, k, v, heads, isa),
        Qkv::Joint(joint) => {
            let (batch, frames, positions, joint_channels) = joint.dims4()?;
            let shape = AttentionShape {
                batch,
                tokens: frames,
                kv_len: frames,
                channels: joint_channels / 3,
                heads,
                stride: joint_channels,
            };
            if !shape.reads_joint(joint) {
                let [q, k, v] = qkv.split()?;
                return temporal_attention_for(&q, &k, &v, heads, isa);
            }
            let _timer = profile::timer(joint, || shape.temporal_work(positions, joint));
            let values = slice::<bf16>(joint)?;
            let [q, k, v] = [0, 1, 2].map(|i| &values[i * shape.channels..]);
            let out = temporal_attention_fused(q, k, v, (shape, positions), isa);
            Tensor::from_vec(out, (batch, frames, positions, shape.channels), &Device::Cpu)
        }
    }
}

/// Sizes of an attention.
#[derive(Debug, Clone, Copy)]
struct AttentionShape {
    batch: usize,
    tokens: usize,
    kv_len: usize,
    /// Of all heads.
    channels: usize,
    heads: usize,
    /// Elements from a token to the next.
    stride: usize,
}

impl AttentionShape {
    fn head_dim(&self) -> usize {
        self.channels / self.heads
    }

    /// Whether queries, keys and values are read side by side.
    fn reads_joint(&self, joint: &Tensor) -> bool {
        let Self { channels, heads, .. } = *self;
        joint.elem_count() > 0
            && joint.dtype() == DType::BF16
            && joint.device().is_cpu()
            && joint.is_contiguous()
            && joint.dims().last() == Some(&(3 * channels))
            && heads > 0
            && channels.is_multiple_of(heads)
            && self.head_dim().is_multiple_of(2)
    }

    fn work(&self, kind: Kind, x: &Tensor) -> Work {
        let Self { batch, tokens, kv_len, channels, heads, .. } = *self;
        Work {
            kind,
            shape: format!("{batch}×{heads} heads of {}, {tokens} to {kv_len}", self.head_dim()),
            flop: (4 * batch * tokens * kv_len * channels) as f64,
            bytes: (2 * batch * (tokens + kv_len) * channels * x.dtype().size_in_bytes()) as f64,
        }
    }

    fn temporal_work(&self, positions: usize, x: &Tensor) -> Work {
        let Self { batch, tokens, channels, heads, .. } = *self;
        let elements = batch * tokens * positions * channels;
        Work {
            kind: Kind::TemporalAttention,
            shape: format!("{tokens} frames, {positions} positions, {heads} heads of {}", self.head_dim()),
            flop: (4 * tokens * elements) as f64,
            bytes: (4 * elements * x.dtype().size_in_bytes()) as f64,
        }
    }
}

pub(crate) fn attention_for(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize, isa: Isa) -> Result<Tensor> {
    let (batch, tokens, channels) = q.dims3()?;
    let (kb, kv_len, kc) = k.dims3()?;
    let same = (kb, kc) == (batch, channels) && v.dims() == [batch, kv_len, channels];
    if !same || heads == 0 || !channels.is_multiple_of(heads) || kv_len == 0 {
        bail!("attention: q {:?}, k {:?}, v {:?}, {heads} heads", q.shape(), k.shape(), v.shape());
    }
    check_dtypes("attention", q, k, v)?;
    if q.elem_count() == 0 {
        return Ok(q.clone());
    }
    let shape = AttentionShape { batch, tokens, kv_len, channels, heads, stride: channels };
    let kind = if tokens == kv_len { Kind::SelfAttention } else { Kind::CrossAttention };
    let _timer = profile::timer(q, || shape.work(kind, q));
    if cuda::supports(q)
        && let Some(y) = cuda::attention(q, k, v, heads)?
    {
        return Ok(y);
    }
    match version(q, channels / heads) {
        Version::F32 => attention_dense::<f32>(q, k, v, shape, isa),
        Version::Bf16 => attention_dense::<bf16>(q, k, v, shape, isa),
        Version::Widened => widened(q, k, v, |q, k, v| attention_dense::<f32>(q, k, v, shape, isa)),
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
    let (batch, frames, positions, channels) = q.dims4()?;
    let same = k.dims() == q.dims() && v.dims() == q.dims();
    if !same || heads == 0 || !channels.is_multiple_of(heads) || frames == 0 {
        bail!("temporal attention: q {:?}, k {:?}, v {:?}, {heads} heads", q.shape(), k.shape(), v.shape());
    }
    check_dtypes("temporal attention", q, k, v)?;
    if q.elem_count() == 0 {
        return Ok(q.clone());
    }
    let shape = AttentionShape { batch, tokens: frames, kv_len: frames, channels, heads, stride: channels };
    let _timer = profile::timer(q, || shape.temporal_work(positions, q));
    if cuda::supports(q)
        && let Some(y) = cuda::temporal_attention(q, k, v, heads)?
    {
        return Ok(y);
    }
    match version(q, channels / heads) {
        Version::F32 => temporal_attention_dense::<f32>(q, k, v, (shape, positions), isa),
        Version::Bf16 => temporal_attention_dense::<bf16>(q, k, v, (shape, positions), isa),
        Version::Widened => {
            widened(q, k, v, |q, k, v| temporal_attention_dense::<f32>(q, k, v, (shape, positions), isa))
        }
        Version::Reference => temporal_attention_reference(q, k, v, heads),
    }
}

fn check_dtypes(name: &str, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<()> {
    if k.dtype() != q.dtype() || v.dtype() != q.dtype() {
        bail!("{name}: q {:?}, k {:?}, v {:?}", q.dtype(), k.dtype(), v.dtype());
    }
    Ok(())
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

fn attention_dense<T: Element>(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    shape: AttentionShape,
    isa: Isa,
) -> Result<Tensor> {
    let (q, k, v) = (q.contiguous()?, k.contiguous()?, v.contiguous()?);
    let out = attention_fused(&slice::<T>(&q)?, &slice::<T>(&k)?, &slice::<T>(&v)?, shape, isa);
    Tensor::from_vec(out, q.shape(), &Device::Cpu)
}

fn temporal_attention_dense<T: Element>(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    shape: (AttentionShape, usize),
    isa: Isa,
) -> Result<Tensor> {
    let (q, k, v) = (q.contiguous()?, k.contiguous()?, v.contiguous()?);
    let out = temporal_attention_fused(&slice::<T>(&q)?, &slice::<T>(&k)?, &slice::<T>(&v)?, shape, isa);
    Tensor::from_vec(out, q.shape(), &Device::Cpu)
}

/// `q`, `k`, `v`: from the first token's first element on.
fn attention_fused<T: Element>(q: &[T], k: &[T], v: &[T], shape: AttentionShape, isa: Isa) -> Vec<T> {
    let AttentionShape { batch, tokens, kv_len, channels, heads, stride } = shape;
    let dim = shape.head_dim();
    let write = |out: &Shared<T>| {
        let attend_head = |head: &mut PackedKv<T>, item: usize| {
            let (image, at) = (item / heads, item % heads * dim);
            let keys = image * kv_len * stride + at;
            head.pack(Rows { values: &k[keys..], stride }, Rows { values: &v[keys..], stride });
            let queries = Rows { values: &q[image * tokens * stride + at..], stride };
            let first = image * tokens * channels + at;
            let blocks = (0..tokens.div_ceil(QUERIES)).into_par_iter();
            blocks.for_each_init(Scratch::new, |scratch, block| {
                let block = block * QUERIES..tokens.min((block + 1) * QUERIES);
                // SAFETY: queries and heads own disjoint parts of the output.
                let to = |i: usize| unsafe { out.part(first + i * channels, dim) };
                let engine = Engine::start(isa);
                flash_attention_block(&engine, isa, (queries, block), head, scratch, to);
            });
        };
        let items = (0..batch * heads).into_par_iter();
        items.for_each_init(|| PackedKv::new(kv_len, dim), attend_head);
    };
    // SAFETY: every query of every head is written.
    unsafe { fill(batch * tokens * channels, write) }
}

/// Rows from the element at `first` on.
fn rows_from<T>(values: &[T], first: usize, stride: usize) -> Rows<'_, T> {
    Rows { values: &values[first..], stride }
}

/// `q`, `k`, `v`: from the first token's first element on; the shape's tokens are frames.
fn temporal_attention_fused<T: Element>(
    q: &[T],
    k: &[T],
    v: &[T],
    (shape, positions): (AttentionShape, usize),
    isa: Isa,
) -> Vec<T> {
    let AttentionShape { batch, tokens: frames, channels, stride, .. } = shape;
    let dim = shape.head_dim();
    let at_a_time = (RUN_BYTES / (channels * size_of::<T>())).clamp(1, positions.max(1));
    let blocks: Vec<_> = (0..batch)
        .flat_map(|image| (0..positions).step_by(at_a_time).map(move |first| (image, first)))
        .collect();
    let write = |out: &Shared<T>| {
        let scratch = || (PackedKv::new(frames, dim), Scratch::new(), [Vec::new(), Vec::new(), Vec::new()]);
        blocks.par_iter().for_each_init(scratch, |(head, scratch, copies), &(image, first)| {
            // The frames of a position are a power of two apart, or nearly, and would push each other out of the
            // caches between heads: each is read once and written once, some positions at a time.
            let count = at_a_time.min(positions - first);
            let run = count * channels;
            let position = |frame: usize| (image * frames + frame) * positions + first;
            for (copy, values) in copies.iter_mut().zip([q, k, v]) {
                copy.clear();
                for frame in 0..frames {
                    let from = &values[position(frame) * stride..];
                    match stride == channels {
                        true => copy.extend_from_slice(&from[..run]),
                        false => from
                            .chunks(stride)
                            .take(count)
                            .for_each(|position| copy.extend_from_slice(&position[..channels])),
                    }
                }
            }
            let [q, k, v] = &*copies;
            let engine = Engine::start(isa);
            let attend_heads = |result: &Shared<T>| {
                for at in (0..run).step_by(dim) {
                    head.pack(rows_from(k, at, run), rows_from(v, at, run));
                    for block in (0..frames).step_by(QUERIES) {
                        let block = block..frames.min(block + QUERIES);
                        // SAFETY: frames and heads own disjoint parts of the result.
                        let to = |i: usize| unsafe { result.part(at + i * run, dim) };
                        flash_attention_block(
                            &engine,
                            isa,
                            (rows_from(q, at, run), block),
                            head,
                            scratch,
                            to,
                        );
                    }
                }
            };
            // SAFETY: every frame of every head is written.
            let result = unsafe { fill(frames * run, attend_heads) };
            for (frame, row) in result.chunks_exact(run).enumerate() {
                // SAFETY: positions and frames own disjoint parts of the output.
                let to = unsafe { out.part(position(frame) * channels, run) };
                to.iter_mut().zip(row).for_each(|(to, x)| *to = MaybeUninit::new(*x));
            }
        });
    };
    // SAFETY: every query of every head is written.
    unsafe { fill(batch * frames * positions * channels, write) }
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
