//! Loaders for the operations of the `kernels` crate, and layers that several networks share.
//!
//! Every loader reads its tensors (`weight`, `bias`) at the prefix of `vb`.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use kernels::{Conv2d, GroupNorm, LayerNorm, Linear, Padding, QkvLinear};

/// Shape of a convolution with a square kernel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConvShape {
    pub input: usize,
    pub output: usize,
    pub kernel: usize,
    pub stride: usize,
    pub padding: Padding,
}

impl ConvShape {
    /// 3×3, stride 1, padding 1: output size equals input size.
    pub const fn same(input: usize, output: usize) -> Self {
        Self { input, output, kernel: 3, stride: 1, padding: Padding::all(1) }
    }

    /// 3×3, stride 2: half the size; `padding` determines the rounding.
    pub const fn halving(channels: usize, padding: Padding) -> Self {
        Self { input: channels, output: channels, kernel: 3, stride: 2, padding }
    }
}

/// `weight`: (out, in, kernel, kernel); `bias`: (out).
pub(crate) fn conv2d(shape: ConvShape, vb: VarBuilder) -> Result<Conv2d> {
    let dims = (shape.output, shape.input, shape.kernel, shape.kernel);
    let (weight, bias) = (vb.get(dims, "weight")?, vb.get(shape.output, "bias")?);
    Conv2d::new(weight, Some(bias), shape.stride, shape.padding)
}

/// `weight`: (out, in); `bias`: (out).
pub(crate) fn linear(input: usize, output: usize, vb: VarBuilder) -> Result<Linear> {
    Linear::new(vb.get((output, input), "weight")?, Some(vb.get(output, "bias")?))
}

/// Linear layer for [`Linear::forward_geglu`]. `weight`: (out, in); `bias`: (out); the outputs are values,
/// then gates.
fn linear_geglu(input: usize, output: usize, vb: VarBuilder) -> Result<Linear> {
    Linear::for_geglu(vb.get((output, input), "weight")?, Some(vb.get(output, "bias")?))
}

/// `weight`: (out, in).
pub(crate) fn linear_no_bias(input: usize, output: usize, vb: VarBuilder) -> Result<Linear> {
    Linear::new(vb.get((output, input), "weight")?, None)
}

/// Joint projection of queries, keys and values of a self-attention. Checkpoint keys `to_q`, `to_k` and `to_v`, each `weight`: (channels, channels).
pub(crate) fn qkv_linear(channels: usize, vb: &VarBuilder) -> Result<QkvLinear> {
    let weight = |name: &str| vb.pp(name).get((channels, channels), "weight");
    QkvLinear::new([weight("to_q")?, weight("to_k")?, weight("to_v")?])
}

/// A 1×1 convolution, as a linear layer on channels-last tensors.
/// `weight`: (out, in, 1, 1); `bias`: (out).
pub(crate) fn pointwise(input: usize, output: usize, vb: VarBuilder) -> Result<Linear> {
    let weight = vb.get((output, input, 1, 1), "weight")?.reshape((output, input))?;
    Linear::new(weight, Some(vb.get(output, "bias")?))
}

/// `weight`, `bias`: (channels).
pub(crate) fn group_norm(channels: usize, groups: usize, eps: f64, vb: VarBuilder) -> Result<GroupNorm> {
    GroupNorm::new(vb.get(channels, "weight")?, vb.get(channels, "bias")?, groups, eps)
}

/// `weight`, `bias`: (channels); epsilon is PyTorch's default.
pub(crate) fn layer_norm(channels: usize, vb: VarBuilder) -> Result<LayerNorm> {
    LayerNorm::new(vb.get(channels, "weight")?, vb.get(channels, "bias")?, 1e-5)
}

/// The transformers' feed-forward with GEGLU: `channels` → 4 · `channels` → `channels`.
#[derive(Debug)]
pub(crate) struct FeedForward {
    proj: Linear,
    out: Linear,
}

impl FeedForward {
    /// Reads `net.0.proj` and `net.2`; `net.1` is dropout.
    pub fn load(channels: usize, vb: VarBuilder) -> Result<Self> {
        let inner_dim = 4 * channels;
        let net = vb.pp("net");
        Ok(Self {
            proj: linear_geglu(channels, 2 * inner_dim, net.pp(0).pp("proj"))?,
            out: linear(inner_dim, channels, net.pp(2))?,
        })
    }

    /// Feed-forward of the layer-normalised `x`, plus `x`. `x`: (..., channels) → the same shape.
    pub fn forward_add(&self, x: &Tensor, norm: &LayerNorm) -> Result<Tensor> {
        self.out.forward_add(&self.proj.forward_layer_norm_geglu(x, norm)?, x)
    }
}

/// A 3×3 convolution with stride 1 of a network, with or without 2× upsampling of its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Convolution {
    pub in_channels: usize,
    pub out_channels: usize,
    /// The height and width of the output are those of the network's input divided by 2^level.
    pub level: u32,
    /// Whether the input is upsampled 2×.
    pub doubling: bool,
}

impl Convolution {
    /// The two convolutions of a resnet.
    pub(crate) fn of_resnet(in_channels: usize, out_channels: usize, level: usize) -> [Self; 2] {
        [in_channels, out_channels].map(|in_channels| Self {
            in_channels,
            out_channels,
            level: level as u32,
            doubling: false,
        })
    }

    pub(crate) fn doubling(channels: usize, level: usize) -> Self {
        Self { in_channels: channels, out_channels: channels, level: level as u32, doubling: true }
    }
}
