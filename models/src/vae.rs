//! The autoencoder between pixels and latents: Stable Diffusion 1.5's `AutoencoderKL`.
//!
//! Ported from diffusers' `AutoencoderKL`; the parity tests `networks` hold both ways to its numbers. Only the new
//! names of the attention's tensors (`to_q`, …) are known here; the weights loader renames the old ones.

use candle_core::{DType, Result, Tensor, bail};
use candle_nn::VarBuilder;
use kernels::{Conv2d, GroupNorm, Linear, Padding, attention};
use serde::Deserialize;

use crate::layers::{self, ConvShape, Convolution};

const NORM_EPS: f64 = 1e-6;
/// Far beyond any published VAE: sizes that can be computed with.
const MAX_LEVELS: usize = 8;
const MAX_LAYERS: usize = 64;
const MAX_CHANNELS: usize = 1 << 16;

/// `vae/config.json`. What a file leaves out has diffusers' default.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct AutoencoderKLConfig {
    pub in_channels: usize,
    pub out_channels: usize,
    pub down_block_types: Vec<String>,
    pub up_block_types: Vec<String>,
    pub block_out_channels: Vec<usize>,
    pub layers_per_block: usize,
    pub act_fn: String,
    pub latent_channels: usize,
    pub norm_num_groups: usize,
    /// Latents are multiplied by this after `shift_factor` (null: 0) is subtracted, before the UNet sees them.
    pub scaling_factor: f64,
    pub shift_factor: Option<f64>,
    pub use_quant_conv: bool,
    pub use_post_quant_conv: bool,
    pub mid_block_add_attention: bool,
}

impl Default for AutoencoderKLConfig {
    fn default() -> Self {
        Self {
            in_channels: 3,
            out_channels: 3,
            down_block_types: vec!["DownEncoderBlock2D".into()],
            up_block_types: vec!["UpDecoderBlock2D".into()],
            block_out_channels: vec![64],
            layers_per_block: 1,
            act_fn: "silu".into(),
            latent_channels: 4,
            norm_num_groups: 32,
            scaling_factor: 0.18215,
            shift_factor: None,
            use_quant_conv: true,
            use_post_quant_conv: true,
            mid_block_add_attention: true,
        }
    }
}

impl AutoencoderKLConfig {
    /// Pixels of an image per latent, along each side.
    pub fn downscale(&self) -> usize {
        1 << self.block_out_channels.len().saturating_sub(1)
    }

    fn validate(&self) -> Result<()> {
        let levels = self.block_out_channels.len();
        if !(1..=MAX_LEVELS).contains(&levels) {
            bail!("vae config: block_out_channels has {levels} levels, expected 1 to {MAX_LEVELS}");
        }
        for (name, types, known) in [
            ("down_block_types", &self.down_block_types, "DownEncoderBlock2D"),
            ("up_block_types", &self.up_block_types, "UpDecoderBlock2D"),
        ] {
            if types.len() != levels {
                bail!("vae config: {name} has {} entries, block_out_channels {levels}", types.len());
            }
            if let Some(other) = types.iter().find(|kind| *kind != known) {
                bail!("vae config: {name}: `{other}` is not supported");
            }
        }
        if self.layers_per_block > MAX_LAYERS {
            bail!("vae config: layers_per_block is {}, at most {MAX_LAYERS}", self.layers_per_block);
        }
        let channels = [self.in_channels, self.out_channels, self.latent_channels];
        for &channels in channels.iter().chain(&self.block_out_channels) {
            if !(1..=MAX_CHANNELS).contains(&channels) {
                bail!("vae config: {channels} channels, expected 1 to {MAX_CHANNELS}");
            }
        }
        if !matches!(self.act_fn.as_str(), "silu" | "swish") {
            bail!("vae config: act_fn `{}` is not supported", self.act_fn);
        }
        Ok(())
    }

    /// The 3×3 convolutions of both halves that keep the image's size or double it, all but the first and last ones.
    pub fn convolutions(&self) -> Result<Vec<Convolution>> {
        self.validate()?;
        let channels = &self.block_out_channels;
        let last = channels.len() - 1;
        let mut all: Vec<Convolution> = Vec::new();
        // Both halves have a middle; the encoder has one layer less in each block.
        for (layers, step) in [(self.layers_per_block, -1), (self.layers_per_block + 1, 1)] {
            for _ in 0..2 {
                all.extend(Convolution::of_resnet(channels[last], channels[last], last));
            }
            for (level, &out) in channels.iter().enumerate() {
                let before = level.saturating_add_signed(step).min(last);
                for layer in 0..layers {
                    let input = if layer == 0 { channels[before] } else { out };
                    all.extend(Convolution::of_resnet(input, out, level));
                }
            }
        }
        all.extend((1..channels.len()).map(|level| Convolution::doubling(channels[level], level - 1)));
        Ok(all)
    }

