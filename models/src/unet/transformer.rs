//! The spatial transformer: self-attention within a frame, cross-attention to the audio, feed-forward.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use kernels::{GroupNorm, LayerNorm, Linear, QkvLinear, attention};

use super::config::UNet3DConfig;
use crate::guidance::GuidedBatch;
use crate::layers::{self, FeedForward};

/// Keys and values of one cross-attention: (batch · frames, tokens, channels) each.
#[derive(Debug, Clone)]
pub(super) struct KeyValue {
    key: Tensor,
    value: Tensor,
}

/// Self-attention with its projections; only `to_out` has a bias.
#[derive(Debug)]
pub(super) struct SelfAttention {
    to_qkv: QkvLinear,
    to_out: Linear,
    heads: usize,
}

impl SelfAttention {
    pub fn load(channels: usize, heads: usize, vb: VarBuilder) -> Result<Self> {
        Ok(Self {
            to_qkv: layers::qkv_linear(channels, &vb)?,
            to_out: layers::linear(channels, channels, vb.pp("to_out").pp(0))?,
            heads,
        })
    }

    /// Self-attention of the layer-normalised `x`, plus `x`. `x`: (images, positions, channels) → the same shape.
    pub fn forward_add(&self, x: &Tensor, norm: &LayerNorm) -> Result<Tensor> {
        let qkv = self.to_qkv.forward_layer_norm(x, norm, None)?;
        self.to_out.forward_add(&kernels::self_attention(&qkv, self.heads)?, x)
    }

    /// Temporal self-attention (every position attends to the same position in all frames) of the layer-normalised
    /// `x` plus `added`, plus `x`. `x`: (batch, frames, positions, channels) → the same shape; `added`: (frames,
    /// channels), a position encoding.
    pub fn forward_temporal_add(
        &self,
        x: &Tensor,
        norm: &LayerNorm,
        added: Option<&Tensor>,
    ) -> Result<Tensor> {
        let qkv = self.to_qkv.forward_layer_norm(x, norm, added)?;
        self.to_out.forward_add(&kernels::temporal_self_attention(&qkv, self.heads)?, x)
    }
}

/// Cross-attention to the audio with its projections; only `to_out` has a bias.
#[derive(Debug)]
struct CrossAttention {
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
    heads: usize,
}

impl CrossAttention {
    /// `context`: channels of the audio.
    fn load(channels: usize, context: usize, heads: usize, vb: VarBuilder) -> Result<Self> {
        Ok(Self {
            to_q: layers::linear_no_bias(channels, channels, vb.pp("to_q"))?,
            to_k: layers::linear_no_bias(context, channels, vb.pp("to_k"))?,
            to_v: layers::linear_no_bias(context, channels, vb.pp("to_v"))?,
            to_out: layers::linear(channels, channels, vb.pp("to_out").pp(0))?,
            heads,
        })
    }

    /// `x`: (..., context) → keys and values, (..., channels) each.
    fn key_value(&self, x: &Tensor) -> Result<KeyValue> {
        Ok(KeyValue { key: self.to_k.forward(x)?, value: self.to_v.forward(x)? })
    }

    /// Cross-attention of the layer-normalised `x` to `audio`, plus `x`, in the expanded batch: here the unconditional
    /// and the conditional half part. `x`: (images, positions, channels).
    fn forward_add(&self, x: &GuidedBatch, norm: &LayerNorm, audio: &KeyValue) -> Result<GuidedBatch> {
        let q = x.map(|x| self.to_q.forward_layer_norm(x, norm, None))?.expand()?;
        let y = attention(&q, &audio.key, &audio.value, self.heads)?;
        Ok(GuidedBatch::expanded(self.to_out.forward_add(&y, &x.expand()?)?))
    }
}

/// Cross-attention to the audio, with the norm before it.
#[derive(Debug)]
struct AudioCrossAttention {
    norm2: LayerNorm,
    attn2: CrossAttention,
}

#[derive(Debug)]
struct BasicTransformerBlock {
    norm1: LayerNorm,
    attn1: SelfAttention,
    audio: Option<AudioCrossAttention>,
    norm3: LayerNorm,
    ff: FeedForward,
}

impl BasicTransformerBlock {
    fn load(cfg: &UNet3DConfig, channels: usize, heads: usize, vb: VarBuilder) -> Result<Self> {
        let audio = if cfg.add_audio_layer {
            Some(AudioCrossAttention {
                norm2: layers::layer_norm(channels, vb.pp("norm2"))?,
                attn2: CrossAttention::load(channels, cfg.cross_attention_dim, heads, vb.pp("attn2"))?,
            })
        } else {
            None
        };
        Ok(Self {
            norm1: layers::layer_norm(channels, vb.pp("norm1"))?,
            attn1: SelfAttention::load(channels, heads, vb.pp("attn1"))?,
            audio,
            norm3: layers::layer_norm(channels, vb.pp("norm3"))?,
            ff: FeedForward::load(channels, vb.pp("ff"))?,
        })
    }

    /// `x`: (images, positions, channels) → the same shape, expanded by the cross-attention.
    fn forward(&self, x: &GuidedBatch, audio: Option<&KeyValue>) -> Result<GuidedBatch> {
        let mut x = x.map(|x| self.attn1.forward_add(x, &self.norm1))?;
        if let (Some(AudioCrossAttention { norm2, attn2 }), Some(audio)) = (&self.audio, audio) {
            x = attn2.forward_add(&x, norm2, audio)?;
        }
        x.map(|x| self.ff.forward_add(x, &self.norm3))
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
