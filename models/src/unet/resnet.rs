//! Resnet blocks, downsampling and upsampling.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use kernels::{Conv2d, GroupNorm, Linear, Padding};

use super::config::UNet3DConfig;
use super::pass::Pass;
use crate::layers::{self, ConvShape};

/// Group norm followed by SiLU. The statistics are over all frames of a video, or per frame with
/// `use_inflated_groupnorm`.
#[derive(Debug)]
pub(super) struct VideoNorm {
    norm: GroupNorm,
    per_frame: bool,
}

impl VideoNorm {
    pub fn load(cfg: &UNet3DConfig, channels: usize, vb: VarBuilder) -> Result<Self> {
        Ok(Self {
            norm: layers::group_norm(channels, cfg.norm_num_groups, cfg.norm_eps, vb)?,
            per_frame: cfg.use_inflated_groupnorm,
        })
    }

    /// Group norm, SiLU and `conv` of `x`, plus `residual`. `x`: (batch · frames, h, w, channels).
    pub fn forward_conv(
        &self,
        x: &Tensor,
        frames: usize,
        conv: &Conv2d,
        residual: Option<&Tensor>,
    ) -> Result<Tensor> {
        let frames = if self.per_frame { 1 } else { frames };
        conv.forward_group_norm_silu(x, (&self.norm, frames), residual)
    }
}

/// norm → SiLU → conv → + time embedding → norm → SiLU → conv → + input.
#[derive(Debug)]
pub(super) struct ResnetBlock3D {
    norm1: VideoNorm,
    conv1: Conv2d,
    time_emb_proj: Linear,
    norm2: VideoNorm,
    conv2: Conv2d,
    conv_shortcut: Option<Linear>,
}

impl ResnetBlock3D {
    pub fn load(cfg: &UNet3DConfig, input: usize, output: usize, vb: VarBuilder) -> Result<Self> {
        let conv_shortcut = if input == output {
            None
        } else {
            Some(layers::pointwise(input, output, vb.pp("conv_shortcut"))?)
        };
        Ok(Self {
            norm1: VideoNorm::load(cfg, input, vb.pp("norm1"))?,
            conv1: layers::conv2d(ConvShape::same(input, output), vb.pp("conv1"))?,
            time_emb_proj: layers::linear(cfg.time_embed_dim(), output, vb.pp("time_emb_proj"))?,
            norm2: VideoNorm::load(cfg, output, vb.pp("norm2"))?,
            conv2: layers::conv2d(ConvShape::same(output, output), vb.pp("conv2"))?,
            conv_shortcut,
        })
    }

    /// `x`: (batch · frames, h, w, in) → (batch · frames, h, w, out).
    pub fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        let temb = self.time_emb_proj.forward(&pass.temb)?;
        let temb = temb.reshape((1, 1, 1, temb.dim(1)?))?;
        let h = self.norm1.forward_conv(x, pass.frames, &self.conv1, Some(&temb))?;
        let shortcut = match &self.conv_shortcut {
            Some(shortcut) => shortcut.forward(x)?,
            None => x.clone(),
        };
        self.norm2.forward_conv(&h, pass.frames, &self.conv2, Some(&shortcut))
    }
}

/// Convolution with stride 2: half the height and width, rounded up.
#[derive(Debug)]
pub(super) struct Downsample3D {
    conv: Conv2d,
}

impl Downsample3D {
    pub fn load(channels: usize, vb: VarBuilder) -> Result<Self> {
        let shape = ConvShape::halving(channels, Padding::all(1));
        Ok(Self { conv: layers::conv2d(shape, vb.pp("conv"))? })
    }

    /// `x`: (batch · frames, h, w, channels) → (batch · frames, ⌈h / 2⌉, ⌈w / 2⌉, channels).
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.conv.forward(x)
    }
}

/// Nearest-neighbour upsampling to the size of the next skip connection, then a convolution.
#[derive(Debug)]
pub(super) struct Upsample3D {
    conv: Conv2d,
}

impl Upsample3D {
    pub fn load(channels: usize, vb: VarBuilder) -> Result<Self> {
        Ok(Self { conv: layers::conv2d(ConvShape::same(channels, channels), vb.pp("conv"))? })
    }

    /// `size`: (height, width).
    /// `x`: (batch · frames, h, w, channels) → (batch · frames, height, width, channels).
    pub fn forward(&self, x: &Tensor, size: (usize, usize)) -> Result<Tensor> {
        let (_, h, w, _) = x.dims4()?;
        if size == (2 * h, 2 * w) {
            return self.conv.forward_upsampled(x);
        }
        let rows = Tensor::from_vec(nearest(h, size.0), size.0, x.device())?;
        let columns = Tensor::from_vec(nearest(w, size.1), size.1, x.device())?;
        let x = x.index_select(&rows, 1)?.index_select(&columns, 2)?;
        self.conv.forward(&x)
    }
}

/// Source index of each of `to` positions when `from` positions are resized by PyTorch's `nearest` (rounded
/// down, in f32).
fn nearest(from: usize, to: usize) -> Vec<u32> {
    let scale = from as f32 / to as f32;
    (0..to).map(|i| ((i as f32 * scale) as u32).min(from as u32 - 1)).collect()
}

#[cfg(test)]
mod tests {
    use super::nearest;

    /// The values of `torch.nn.functional.interpolate(arange(3.)[None, None], size=5)`.
    #[test]
    fn nearest_neighbour_indices_equal_pytorchs() {
        assert_eq!(nearest(3, 5), [0, 0, 1, 1, 2]);
        assert_eq!(nearest(2, 3), [0, 0, 1]);
        assert_eq!(nearest(1, 2), [0, 0]);
    }
}