    fn group_norm(&self, channels: usize, vb: VarBuilder) -> Result<GroupNorm> {
        layers::group_norm(channels, self.norm_num_groups, NORM_EPS, vb)
    }

    fn last_channels(&self) -> usize {
        self.block_out_channels[self.block_out_channels.len() - 1]
    }
}

/// The encoder's answer: a normal distribution for every latent, (n, h / 8, w / 8, latent_channels) each.
#[derive(Debug, Clone)]
pub struct Posterior {
    pub mean: Tensor,
    /// Logarithm of the variance, kept in [−30, 20].
    pub logvar: Tensor,
    pub std: Tensor,
}

impl Posterior {
    /// `moments`: (n, h, w, 2 · latent_channels), the means first.
    fn new(moments: &Tensor) -> Result<Self> {
        let parts = moments.chunk(2, 3)?;
        let [mean, logvar] = parts.as_slice() else {
            bail!("vae: moments {:?}", moments.shape());
        };
        let logvar = logvar.clamp(-30.0, 20.0)?;
        Ok(Self { mean: mean.contiguous()?, std: (&logvar * 0.5)?.exp()?, logvar })
    }

    /// `noise`: standard normal, the shape of the mean → latents, not yet scaled.
    pub fn sample(&self, noise: &Tensor) -> Result<Tensor> {
        &self.mean + (&self.std * noise)?
    }
}

/// norm → SiLU → conv, twice, and the input added.
#[derive(Debug)]
struct ResnetBlock2D {
    norm1: GroupNorm,
    conv1: Conv2d,
    norm2: GroupNorm,
    conv2: Conv2d,
    conv_shortcut: Option<Linear>,
}

impl ResnetBlock2D {
    fn load(cfg: &AutoencoderKLConfig, input: usize, output: usize, vb: VarBuilder) -> Result<Self> {
        let conv_shortcut = if input == output {
            None
        } else {
            Some(layers::pointwise(input, output, vb.pp("conv_shortcut"))?)
        };
        Ok(Self {
            norm1: cfg.group_norm(input, vb.pp("norm1"))?,
            conv1: layers::conv2d(ConvShape::same(input, output), vb.pp("conv1"))?,
            norm2: cfg.group_norm(output, vb.pp("norm2"))?,
            conv2: layers::conv2d(ConvShape::same(output, output), vb.pp("conv2"))?,
            conv_shortcut,
        })
    }

    /// `x`: (n, h, w, in) → (n, h, w, out).
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let h = self.conv1.forward(&self.norm1.forward_silu(x)?)?;
        let h = self.norm2.forward_silu(&h)?;
        match &self.conv_shortcut {
            Some(shortcut) => self.conv2.forward_add(&h, &shortcut.forward(x)?),
            None => self.conv2.forward_add(&h, x),
        }
    }
}

/// Self-attention with one head over all positions of an image.
#[derive(Debug)]
struct Attention {
    group_norm: GroupNorm,
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
}

impl Attention {
    fn load(cfg: &AutoencoderKLConfig, channels: usize, vb: VarBuilder) -> Result<Self> {
        let linear = |vb| layers::linear(channels, channels, vb);
        Ok(Self {
            group_norm: cfg.group_norm(channels, vb.pp("group_norm"))?,
            to_q: linear(vb.pp("to_q"))?,
            to_k: linear(vb.pp("to_k"))?,
            to_v: linear(vb.pp("to_v"))?,
            to_out: linear(vb.pp("to_out").pp(0))?,
        })
    }

    /// `x`: (n, h, w, channels) → the same shape.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (n, height, width, channels) = x.dims4()?;
        let residual = x.reshape((n, height * width, channels))?;
        let h = self.group_norm.forward(&residual)?;
        let (q, k, v) = (self.to_q.forward(&h)?, self.to_k.forward(&h)?, self.to_v.forward(&h)?);
        self.to_out.forward_add(&attention(&q, &k, &v, 1)?, &residual)?.reshape((n, height, width, channels))
    }
}

/// resnet, attention, resnet.
#[derive(Debug)]
struct MidBlock {
    resnets: [ResnetBlock2D; 2],
    attention: Option<Attention>,
}

impl MidBlock {
    fn load(cfg: &AutoencoderKLConfig, vb: VarBuilder) -> Result<Self> {
        let channels = cfg.last_channels();
        let resnet = |i| ResnetBlock2D::load(cfg, channels, channels, vb.pp("resnets").pp(i));
        let attention = if cfg.mid_block_add_attention {
            Some(Attention::load(cfg, channels, vb.pp("attentions").pp(0))?)
        } else {
            None
        };
        Ok(Self { resnets: [resnet(0)?, resnet(1)?], attention })
    }

