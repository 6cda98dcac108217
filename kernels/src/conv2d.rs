//! 2-D convolutions on channels-last images, with the additions that follow them in these networks.

use candle_core::{D, Result, Tensor, bail};

/// Rows and columns of zeros around the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Padding {
    pub top: usize,
    pub bottom: usize,
    pub left: usize,
    pub right: usize,
}

impl Padding {
    /// The same on all four sides.
    pub const fn all(n: usize) -> Self {
        Self {
            top: n,
            bottom: n,
            left: n,
            right: n,
        }
    }

    /// Below and to the right only, as the VAE encoder pads before it halves the size.
    pub const fn bottom_right(n: usize) -> Self {
        Self {
            top: 0,
            bottom: n,
            left: 0,
            right: n,
        }
    }
}

/// The weights of a convolution, packed once when they are loaded.
#[derive(Debug, Clone)]
pub struct Conv2d {
    weight: Tensor,
    bias: Option<Tensor>,
    stride: usize,
    padding: Padding,
}

impl Conv2d {
    /// `weight`: (out, in, kernel, kernel), the order of the checkpoints; `bias`: (out).
    pub fn new(weight: Tensor, bias: Option<Tensor>, stride: usize, padding: Padding) -> Result<Self> {
        let (out, _, kh, kw) = weight.dims4()?;
        if kh != kw || stride == 0 || bias.as_ref().is_some_and(|b| b.dims() != [out]) {
            bail!(
                "conv2d: weight {:?}, bias {:?}, stride {stride}",
                weight.shape(),
                bias.map(|b| b.shape().clone())
            );
        }
        Ok(Self {
            weight,
            bias,
            stride,
            padding,
        })
    }

    pub fn in_channels(&self) -> usize {
        self.weight.dims()[1]
    }

    pub fn out_channels(&self) -> usize {
        self.weight.dims()[0]
    }

    /// `x`: (batch, height, width, in) → (batch, height', width', out).
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (_, _, _, channels) = x.dims4()?;
        if channels != self.in_channels() {
            bail!("conv2d: input {:?}, weight {:?}", x.shape(), self.weight.shape());
        }
        conv2d_reference(x, &self.weight, self.bias.as_ref(), self.stride, self.padding)
    }

    /// `forward(x) + residual`; `residual`: the shape of the output, or (batch, 1, 1, out).
    pub fn forward_add(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        self.forward(x)?.broadcast_add(residual)
    }

    /// `x` doubled in height and width by nearest neighbour, then convolved.
    pub fn forward_upsampled(&self, x: &Tensor) -> Result<Tensor> {
        let (b, h, w, c) = x.dims4()?;
        let x = x
            .reshape((b, h, 1, w, 1, c))?
            .broadcast_as((b, h, 2, w, 2, c))?
            .reshape((b, 2 * h, 2 * w, c))?;
        self.forward(&x)
    }
}

/// The definition, in plain candle operations.
pub fn conv2d_reference(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    stride: usize,
    padding: Padding,
) -> Result<Tensor> {
    let x = x.permute((0, 3, 1, 2))?;
    let x =
        x.pad_with_zeros(2, padding.top, padding.bottom)?
            .pad_with_zeros(3, padding.left, padding.right)?;
    let y = x
        .contiguous()?
        .conv2d(weight, 0, stride, 1, 1)?
        .permute((0, 2, 3, 1))?
        .contiguous()?;
    match bias {
        Some(bias) => y.broadcast_add(&bias.reshape((1, 1, 1, bias.dim(D::Minus1)?))?),
        None => Ok(y),
    }
}
