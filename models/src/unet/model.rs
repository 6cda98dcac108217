//! The network as a whole: full passes, DeepCache's shallow passes, and the tensors that are computed once
//! per job.

use candle_core::{D, DType, Result, Tensor, bail};
use candle_nn::VarBuilder;
use kernels::{Conv2d, silu};

use super::blocks::{BlockContext, DownBlock3D, LayerContext, MidBlock3D, UpBlock3D};
use super::config::UNet3DConfig;
use super::embeddings::TimeEmbedding;
use super::pass::Pass;
use super::resnet::VideoNorm;
use crate::guidance::{Guidance, GuidedBatch};
use crate::layers::{self, ConvShape};

/// Hook that receives the output of every block with the block's checkpoint key: `time_embedding` (1,
/// channels),
/// `conv_in`, `down_blocks.N`, `mid_block`, `up_blocks.N` (batch, frames, h, w, channels). With guidance the
/// batch is that of the shared activations up to the first cross-attention, then twice as large. An error
/// from the hook ends the pass; this is how a job is cancelled during a pass.
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

/// Inputs of a job that do not change from step to step: the keys and values of every audio cross-attention,
/// and, if set by [`UNet3D::conditioned`], the conditioning channels' part of `conv_in`.
#[derive(Debug, Clone)]
pub struct AudioContext {
    /// Videos in the batch; with guidance, the length of each half.
    batch: usize,
    frames: usize,
    guidance: Guidance,
    down_blocks: Vec<BlockContext>,
    mid_block: LayerContext,
    up_blocks: Vec<BlockContext>,
    conditioning: Option<Tensor>,
}

/// The hidden state that DeepCache keeps from a full pass: the input of the last layer of the last up block,
/// without the skip connection from `conv_in`.
#[derive(Debug, Clone)]
pub struct CachedHiddenState(GuidedBatch);

impl UNet3D {
    /// # Errors
    /// If an option has an unsupported value, or a tensor is missing or has another shape; the message names
    /// it.
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

    /// [`Self::guided_context`] without guidance.
    pub fn context(&self, audio: &Tensor) -> Result<AudioContext> {
        self.guided_context(audio, Guidance::Off)
    }

    /// Computes the keys and values of every audio cross-attention.
    /// `audio`: (batch, frames, tokens, cross_attention_dim), any float type.
    pub fn guided_context(&self, audio: &Tensor, guidance: Guidance) -> Result<AudioContext> {
        let (batch, frames, tokens, channels) = audio.dims4()?;
        let audio = audio.to_dtype(self.dtype)?.reshape((batch * frames, tokens, channels))?;
        let audio = guidance.audio_batch(audio)?;
        Ok(AudioContext {
            batch,
            frames,
            guidance,
            down_blocks: (self.down_blocks.iter())
                .map(|block| block.context(&audio))
                .collect::<Result<_>>()?,
            mid_block: self.mid_block.context(&audio)?,
            up_blocks: (self.up_blocks.iter()).map(|block| block.context(&audio)).collect::<Result<_>>()?,
            conditioning: None,
        })
    }

    /// `context` with the output of `conv_in` on the conditioning channels (mask, masked and reference
    /// latents), which is the same at every step. Samples then have the latent channels only.
    /// `conditioning`: (batch, frames, h, w, in_channels − out_channels), any float type.
    pub fn conditioned(&self, context: AudioContext, conditioning: &Tensor) -> Result<AudioContext> {
        let Some(conv) = &self.conv_in.conditioning else {
            bail!("unet: this network has no conditioning channels");
        };
        let x = self.images(conditioning, conv.in_channels(), &context)?;
        Ok(AudioContext { conditioning: Some(conv.forward(&x)?), ..context })
    }

    /// Predicts the noise in `sample`.
    ///
    /// `sample`: (batch, frames, h, w, channels), any height and width; channels are out_channels if
    /// `context` has the conditioning, otherwise in_channels. `timestep`: step of the training schedule.
    /// → (batch, frames, h, w, out_channels) in the dtype of `sample`; with guidance (2 · batch, ...), the
    /// unconditional predictions first.
    pub fn forward(&self, sample: &Tensor, timestep: usize, context: &AudioContext) -> Result<Tensor> {
        Ok(self.forward_full(sample, timestep, context)?.0)
    }

    /// [`Self::forward`], and the hidden state for [`Self::forward_shallow`].
    pub fn forward_full(
        &self,
        sample: &Tensor,
        timestep: usize,
        context: &AudioContext,
    ) -> Result<(Tensor, CachedHiddenState)> {
        self.forward_observed(sample, timestep, context, &mut |_, _| Ok(()))
    }