    /// `x`: (n, h, w, channels) → the same shape.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut x = self.resnets[0].forward(x)?;
        if let Some(attention) = &self.attention {
            x = attention.forward(&x)?;
        }
        self.resnets[1].forward(&x)
    }
}

/// Pixels to moments.
#[derive(Debug)]
struct Encoder {
    conv_in: Conv2d,
    /// Each level's resnets and what halves the size after them.
    down_blocks: Vec<(Vec<ResnetBlock2D>, Option<Conv2d>)>,
    mid_block: MidBlock,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Encoder {
    fn load(cfg: &AutoencoderKLConfig, vb: VarBuilder) -> Result<Self> {
        let channels = &cfg.block_out_channels;
        let mut down_blocks = Vec::with_capacity(channels.len());
        for (level, &output) in channels.iter().enumerate() {
            let vb = vb.pp("down_blocks").pp(level);
            let resnets = (0..cfg.layers_per_block).map(|i| {
                let input = if i == 0 { channels[level.saturating_sub(1)] } else { output };
                ResnetBlock2D::load(cfg, input, output, vb.pp("resnets").pp(i))
            });
            let resnets = resnets.collect::<Result<Vec<_>>>()?;
            let downsampler = if level + 1 < channels.len() {
                let shape = ConvShape::halving(output, Padding::bottom_right(1));
                Some(layers::conv2d(shape, vb.pp("downsamplers").pp(0).pp("conv"))?)
            } else {
                None
            };
            down_blocks.push((resnets, downsampler));
        }
        let last = cfg.last_channels();
        let conv_in = ConvShape::same(cfg.in_channels, channels[0]);
        let conv_out = ConvShape::same(last, 2 * cfg.latent_channels);
        Ok(Self {
            conv_in: layers::conv2d(conv_in, vb.pp("conv_in"))?,
            down_blocks,
            mid_block: MidBlock::load(cfg, vb.pp("mid_block"))?,
            conv_norm_out: cfg.group_norm(last, vb.pp("conv_norm_out"))?,
            conv_out: layers::conv2d(conv_out, vb.pp("conv_out"))?,
        })
    }

    /// `x`: (n, h, w, in_channels) → (n, h / 8, w / 8, 2 · latent_channels).
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut x = self.conv_in.forward(x)?;
        for (resnets, downsampler) in &self.down_blocks {
            for resnet in resnets {
                x = resnet.forward(&x)?;
            }
            if let Some(downsampler) = downsampler {
                x = downsampler.forward(&x)?;
            }
        }
        let x = self.mid_block.forward(&x)?;
        self.conv_out.forward(&self.conv_norm_out.forward_silu(&x)?)
    }
}

/// Latents to pixels.
#[derive(Debug)]
struct Decoder {
    conv_in: Conv2d,
    mid_block: MidBlock,
    /// Each level's resnets and what doubles the size after them.
    up_blocks: Vec<(Vec<ResnetBlock2D>, Option<Conv2d>)>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Decoder {
    fn load(cfg: &AutoencoderKLConfig, vb: VarBuilder) -> Result<Self> {
        let channels: Vec<usize> = cfg.block_out_channels.iter().copied().rev().collect();
        let mut up_blocks = Vec::with_capacity(channels.len());
        for (level, &output) in channels.iter().enumerate() {
            let vb = vb.pp("up_blocks").pp(level);
            let resnets = (0..=cfg.layers_per_block).map(|i| {
                let input = if i == 0 { channels[level.saturating_sub(1)] } else { output };
                ResnetBlock2D::load(cfg, input, output, vb.pp("resnets").pp(i))
            });
            let resnets = resnets.collect::<Result<Vec<_>>>()?;
            let upsampler = if level + 1 < channels.len() {
                let shape = ConvShape::same(output, output);
                Some(layers::conv2d(shape, vb.pp("upsamplers").pp(0).pp("conv"))?)
            } else {
                None
            };
            up_blocks.push((resnets, upsampler));
        }
        let first = cfg.block_out_channels[0];
        let conv_in = ConvShape::same(cfg.latent_channels, channels[0]);
        let conv_out = ConvShape::same(first, cfg.out_channels);
        Ok(Self {
            conv_in: layers::conv2d(conv_in, vb.pp("conv_in"))?,
            mid_block: MidBlock::load(cfg, vb.pp("mid_block"))?,
            up_blocks,
            conv_norm_out: cfg.group_norm(first, vb.pp("conv_norm_out"))?,
            conv_out: layers::conv2d(conv_out, vb.pp("conv_out"))?,
        })
    }

    /// `x`: (n, h, w, latent_channels) → (n, 8 · h, 8 · w, out_channels).
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut x = self.mid_block.forward(&self.conv_in.forward(x)?)?;
        for (resnets, upsampler) in &self.up_blocks {
            for resnet in resnets {
                x = resnet.forward(&x)?;
            }
            if let Some(upsampler) = upsampler {
                x = upsampler.forward_upsampled(&x)?;
            }
        }
        self.conv_out.forward(&self.conv_norm_out.forward_silu(&x)?)
    }
}

