//! The spatial transformer: self-attention inside a frame, attention to the audio, feed-forward.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use kernels::{GroupNorm, LayerNorm, Linear, attention};

use super::{UNet3DConfig, repeated};
use crate::layers::{self, FeedForward};

/// Keys and values of one cross-attention: (batch · frames, tokens, channels) each.
#[derive(Debug, Clone)]
pub(super) struct KeyValue {
    key: Tensor,
    value: Tensor,
}

/// The projections around an attention; no bias but the output's.
#[derive(Debug)]
pub(super) struct Attention {
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
    heads: usize,
}

/// Channels of an attention's parts.
#[derive(Debug, Clone, Copy)]
pub(super) struct AttentionShape {
    /// Of the queries' input and of the output.
    pub query: usize,
    /// Of the input of keys and values.
    pub context: usize,
    pub heads: usize,
}

impl Attention {
    pub fn load(shape: AttentionShape, vb: VarBuilder) -> Result<Self> {
        let AttentionShape { query, context, heads } = shape;
        Ok(Self {
            to_q: layers::linear_no_bias(query, query, vb.pp("to_q"))?,
            to_k: layers::linear_no_bias(context, query, vb.pp("to_k"))?,
            to_v: layers::linear_no_bias(context, query, vb.pp("to_v"))?,
            to_out: layers::linear(query, query, vb.pp("to_out").pp(0))?,
            heads,
        })
    }

    /// `x`: (..., context) → keys and values, (..., query) each.
    pub fn key_value(&self, x: &Tensor) -> Result<KeyValue> {
        Ok(KeyValue { key: self.to_k.forward(x)?, value: self.to_v.forward(x)? })
    }

    /// `x`, `residual`: (images, positions, channels) → `residual` + the attention of `x` to `others`.
    pub fn forward_add(&self, x: &Tensor, others: &KeyValue, residual: &Tensor) -> Result<Tensor> {
        let q = self.to_q.forward(x)?;
        let y = attention(&q, &others.key, &others.value, self.heads)?;
        self.to_out.forward_add(&y, residual)
    }

    /// `x`, `residual`: (batch, frames, positions, channels) → `residual` + the attention of every
    /// position to itself in the other frames.
    pub fn forward_temporal_add(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        let q = self.to_q.forward(x)?;
        let KeyValue { key, value } = self.key_value(x)?;
        let y = kernels::temporal_attention(&q, &key, &value, self.heads)?;
        self.to_out.forward_add(&y, residual)
    }
}

/// The attention to the audio and the norm before it.
#[derive(Debug)]
struct AudioAttention {
    norm2: LayerNorm,
    attn2: Attention,
}

#[derive(Debug)]
struct BasicTransformerBlock {
    norm1: LayerNorm,
    attn1: Attention,
    audio: Option<AudioAttention>,
    norm3: LayerNorm,
    ff: FeedForward,
}

impl BasicTransformerBlock {
    fn load(cfg: &UNet3DConfig, channels: usize, heads: usize, vb: VarBuilder) -> Result<Self> {
        let shape = AttentionShape { query: channels, context: channels, heads };
        let audio = if cfg.add_audio_layer {
            let shape = AttentionShape { context: cfg.cross_attention_dim, ..shape };
            Some(AudioAttention {
                norm2: layers::layer_norm(channels, vb.pp("norm2"))?,
                attn2: Attention::load(shape, vb.pp("attn2"))?,
            })
        } else {
            None
        };
        Ok(Self {
            norm1: layers::layer_norm(channels, vb.pp("norm1"))?,
            attn1: Attention::load(shape, vb.pp("attn1"))?,
            audio,
            norm3: layers::layer_norm(channels, vb.pp("norm3"))?,
            ff: FeedForward::load(channels, vb.pp("ff"))?,
        })
    }

    /// `x`: (images, positions, channels) → the same shape, or as many images as the audio has.
    fn forward(&self, x: &Tensor, audio: Option<&KeyValue>) -> Result<Tensor> {
        let h = self.norm1.forward(x)?;
        let mut x = self.attn1.forward_add(&h, &self.attn1.key_value(&h)?, x)?;
        if let (Some(AudioAttention { norm2, attn2 }), Some(audio)) = (&self.audio, audio) {
            // Here the halves of guidance begin to differ.
            let h = repeated(&norm2.forward(&x)?, audio.key.dim(0)?)?;
            x = attn2.forward_add(&h, audio, &repeated(&x, audio.key.dim(0)?)?)?;
        }
        self.ff.forward_add(&self.norm3.forward(&x)?, &x)
    }
}

/// A transformer over the positions of each frame.
#[derive(Debug)]
pub(super) struct Transformer3D {
    norm: GroupNorm,
    proj_in: Linear,
    transformer_blocks: Vec<BasicTransformerBlock>,
    proj_out: Linear,
}

impl Transformer3D {
    pub fn load(cfg: &UNet3DConfig, channels: usize, heads: usize, vb: VarBuilder) -> Result<Self> {
        let projection = if cfg.use_linear_projection { layers::linear } else { layers::pointwise };
        let blocks = vb.pp("transformer_blocks");
        Ok(Self {
            norm: layers::group_norm(channels, cfg.norm_num_groups, 1e-6, vb.pp("norm"))?,
            proj_in: projection(channels, channels, vb.pp("proj_in"))?,
            // The original has one block in every transformer.
            transformer_blocks: vec![BasicTransformerBlock::load(cfg, channels, heads, blocks.pp(0))?],
            proj_out: projection(channels, channels, vb.pp("proj_out"))?,
        })
    }

    /// What the attentions to the audio need of it. `audio`: (batch · frames, tokens, cross_attention_dim).
    pub fn key_values(&self, audio: &Tensor) -> Result<Vec<KeyValue>> {
        self.transformer_blocks
            .iter()
            .filter_map(|block| block.audio.as_ref())
            .map(|layer| layer.attn2.key_value(audio))
            .collect()
    }

    /// `x`: (batch or a part · frames, h, w, channels) → the same shape, or as many images as the audio has.
    pub fn forward(&self, x: &Tensor, audio: &[KeyValue]) -> Result<Tensor> {
        let (images, height, width, channels) = x.dims4()?;
        let residual = x.reshape((images, height * width, channels))?;
        let mut h = self.proj_in.forward(&self.norm.forward(&residual)?)?;
        for (i, block) in self.transformer_blocks.iter().enumerate() {
            h = block.forward(&h, audio.get(i))?;
        }
        let images = h.dim(0)?;
        self.proj_out
            .forward_add(&h, &repeated(&residual, images)?)?
            .reshape((images, height, width, channels))
    }
}