    /// [`Self::forward_full`] with a hook on every block's output.
    pub fn forward_observed(
        &self,
        sample: &Tensor,
        timestep: usize,
        context: &AudioContext,
        observe: &mut Observer,
    ) -> Result<(Tensor, CachedHiddenState)> {
        let mut observe = |name: &str, x: &Tensor| match *x.dims() {
            [images, h, w, c] => {
                observe(name, &x.reshape((images / context.frames, context.frames, h, w, c))?)
            }
            _ => observe(name, x),
        };
        let mut x = self.conv_in(sample, context)?;
        let temb = self.time_embedding.forward(timestep)?;
        observe("time_embedding", &temb)?;
        observe("conv_in", x.tensor())?;
        let pass = Pass { frames: context.frames, temb: silu(&temb)? };

        let mut skips = vec![x.clone()];
        for (i, (block, audio)) in self.down_blocks.iter().zip(&context.down_blocks).enumerate() {
            x = block.forward(&x, &pass, audio, &mut skips)?;
            observe(&format!("down_blocks.{i}"), x.tensor())?;
        }
        x = self.mid_block.forward(&x, &pass, &context.mid_block)?;
        observe("mid_block", x.tensor())?;
        let mut hidden = x.clone();
        for (i, (block, audio)) in self.up_blocks.iter().zip(&context.up_blocks).enumerate() {
            hidden = block.forward_before_last(&x, &pass, audio, &mut skips)?;
            x = block.forward_last(&hidden, &pass, audio, &mut skips)?;
            observe(&format!("up_blocks.{i}"), x.tensor())?;
        }
        Ok((self.head(&x, sample, context)?, CachedHiddenState(hidden)))
    }

    /// DeepCache's shallow pass: `conv_in`, the last layer of the last up block on the cached hidden state,
    /// and the output layers. Shapes as in [`Self::forward`]; `cached` must be of the same batch.
    pub fn forward_shallow(
        &self,
        sample: &Tensor,
        timestep: usize,
        context: &AudioContext,
        cached: &CachedHiddenState,
    ) -> Result<Tensor> {
        let x = self.conv_in(sample, context)?;
        let hidden = &cached.0;
        if x.tensor().dims()[1..3] != hidden.tensor().dims()[1..3]
            || x.expanded_len()? != hidden.expanded_len()?
        {
            bail!(
                "unet: sample {:?} does not fit the cached hidden state {:?}",
                sample.shape(),
                hidden.tensor().shape()
            );
        }
        let (Some(block), Some(audio)) = (self.up_blocks.last(), context.up_blocks.last()) else {
            bail!("unet: the audio context belongs to another network");
        };
        let pass = Pass { frames: context.frames, temb: silu(&self.time_embedding.forward(timestep)?)? };
        let x = block.forward_last(hidden, &pass, audio, &mut vec![x])?;
        self.head(&x, sample, context)
    }

    /// (batch, frames, h, w, in_channels or out_channels) → (batch · frames, h, w, channels), shared by both
    /// halves of guidance.
    fn conv_in(&self, sample: &Tensor, context: &AudioContext) -> Result<GuidedBatch> {
        let SplitConv { latents, conditioning } = &self.conv_in;
        let channels = latents.in_channels();
        let x = if let Some(conv) = conditioning {
            if let Some(partial) = &context.conditioning {
                latents.forward_add(&self.images(sample, channels, context)?, partial)?
            } else {
                let x = self.images(sample, channels + conv.in_channels(), context)?;
                let part = |from, channels| x.narrow(D::Minus1, from, channels)?.contiguous();
                let partial = conv.forward(&part(channels, conv.in_channels())?)?;
                latents.forward_add(&part(0, channels)?, &partial)?
            }
        } else {
            latents.forward(&self.images(sample, channels, context)?)?
        };
        Ok(GuidedBatch::shared(x, context.guidance))
    }

    /// (batch, frames, h, w, channels) → (batch · frames, h, w, channels) in the network's dtype.
    fn images(&self, x: &Tensor, expected_channels: usize, context: &AudioContext) -> Result<Tensor> {
        let (batch, frames, h, w, channels) = x.dims5()?;
        if (batch, frames, channels) != (context.batch, context.frames, expected_channels) {
            bail!(
                "unet: input {:?}, expected ({}, {}, height, width, {expected_channels}), batch and frames of the audio",
                x.shape(),
                context.batch,
                context.frames,
            );
        }
        x.to_dtype(self.dtype)?.reshape((batch * frames, h, w, channels))
    }

    /// Norm, SiLU and `conv_out`. → (batch or 2 · batch, frames, h, w, out_channels) in the dtype of
    /// `sample`.
    fn head(&self, x: &GuidedBatch, sample: &Tensor, context: &AudioContext) -> Result<Tensor> {
        let x = x.map(|x| self.conv_norm_out.forward_conv(x, context.frames, &self.conv_out, None))?;
        // Still shared if the network has no cross-attention.
        let x = x.expand()?;
        let (images, h, w, channels) = x.dims4()?;
        x.reshape((images / context.frames, context.frames, h, w, channels))?.to_dtype(sample.dtype())
    }
}

/// `conv_in`, split by input channels. The convolution is linear, and only the latents change from step to
/// step.
#[derive(Debug)]
struct SplitConv {
    latents: Conv2d,
    /// Mask, masked and reference latents, with the bias; `None` if the network's input is the latents alone.
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