/// Both ways between pixels and latents.
#[derive(Debug)]
pub struct AutoencoderKL {
    encoder: Encoder,
    decoder: Decoder,
    quant_conv: Option<Linear>,
    post_quant_conv: Option<Linear>,
    latent_channels: usize,
    downscale: usize,
    scaling_factor: f64,
    shift_factor: f64,
    dtype: DType,
}

impl AutoencoderKL {
    /// Refuses, by name, options that it does not know, and missing or misshaped tensors.
    pub fn load(cfg: &AutoencoderKLConfig, vb: VarBuilder) -> Result<Self> {
        cfg.validate()?;
        let quant = |wanted: bool, channels: usize, name: &str| {
            wanted.then(|| layers::pointwise(channels, channels, vb.pp(name))).transpose()
        };
        Ok(Self {
            encoder: Encoder::load(cfg, vb.pp("encoder"))?,
            decoder: Decoder::load(cfg, vb.pp("decoder"))?,
            quant_conv: quant(cfg.use_quant_conv, 2 * cfg.latent_channels, "quant_conv")?,
            post_quant_conv: quant(cfg.use_post_quant_conv, cfg.latent_channels, "post_quant_conv")?,
            latent_channels: cfg.latent_channels,
            downscale: cfg.downscale(),
            scaling_factor: cfg.scaling_factor,
            shift_factor: cfg.shift_factor.unwrap_or(0.0),
            dtype: vb.dtype(),
        })
    }

    pub fn latent_channels(&self) -> usize {
        self.latent_channels
    }

    /// How many pixels of an image one latent stands for, along each side.
    pub fn downscale(&self) -> usize {
        self.downscale
    }

    /// Latents as the UNet sees them, of about unit variance.
    pub fn scale(&self, latents: &Tensor) -> Result<Tensor> {
        (latents - self.shift_factor)? * self.scaling_factor
    }

    /// The inverse of [`Self::scale`]: latents for [`Self::decode`].
    pub fn unscale(&self, latents: &Tensor) -> Result<Tensor> {
        (latents / self.scaling_factor)? + self.shift_factor
    }

    /// `images`: (n, h, w, 3) in [−1, 1], height and width multiples of 8 → the posterior of their latents,
    /// unscaled, in the dtype of `images`.
    pub fn encode(&self, images: &Tensor) -> Result<Posterior> {
        let (_, h, w, _) = images.dims4()?;
        let factor = 1 << (self.encoder.down_blocks.len() - 1);
        if !h.is_multiple_of(factor) || !w.is_multiple_of(factor) {
            bail!("vae: an image of {w}×{h} pixels, expected multiples of {factor}");
        }
        let moments = self.encoder.forward(&images.to_dtype(self.dtype)?)?;
        let moments = match &self.quant_conv {
            Some(quant_conv) => quant_conv.forward(&moments)?,
            None => moments,
        };
        Posterior::new(&moments.to_dtype(images.dtype())?)
    }

    /// `latents`: (n, h, w, latent_channels), unscaled → (n, 8 · h, 8 · w, 3), around [−1, 1], in the dtype of
    /// `latents`.
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor> {
        let x = latents.to_dtype(self.dtype)?;
        let x = match &self.post_quant_conv {
            Some(post_quant_conv) => post_quant_conv.forward(&x)?,
            None => x,
        };
        self.decoder.forward(&x)?.to_dtype(latents.dtype())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    /// 64 levels were a shift by more than a number has bits.
    #[test]
    fn sizes_beyond_all_sense_are_refused() {
        let refused = |cfg: AutoencoderKLConfig, expected: &str| {
            let vb = VarBuilder::zeros(DType::F32, &Device::Cpu);
            let message = AutoencoderKL::load(&cfg, vb).map(drop).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        };
        let levels = |count: usize| AutoencoderKLConfig {
            down_block_types: vec!["DownEncoderBlock2D".into(); count],
            up_block_types: vec!["UpDecoderBlock2D".into(); count],
            block_out_channels: vec![32; count],
            ..Default::default()
        };
        refused(levels(65), "block_out_channels has 65 levels, expected 1 to 8");
        refused(levels(0), "block_out_channels has 0 levels");
        let latent_channels = usize::MAX / 2 + 1;
        refused(AutoencoderKLConfig { latent_channels, ..Default::default() }, "expected 1 to 65536");
        let layers_per_block = 1_000_000_000_000;
        refused(AutoencoderKLConfig { layers_per_block, ..Default::default() }, "at most 64");
    }
}
