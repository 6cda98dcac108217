//! The 3-D UNet of LatentSync: Stable Diffusion 1.5's, inflated over frames, with attention to the audio and
//! motion modules.
//!
//! Ported from the original's `latentsync/models` (<https://github.com/bytedance/LatentSync>); the parity tests
//! `networks` hold every block to its numbers. Inside, a video is a batch of images, (batch · frames, h, w,
//! channels), and only what looks across frames (the norms of the resnets, the motion modules) is told how
//! many belong together.

mod config;
mod embeddings;
mod resnet;
mod transformer;
mod motion_module;
mod blocks;
#[cfg(test)]
mod tests;

use candle_core::{DType, Result, Tensor, bail};
use candle_nn::VarBuilder;
use kernels::{Conv2d, silu};

pub use config::{Heads, MotionModuleConfig, UNet3DConfig};

use crate::layers::{self, ConvShape};
use blocks::{BlockContext, DownBlock3D, LayerContext, MidBlock3D, UpBlock3D};
use embeddings::TimeEmbedding;
use resnet::VideoNorm;

/// Is shown the output of every block as it is computed, by the checkpoint's name for it: `time_embedding`
/// (1, channels), `conv_in`, `down_blocks.N`, `mid_block`, `up_blocks.N` (batch, frames, h, w, channels). An error
/// that it returns ends the pass, so a job can be cancelled in the middle of one.
pub type Observer<'a> = dyn FnMut(&str, &Tensor) -> Result<()> + 'a;

/// The noise predictor.
#[derive(Debug)]
pub struct UNet3D {
    conv_in: Conv2d,
    time_embedding: TimeEmbedding,
    down_blocks: Vec<DownBlock3D>,
    mid_block: MidBlock3D,
    up_blocks: Vec<UpBlock3D>,
    conv_norm_out: VideoNorm,
    conv_out: Conv2d,
    dtype: DType,
}

/// Keys and values of every attention to the audio: the same at every step, so computed once per chunk.
#[derive(Debug, Clone)]
pub struct AudioContext {
    batch: usize,
    frames: usize,
    down_blocks: Vec<BlockContext>,
    mid_block: LayerContext,
    up_blocks: Vec<BlockContext>,
}

/// What DeepCache keeps of a full pass: the input of the decoder's last layer, without the part that
/// comes from `conv_in`.
#[derive(Debug, Clone)]
pub struct CachedFeature(Tensor);

/// What all layers of one pass are told.
#[derive(Debug)]
struct Pass {
    frames: usize,
    /// SiLU of the time embedding, as every resnet takes it: (1, channels).
    time: Tensor,
}

impl UNet3D {
    /// Refuses, by name, options that it does not know, and missing or misshaped tensors.
    pub fn load(cfg: &UNet3DConfig, vb: VarBuilder) -> Result<Self> {
        cfg.validate()?;
        let first = cfg.block_out_channels[0];
        let down_blocks = cfg.down_blocks()?;
        let up_blocks = cfg.up_blocks()?;
        Ok(Self {
            conv_in: layers::conv2d(ConvShape::same(cfg.in_channels, first), vb.pp("conv_in"))?,
            time_embedding: TimeEmbedding::load(cfg, vb.pp("time_embedding"))?,
            down_blocks: (down_blocks.iter().enumerate())
                .map(|(i, plan)| DownBlock3D::load(cfg, plan, vb.pp("down_blocks").pp(i)))
                .collect::<Result<_>>()?,
            mid_block: MidBlock3D::load(cfg, cfg.mid_block(), vb.pp("mid_block"))?,
            up_blocks: (up_blocks.iter().enumerate())
                .map(|(i, plan)| UpBlock3D::load(cfg, plan, vb.pp("up_blocks").pp(i)))
                .collect::<Result<_>>()?,
            conv_norm_out: VideoNorm::load(cfg, first, vb.pp("conv_norm_out"))?,
            conv_out: layers::conv2d(ConvShape::same(first, cfg.out_channels), vb.pp("conv_out"))?,
            dtype: vb.dtype(),
        })
    }

    /// `audio`: (batch, frames, tokens, cross_attention_dim), of any float type.
    pub fn context(&self, audio: &Tensor) -> Result<AudioContext> {
        let (batch, frames, tokens, channels) = audio.dims4()?;
        let audio = audio.to_dtype(self.dtype)?.reshape((batch * frames, tokens, channels))?;
        Ok(AudioContext {
            batch,
            frames,
            down_blocks: (self.down_blocks.iter())
                .map(|block| block.context(&audio))
                .collect::<Result<_>>()?,
            mid_block: self.mid_block.context(&audio)?,
            up_blocks: (self.up_blocks.iter()).map(|block| block.context(&audio)).collect::<Result<_>>()?,
        })
    }

