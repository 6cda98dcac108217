//! The spatial transformer: self-attention within a frame, cross-attention to the audio, feed-forward.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use kernels::{GroupNorm, LayerNorm, Linear, attention};

use super::config::UNet3DConfig;
use crate::guidance::GuidedBatch;
use crate::layers::{self, FeedForward};

/// Keys and values of one cross-attention: (batch · frames, tokens, channels) each.
#[derive(Debug, Clone)]
pub(super) struct KeyValue {
    key: Tensor,
    value: Tensor,
}

/// The projections of an attention; only `to_out` has a bias.
#[derive(Debug)]
pub(super) struct Attention {
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
    heads: usize,
}

/// Dimensions of an attention.
#[derive(Debug, Clone, Copy)]
pub(super) struct AttentionShape {
    /// Channels of the query input and of the output.
    pub query_dim: usize,
    /// Channels of the input of keys and values.
    pub cross_attention_dim: usize,
    pub heads: usize,
}

impl Attention {
    pub fn load(shape: AttentionShape, vb: VarBuilder) -> Result<Self> {
        let AttentionShape { query_dim, cross_attention_dim, heads } = shape;
        Ok(Self {
            to_q: layers::linear_no_bias(query_dim, query_dim, vb.pp("to_q"))?,
            to_k: layers::linear_no_bias(cross_attention_dim, query_dim, vb.pp("to_k"))?,
            to_v: layers::linear_no_bias(cross_attention_dim, query_dim, vb.pp("to_v"))?,
            to_out: layers::linear(query_dim, query_dim, vb.pp("to_out").pp(0))?,
            heads,
        })
    }

    /// Projects `x`, (..., cross_attention_dim), to keys and values, (..., query_dim) each.
    pub fn key_value(&self, x: &Tensor) -> Result<KeyValue> {
        Ok(KeyValue { key: self.to_k.forward(x)?, value: self.to_v.forward(x)? })
    }

    /// Attention with queries from `x` and the keys and values `kv`, plus `residual`.
    /// `x`, `residual`: (images, positions, channels) → the same shape.
    pub fn forward_add(&self, x: &Tensor, kv: &KeyValue, residual: &Tensor) -> Result<Tensor> {
        let q = self.to_q.forward(x)?;
        let y = attention(&q, &kv.key, &kv.value, self.heads)?;
        self.to_out.forward_add(&y, residual)
    }

    /// Temporal self-attention (every position attends to the same position in all frames), plus `residual`.
    /// `x`, `residual`: (batch, frames, positions, channels) → the same shape.
    pub fn forward_temporal_add(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        let q = self.to_q.forward(x)?;
        let KeyValue { key, value } = self.key_value(x)?;
        let y = kernels::temporal_attention(&q, &key, &value, self.heads)?;
        self.to_out.forward_add(&y, residual)
    }
}

/// Cross-attention to the audio, with the norm before it.
#[derive(Debug)]
struct AudioCrossAttention {
    norm2: LayerNorm,
    attn2: Attention,
}

#[derive(Debug)]
struct BasicTransformerBlock {
    norm1: LayerNorm,
    attn1: Attention,
    audio: Option<AudioCrossAttention>,
    norm3: LayerNorm,
    ff: FeedForward,
}

impl BasicTransformerBlock {
    fn load(cfg: &UNet3DConfig, channels: usize, heads: usize, vb: VarBuilder) -> Result<Self> {
        let shape = AttentionShape { query_dim: channels, cross_attention_dim: channels, heads };
        let audio = if cfg.add_audio_layer {
            let shape = AttentionShape { cross_attention_dim: cfg.cross_attention_dim, ..shape };
            Some(AudioCrossAttention {
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

    /// `x`: (images, positions, channels) → the same shape, expanded by the cross-attention.
    fn forward(&self, x: &GuidedBatch, audio: Option<&KeyValue>) -> Result<GuidedBatch> {
        let mut x = x.map(|x| {
            let h = self.norm1.forward(x)?;
            self.attn1.forward_add(&h, &self.attn1.key_value(&h)?, x)
        })?;
        if let (Some(AudioCrossAttention { norm2, attn2 }), Some(audio)) = (&self.audio, audio) {
            // The unconditional and the conditional half differ from here on.
            let h = x.map(|x| norm2.forward(x))?.expand()?;
            x = GuidedBatch::expanded(attn2.forward_add(&h, audio, &x.expand()?)?);
        }
        x.map(|x| self.ff.forward_add(&self.norm3.forward(x)?, x))
    }
}

/// Transformer over the positions of each frame.
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
            // Every transformer of the original has one block.
            transformer_blocks: vec![BasicTransformerBlock::load(cfg, channels, heads, blocks.pp(0))?],
            proj_out: projection(channels, channels, vb.pp("proj_out"))?,
        })
    }

    /// Keys and values of every cross-attention. `audio`: (batch · frames, tokens, cross_attention_dim).
    pub fn key_values(&self, audio: &Tensor) -> Result<Vec<KeyValue>> {
        self.transformer_blocks
            .iter()
            .filter_map(|block| block.audio.as_ref())
            .map(|layer| layer.attn2.key_value(audio))
            .collect()
    }

    /// `x`: (batch · frames, h, w, channels) → the same shape, expanded by the first cross-attention.
    pub fn forward(&self, x: &GuidedBatch, audio: &[KeyValue]) -> Result<GuidedBatch> {
        let (_, height, width, channels) = x.tensor().dims4()?;
        let residual = x.map(|x| x.reshape(((), height * width, channels)))?;
        let mut h = residual.map(|x| self.proj_in.forward(&self.norm.forward(x)?))?;
        for (i, block) in self.transformer_blocks.iter().enumerate() {
            h = block.forward(&h, audio.get(i))?;
        }
        h.zip(&residual, |h, residual| {
            self.proj_out.forward_add(h, residual)?.reshape(((), height, width, channels))
        })
    }
}
