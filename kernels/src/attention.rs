//! Multi-head attention over tokens and over frames.

use candle_core::{D, Result, Tensor, bail};

/// Softmax(q kᵀ / √head_dim) v for every head.
/// `q`: (batch, tokens, heads × head_dim); `k`, `v`: (batch, others, heads × head_dim) → the shape of `q`.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize) -> Result<Tensor> {
    let (batch, _, channels) = q.dims3()?;
    let (kb, others, kc) = k.dims3()?;
    if (kb, kc) != (batch, channels) || v.dims() != [batch, others, channels] || channels % heads != 0 {
        bail!(
            "attention: q {:?}, k {:?}, v {:?}, {heads} heads",
            q.shape(),
            k.shape(),
            v.shape()
        );
    }
    attention_reference(q, k, v, heads)
}

/// Attention over the frames of each position by itself.
/// `q`, `k`, `v`: (batch, frames, positions, heads × head_dim) → the same shape.
pub fn temporal_attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize) -> Result<Tensor> {
    let (_, _, _, channels) = q.dims4()?;
    if k.dims() != q.dims() || v.dims() != q.dims() || channels % heads != 0 {
        bail!(
            "temporal attention: q {:?}, k {:?}, v {:?}, {heads} heads",
            q.shape(),
            k.shape(),
            v.shape()
        );
    }
    temporal_attention_reference(q, k, v, heads)
}

/// The definition, in plain candle operations.
pub fn attention_reference(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize) -> Result<Tensor> {
    let (batch, tokens, channels) = q.dims3()?;
    let head_dim = channels / heads;
    let split = |x: &Tensor| {
        x.reshape((batch, x.dim(1)?, heads, head_dim))?
            .transpose(1, 2)?
            .contiguous()
    };
    let scores = (split(q)?.matmul(&split(k)?.transpose(2, 3)?)? * (head_dim as f64).powf(-0.5))?;
    let weights = candle_nn::ops::softmax(&scores, D::Minus1)?;
    weights
        .matmul(&split(v)?)?
        .transpose(1, 2)?
        .reshape((batch, tokens, channels))
}

/// The definition, in plain candle operations.
pub fn temporal_attention_reference(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize) -> Result<Tensor> {
    let (batch, frames, positions, channels) = q.dims4()?;
    let by_position = |x: &Tensor| x.transpose(1, 2)?.reshape((batch * positions, frames, channels));
    let y = attention_reference(&by_position(q)?, &by_position(k)?, &by_position(v)?, heads)?;
    y.reshape((batch, positions, frames, channels))?
        .transpose(1, 2)?
        .contiguous()
}