    /// The noise in `sample`.
    ///
    /// `sample`: (batch, frames, h, w, in_channels), any height and width; `timestep`: of the training
    /// schedule → (batch, frames, h, w, out_channels) in the dtype of `sample`.
    pub fn forward(&self, sample: &Tensor, timestep: usize, context: &AudioContext) -> Result<Tensor> {
        Ok(self.forward_full(sample, timestep, context)?.0)
    }

    /// [`Self::forward`], and what [`Self::forward_shallow`] needs of it.
    pub fn forward_full(
        &self,
        sample: &Tensor,
        timestep: usize,
        context: &AudioContext,
    ) -> Result<(Tensor, CachedFeature)> {
        self.forward_observed(sample, timestep, context, &mut |_, _| Ok(()))
    }

    /// [`Self::forward_full`] with every block's output shown to `observe`.
    pub fn forward_observed(
        &self,
        sample: &Tensor,
        timestep: usize,
        context: &AudioContext,
        observe: &mut Observer,
    ) -> Result<(Tensor, CachedFeature)> {
        let mut observe = |name: &str, x: &Tensor| match *x.dims() {
            [_, h, w, c] => observe(name, &x.reshape((context.batch, context.frames, h, w, c))?),
            _ => observe(name, x),
        };
        let mut x = self.conv_in(sample, context)?;
        let time = self.time_embedding.forward(timestep)?;
        observe("time_embedding", &time)?;
        observe("conv_in", &x)?;
        let pass = Pass { frames: context.frames, time: silu(&time)? };

        let mut skips = vec![x.clone()];
        for (i, (block, audio)) in self.down_blocks.iter().zip(&context.down_blocks).enumerate() {
            x = block.forward(&x, &pass, audio, &mut skips)?;
            observe(&format!("down_blocks.{i}"), &x)?;
        }
        x = self.mid_block.forward(&x, &pass, &context.mid_block)?;
        observe("mid_block", &x)?;
        let mut feature = x.clone();
        for (i, (block, audio)) in self.up_blocks.iter().zip(&context.up_blocks).enumerate() {
            feature = block.forward_before_last(&x, &pass, audio, &mut skips)?;
            x = block.forward_last(&feature, &pass, audio, &mut skips)?;
            observe(&format!("up_blocks.{i}"), &x)?;
        }
        Ok((self.head(&x, sample, context)?, CachedFeature(feature)))
    }

    /// DeepCache's step in between: `conv_in`, the last layer of the decoder on top of what the last full
    /// pass left there, and the output. Shapes as in [`Self::forward`]; `cached` must be of the same chunk.
    pub fn forward_shallow(
        &self,
        sample: &Tensor,
        timestep: usize,
        context: &AudioContext,
        cached: &CachedFeature,
    ) -> Result<Tensor> {
        let x = self.conv_in(sample, context)?;
        if x.dims()[..3] != cached.0.dims()[..3] {
            bail!(
                "unet: sample {:?} does not go with a cached feature {:?}",
                sample.shape(),
                cached.0.shape()
            );
        }
        let (Some(block), Some(audio)) = (self.up_blocks.last(), context.up_blocks.last()) else {
            bail!("unet: the audio context belongs to another network");
        };
        let pass = Pass { frames: context.frames, time: silu(&self.time_embedding.forward(timestep)?)? };
        let x = block.forward_last(&cached.0, &pass, audio, &mut vec![x])?;
        self.head(&x, sample, context)
    }

    /// (batch, frames, h, w, in_channels) → (batch · frames, h, w, channels).
    fn conv_in(&self, sample: &Tensor, context: &AudioContext) -> Result<Tensor> {
        let (batch, frames, h, w, channels) = sample.dims5()?;
        if (batch, frames) != (context.batch, context.frames) || channels != self.conv_in.in_channels() {
            bail!(
                "unet: sample {:?}, expected ({}, {}, height, width, {}), the batch and the frames of the audio",
                sample.shape(),
                context.batch,
                context.frames,
                self.conv_in.in_channels()
            );
        }
        let x = sample.to_dtype(self.dtype)?;
        self.conv_in.forward(&x.reshape((batch * frames, h, w, channels))?)
    }

    /// (batch · frames, h, w, channels) → (batch, frames, h, w, out_channels) in the dtype of `sample`.
    fn head(&self, x: &Tensor, sample: &Tensor, context: &AudioContext) -> Result<Tensor> {
        let x = self.conv_norm_out.forward_silu(x, context.frames)?;
        let x = self.conv_out.forward(&x)?;
        let (_, h, w, channels) = x.dims4()?;
        x.reshape((context.batch, context.frames, h, w, channels))?.to_dtype(sample.dtype())
    }
}
