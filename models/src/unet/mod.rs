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

use candle_core::{D, DType, Result, Tensor, bail};
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
    conv_in: SplitConv,
    time_embedding: TimeEmbedding,
    down_blocks: Vec<DownBlock3D>,
    mid_block: MidBlock3D,
    up_blocks: Vec<UpBlock3D>,
    conv_norm_out: VideoNorm,
    conv_out: Conv2d,
    dtype: DType,
}

/// Keys and values of every attention to the audio: the same at every step, so computed once; and the
/// conditioning's part of the input, where it was given.
#[derive(Debug, Clone)]
pub struct AudioContext {
    batch: usize,
    frames: usize,
    down_blocks: Vec<BlockContext>,
    mid_block: LayerContext,
    up_blocks: Vec<BlockContext>,
    conditioning: Option<Tensor>,
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
            conv_in: SplitConv::load(cfg, vb.pp("conv_in"))?,
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
            conditioning: None,
        })
    }

    /// `context` for samples that are the latents only: what `conditioning` (mask, masked and reference latents)
    /// adds to the first convolution is the same at every step.
    /// `conditioning`: (batch or a part of it, frames, h, w, in_channels − out_channels), of any float type.
    pub fn conditioned(&self, context: AudioContext, conditioning: &Tensor) -> Result<AudioContext> {
        let Some(conv) = &self.conv_in.conditioning else {
            bail!("unet: this network has no input but the latents");
        };
        let x = self.images(conditioning, conv.in_channels(), &context)?;
        Ok(AudioContext { conditioning: Some(conv.forward(&x)?), ..context })
    }

    /// The noise in `sample`.
    ///
    /// `sample`: (batch, frames, h, w, in_channels), any height and width, or out_channels where the `context` has
    /// the conditioning; a smaller batch than the audio's stands for as many as that has, again and again from its first
    /// on. `timestep`: of the training schedule
    /// → (batch, frames, h, w, out_channels) in the dtype of `sample`.
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
            [images, h, w, c] => {
                observe(name, &x.reshape((images / context.frames, context.frames, h, w, c))?)
            }
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
    /// pass left there, and the output. Shapes as in [`Self::forward`]; `cached` must be of the same batch.
    pub fn forward_shallow(
        &self,
        sample: &Tensor,
        timestep: usize,
        context: &AudioContext,
        cached: &CachedFeature,
    ) -> Result<Tensor> {
        let x = self.conv_in(sample, context)?;
        let images = context.batch * context.frames;
        if x.dims()[1..3] != cached.0.dims()[1..3] || !images.is_multiple_of(cached.0.dim(0)?) {
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

    /// (batch or a part, frames, h, w, in_channels or out_channels) → (batch or a part · frames, h, w, channels).
    fn conv_in(&self, sample: &Tensor, context: &AudioContext) -> Result<Tensor> {
        let SplitConv { latents, conditioning } = &self.conv_in;
        let channels = latents.in_channels();
        let Some(conv) = conditioning else {
            return latents.forward(&self.images(sample, channels, context)?);
        };
        if let Some(partial) = &context.conditioning {
            let x = self.images(sample, channels, context)?;
            let images = x.dim(0)?.max(partial.dim(0)?);
            return latents.forward_add(&repeated(&x, images)?, &repeated(partial, images)?);
        }
        let x = self.images(sample, channels + conv.in_channels(), context)?;
        let part = |from, channels| x.narrow(D::Minus1, from, channels)?.contiguous();
        let partial = conv.forward(&part(channels, conv.in_channels())?)?;
        latents.forward_add(&part(0, channels)?, &partial)
    }

    /// (batch or a part, frames, h, w, channels) → (batch or a part · frames, h, w, channels) in the network's dtype.
    fn images(&self, x: &Tensor, wanted: usize, context: &AudioContext) -> Result<Tensor> {
        let (batch, frames, h, w, channels) = x.dims5()?;
        if !context.batch.is_multiple_of(batch) || frames != context.frames || channels != wanted {
            bail!(
                "unet: input {:?}, expected ({}, {}, height, width, {wanted}), the batch and the frames of the audio",
                x.shape(),
                context.batch,
                context.frames,
            );
        }
        x.to_dtype(self.dtype)?.reshape((batch * frames, h, w, channels))
    }

    /// (batch or a part · frames, h, w, channels) → (batch, frames, h, w, out_channels) in the dtype of `sample`.
    fn head(&self, x: &Tensor, sample: &Tensor, context: &AudioContext) -> Result<Tensor> {
        let x = self.conv_norm_out.forward_conv(x, context.frames, &self.conv_out, None)?;
        let x = repeated(&x, context.batch * context.frames)?;
        let (_, h, w, channels) = x.dims4()?;
        x.reshape((context.batch, context.frames, h, w, channels))?.to_dtype(sample.dtype())
    }
}

/// The first convolution, in two: it is linear, and only the latents differ from step to step.
#[derive(Debug)]
struct SplitConv {
    latents: Conv2d,
    /// Mask, masked and reference latents, with the bias; `None` where the latents are all there is.
    conditioning: Option<Conv2d>,
}

impl SplitConv {
    fn load(cfg: &UNet3DConfig, vb: VarBuilder) -> Result<Self> {
        let (input, latents) = (cfg.in_channels, cfg.out_channels);
        let shape = ConvShape::same(input, cfg.block_out_channels[0]);
        if input <= latents {
            return Ok(Self { latents: layers::conv2d(shape, vb)?, conditioning: None });
        }
        let weight = vb.get((shape.output, input, shape.kernel, shape.kernel), "weight")?;
        let bias = vb.get(shape.output, "bias")?;
        let part = |from: usize, channels: usize, bias| {
            Conv2d::new(weight.narrow(1, from, channels)?.contiguous()?, bias, shape.stride, shape.padding)
        };
        Ok(Self {
            latents: part(0, latents, None)?,
            conditioning: Some(part(latents, input - latents, Some(bias))?),
        })
    }
}

/// The same images again, until there are as many as `images`: what the halves of guidance share is computed once.
fn repeated(x: &Tensor, images: usize) -> Result<Tensor> {
    match x.dim(0)? {
        count if count == images => Ok(x.clone()),
        count if count > 0 && images.is_multiple_of(count) => Tensor::cat(&vec![x; images / count], 0),
        count => bail!("unet: {count} images cannot stand for {images}"),
    }
}
