//! The motion module: temporal self-attention, every position over the frames of the video.

use candle_core::{IndexOp, Result, Tensor, bail};
use candle_nn::VarBuilder;
use kernels::{GroupNorm, LayerNorm, Linear};

use super::config::{MotionModuleConfig, UNet3DConfig};
use super::pass::Pass;
use super::transformer::SelfAttention;
use crate::layers::{self, FeedForward};

/// Fixed in the original, not part of its configuration.
const NORM_GROUPS: usize = 32;

/// Temporal self-attention with the norm before it.
#[derive(Debug)]
struct TemporalAttention {
    norm: LayerNorm,
    attention: SelfAttention,
    /// `pos_encoder.pe`, (1, temporal_position_encoding_max_len, channels).
    pe: Option<Tensor>,
}

impl TemporalAttention {
    /// `x`: (batch, frames, positions, channels) → the same shape.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let pe = match &self.pe {
            Some(pe) => {
                let frames = x.dim(1)?;
                if frames > pe.dim(1)? {
                    bail!(
                        "motion module: {frames} frames, at most {} (temporal_position_encoding_max_len)",
                        pe.dim(1)?
                    );
                }
                Some(pe.i(0)?.narrow(0, 0, frames)?)
            }
            None => None,
        };
        self.attention.forward_temporal_add(x, &self.norm, pe.as_ref())
    }
}

#[derive(Debug)]
struct TemporalTransformerBlock {
    attention_blocks: Vec<TemporalAttention>,
    ff_norm: LayerNorm,
    ff: FeedForward,
}

impl TemporalTransformerBlock {
    fn load(cfg: &MotionModuleConfig, channels: usize, vb: VarBuilder) -> Result<Self> {
        let attention_blocks = (0..cfg.attention_block_types.len()).map(|i| {
            let block = vb.pp("attention_blocks").pp(i);
            let pe = if cfg.temporal_position_encoding {
                let dims = (1, cfg.temporal_position_encoding_max_len, channels);
                Some(block.pp("pos_encoder").get(dims, "pe")?)
            } else {
                None
            };
            Ok(TemporalAttention {
                norm: layers::layer_norm(channels, vb.pp("norms").pp(i))?,
                attention: SelfAttention::load(channels, cfg.num_attention_heads, block)?,
                pe,
            })
        });
        Ok(Self {
            attention_blocks: attention_blocks.collect::<Result<_>>()?,
            ff_norm: layers::layer_norm(channels, vb.pp("ff_norm"))?,
            ff: FeedForward::load(channels, vb.pp("ff"))?,
        })
    }

    /// `x`: (batch, frames, positions, channels) → the same shape.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut x = x.clone();
        for block in &self.attention_blocks {
            x = block.forward(&x)?;
        }
        self.ff.forward_add(&x, &self.ff_norm)
    }
}

/// Transformer over the frames at each position.
#[derive(Debug)]
pub(super) struct MotionModule {
    norm: GroupNorm,
    proj_in: Linear,
    transformer_blocks: Vec<TemporalTransformerBlock>,
    proj_out: Linear,
}

impl MotionModule {
    pub fn load(cfg: &UNet3DConfig, channels: usize, vb: VarBuilder) -> Result<Self> {
        let cfg = &cfg.motion_module_kwargs;
        let vb = vb.pp("temporal_transformer");
        let heads = cfg.num_attention_heads;
        let inner = heads * (channels / heads / cfg.temporal_attention_dim_div);
        if inner == 0 {
            bail!("unet config: num_attention_heads {heads} is too many for {channels} channels");
        }
        Ok(Self {
            norm: layers::group_norm(channels, NORM_GROUPS, 1e-6, vb.pp("norm"))?,
            proj_in: layers::linear(channels, inner, vb.pp("proj_in"))?,
            transformer_blocks: (0..cfg.num_transformer_block)
                .map(|i| TemporalTransformerBlock::load(cfg, inner, vb.pp("transformer_blocks").pp(i)))
                .collect::<Result<_>>()?,
            proj_out: layers::linear(inner, channels, vb.pp("proj_out"))?,
        })
    }

    /// `x`: (batch · frames, h, w, channels) → the same shape.
    pub fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        let (images, height, width, _) = x.dims4()?;
        let positions = height * width;
        // The statistics of this norm are per frame, unlike those of the resnets.
        let h = self.proj_in.forward(&self.norm.forward(x)?)?;
        let inner = self.proj_in.out_features();
        let mut h = h.reshape((images / pass.frames, pass.frames, positions, inner))?;
        for block in &self.transformer_blocks {
            h = block.forward(&h)?;
        }
        let h = h.reshape((images, height, width, inner))?;
        self.proj_out.forward_add(&h, x)
    }
}
