//! The spatial transformer: self-attention inside a frame, attention to the audio, feed-forward.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use kernels::{GroupNorm, LayerNorm, Linear, QkvLinear, attention};

use super::{UNet3DConfig, repeated};
use crate::layers::{self, FeedForward};

/// Keys and values of one cross-attention: (batch · frames, tokens, channels) each.
#[derive(Debug, Clone)]
pub(super) struct KeyValue {
    key: Tensor,
    value: Tensor,
}

/// Self-attention with its projections; no bias but the output's.
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

    /// `x`: (images, positions, channels) → `x` + the attention of `norm` of `x` to itself.
    pub fn forward_add(&self, x: &Tensor, norm: &LayerNorm) -> Result<Tensor> {
        let qkv = self.to_qkv.forward_layer_norm(x, norm, None)?;
        self.to_out.forward_add(&kernels::self_attention(&qkv, self.heads)?, x)
    }

    /// `x`: (batch, frames, positions, channels) → `x` + the attention of every position of `norm` of `x`, plus
    /// `added`, to itself in the other frames. `added`: (frames, channels).
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

/// Attention to the audio with its projections; no bias but the output's.
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

    /// `x`: (images or a part, positions, channels) → `x` + the attention of `norm` of `x` to the audio, as many images
    /// as that has.
    fn forward_add(&self, x: &Tensor, norm: &LayerNorm, audio: &KeyValue) -> Result<Tensor> {
        // Here the halves of guidance begin to differ.
        let images = audio.key.dim(0)?;
        let q = repeated(&self.to_q.forward_layer_norm(x, norm, None)?, images)?;
        let y = attention(&q, &audio.key, &audio.value, self.heads)?;
        self.to_out.forward_add(&y, &repeated(x, images)?)
    }
}

/// The attention to the audio and the norm before it.
#[derive(Debug)]
struct AudioAttention {
    norm2: LayerNorm,
    attn2: CrossAttention,
}

#[derive(Debug)]
struct BasicTransformerBlock {
    norm1: LayerNorm,
    attn1: SelfAttention,
    audio: Option<AudioAttention>,
    norm3: LayerNorm,
    ff: FeedForward,
}

impl BasicTransformerBlock {
    fn load(cfg: &UNet3DConfig, channels: usize, heads: usize, vb: VarBuilder) -> Result<Self> {
        let audio = if cfg.add_audio_layer {
            Some(AudioAttention {
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

    /// `x`: (images, positions, channels) → the same shape, or as many images as the audio has.
    fn forward(&self, x: &Tensor, audio: Option<&KeyValue>) -> Result<Tensor> {
        let mut x = self.attn1.forward_add(x, &self.norm1)?;
        if let (Some(AudioAttention { norm2, attn2 }), Some(audio)) = (&self.audio, audio) {
            x = attn2.forward_add(&x, norm2, audio)?;
        }
        self.ff.forward_add(&x, &self.norm3)
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
