//! 2-D convolutions on channels-last images, with the additions that follow them in these networks.

use std::sync::Arc;

use candle_core::{D, DType, Result, Tensor, bail};

use crate::cpu::{Activation, ConvGeometry, Images, Isa};
use crate::cuda::{self, Epilogue};
use crate::packed_weights::{self, ConvLayout, GemmCall, Prologue, Weights};
use crate::profile::{self, Kind, Work};
use crate::{GroupNorm, reference_dtype};

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
        Self { top: n, bottom: n, left: n, right: n }
    }

    /// Below and to the right only, as the VAE encoder pads before it halves the size.
    pub const fn bottom_right(n: usize) -> Self {
        Self { top: 0, bottom: n, left: 0, right: n }
    }
}

/// The weights of a convolution, packed once when they are loaded.
#[derive(Debug, Clone)]
pub struct Conv2d {
    weights: Backend,
    /// (out, in, kernel, kernel).
    dims: (usize, usize, usize, usize),
    stride: usize,
    padding: Padding,
}

#[derive(Debug, Clone)]
enum Backend {
    /// For the CPU versions.
    Packed(Arc<Weights>, Isa),
    /// For the CUDA version.
    Product(cuda::GemmWeights),
    /// For the reference.
    Plain { weight: Tensor, bias: Option<Tensor> },
}

impl Conv2d {
    /// `weight`: (out, in, kernel, kernel), the order of the checkpoints; `bias`: (out).
    pub fn new(weight: Tensor, bias: Option<Tensor>, stride: usize, padding: Padding) -> Result<Self> {
        Self::for_isa(weight, bias, (stride, padding), Isa::current())
    }

    pub(crate) fn for_isa(
        weight: Tensor,
        bias: Option<Tensor>,
        (stride, padding): (usize, Padding),
        isa: Isa,
    ) -> Result<Self> {
        let dims = weight.dims4()?;
        let (out, _, kh, kw) = dims;
        if kh != kw || kh == 0 || stride == 0 || bias.as_ref().is_some_and(|b| b.dims() != [out]) {
            bail!(
                "conv2d: weight {:?}, bias {:?}, stride {stride}",
                weight.shape(),
                bias.map(|b| b.shape().clone())
            );
        }
        // The emulator runs the CUDA kernels on CPU tensors.
        let packed = match cuda::supports(&weight) {
            true => None,
            false => Weights::pack(&weight, bias.as_ref())?,
        };
        let weights = match packed {
            Some(packed) => Backend::Packed(Arc::new(packed), isa),
            None => match cuda::GemmWeights::pack(&weight, bias.as_ref())? {
                Some(packed) => Backend::Product(packed),
                None => Backend::Plain { weight, bias },
            },
        };
        Ok(Self { weights, dims, stride, padding })
    }

    /// Bytes that a 3×3 convolution on the CPU keeps beside its weights as soon as it has made images of (height,
    /// width) from images that large, or from `doubled` ones: the same weights, transformed.
    pub fn derived_bytes(
        in_channels: usize,
        out_channels: usize,
        (height, width): (usize, usize),
        doubled: bool,
        dtype: DType,
    ) -> usize {
        let images = Images { count: 1, height, width, doubled };
        packed_weights::derived_bytes(Isa::current(), dtype, in_channels, out_channels, &images)
    }

    pub fn in_channels(&self) -> usize {
        self.dims.1
    }

    pub fn out_channels(&self) -> usize {
        self.dims.0
    }

    /// `x`: (batch, height, width, in) → (batch, height', width', out).
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.run(x, None, Prologue::None)
    }

    /// `forward(x) + residual`; `residual`: the shape of the output, (batch, 1, 1, out) or (1, 1, 1, out).
    pub fn forward_add(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        self.run(x, Some(residual), Prologue::None)
    }

    /// `forward(silu(norm(x))) + residual`; the norm's statistics run over each `frames` consecutive images.
    ///
    /// Where the convolution copies its input anyway, the norm is applied on the way and costs no pass over it.
    pub fn forward_group_norm_silu(
        &self,
        x: &Tensor,
        (norm, frames): (&GroupNorm, usize),
        residual: Option<&Tensor>,
    ) -> Result<Tensor> {
        let (images, height, width, channels) = x.dims4()?;
        if frames == 0 || !images.is_multiple_of(frames) || channels != norm.channels() {
            bail!(
                "conv2d: input {:?}, a norm of {} channels over {frames} images",
                x.shape(),
                norm.channels()
            );
        }
        if let Backend::Packed(weights, isa) = &self.weights
            && x.elem_count() > 0
            && weights.is_for(x)
            && let Ok(geometry) = self.geometry(x)
            && weights.maps_pixels(*isa, &geometry, images * geometry.out_height * geometry.out_width)
        {
            let prologue = norm.prologue(x, frames)?;
            return self.run(x, residual, Prologue::GroupNormSilu(&prologue));
        }
        let video = x.reshape((images / frames, frames * height * width, channels))?;
        let y = norm.forward_silu(&video)?.reshape((images, height, width, channels))?;
        self.run(&y, residual, Prologue::None)
    }

    /// `x` doubled in height and width by nearest neighbour, then convolved.
    pub fn forward_upsampled(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, height, width, channels) = x.dims4()?;
        let (out, inner, kernel, _) = self.dims;
        let _timer = profile::timer(x, || self.work(x, [batch, 2 * height, 2 * width, out], None));
        let keeps_size = (channels, kernel, self.stride, self.padding) == (inner, 3, 1, Padding::all(1));
        match &self.weights {
            Backend::Packed(weights, isa) if keeps_size => {
                let call = GemmCall {
                    name: "conv2d",
                    isa: *isa,
                    layout: ConvLayout::Upsampled { height, width },
                    activation: Activation::None,
                    prologue: Prologue::None,
                    residual: None,
                };
                weights.apply(x, &[batch, 2 * height, 2 * width, out], &call)
            }
            Backend::Product(weights) if keeps_size && x.elem_count() > 0 => {
                let patches = cuda::Im2col {
                    stride: 1,
                    top: 1,
                    left: 1,
                    out_height: 2 * height,
                    out_width: 2 * width,
                    doubled: true,
                };
                weights.apply(x, &patches, None, Activation::None)
            }
            _ if cuda::supports(x) && x.elem_count() > 0 => {
                self.run(&cuda::upsample(x)?, None, Prologue::None)
            }
            _ => self.run(&upsample_reference(x, 2)?, None, Prologue::None),
        }
    }

    /// `dims`: of the output. Enlarging counts with all nine taps, though the CPU versions need four.
    fn work(&self, x: &Tensor, dims: [usize; 4], residual: Option<&Tensor>) -> Work {
        let (out, inner, kernel, _) = self.dims;
        let [images, height, width, _] = dims;
        let (pixels, weights) = (images * height * width, kernel * kernel * inner * out);
        let elements = x.elem_count() + weights + pixels * out + residual.map_or(0, Tensor::elem_count);
        let how = match self.stride {
            1 if height > x.dims()[1] => ", upsampled".to_string(),
            1 => String::new(),
            stride => format!(", stride {stride}"),
        };
        Work {
            kind: Kind::Conv2d,
            shape: format!("{kernel}×{kernel} {inner}→{out} at {images}×{height}×{width}{how}"),
            flop: (2 * pixels * weights) as f64,
            bytes: (elements * x.dtype().size_in_bytes()) as f64,
        }
    }

    fn geometry(&self, x: &Tensor) -> Result<ConvGeometry> {
        let (_, height, width, channels) = x.dims4()?;
        let (_, inner, kernel, _) = self.dims;
        let Padding { top, bottom, left, right } = self.padding;
        let (high, wide) = (height + top + bottom, width + left + right);
        if channels != inner || high < kernel || wide < kernel {
            bail!("conv2d: input {:?}, weight {:?}, {:?}", x.shape(), self.dims, self.padding);
        }
        Ok(ConvGeometry {
            height,
            width,
            kernel,
            stride: self.stride,
            top,
            left,
            out_height: (high - kernel) / self.stride + 1,
            out_width: (wide - kernel) / self.stride + 1,
            quarter: None,
        })
    }

    /// A `prologue` is only given where the weights apply it.
    fn run(&self, x: &Tensor, residual: Option<&Tensor>, prologue: Prologue) -> Result<Tensor> {
        let geometry = self.geometry(x)?;
        let (batch, out) = (x.dim(0)?, self.dims.0);
        let dims = [batch, geometry.out_height, geometry.out_width, out];
        if let Some(residual) = residual
            && residual.dims() != dims
            && residual.dims() != [batch, 1, 1, out]
            && residual.dims() != [1, 1, 1, out]
        {
            bail!("conv2d: output {dims:?}, residual {:?}", residual.shape());
        }
        let _timer = profile::timer(x, || self.work(x, dims, residual));
        match &self.weights {
            Backend::Packed(weights, isa) => {
                let call = GemmCall {
                    name: "conv2d",
                    isa: *isa,
                    layout: ConvLayout::Im2col(geometry),
                    activation: Activation::None,
                    prologue,
                    residual,
                };
                weights.apply(x, &dims, &call)
            }
            Backend::Product(_) if dims.contains(&0) => Tensor::zeros(&dims, x.dtype(), x.device()),
            Backend::Product(weights) => {
                let ConvGeometry { stride, top, left, out_height, out_width, .. } = geometry;
                let patches = cuda::Im2col { stride, top, left, out_height, out_width, doubled: false };
                weights.apply(x, &patches, residual, Activation::None)
            }
            Backend::Plain { weight, bias } if cuda::supports(x) && dims.iter().product::<usize>() > 0 => {
                let y = conv2d_reference(x, weight, None, self.stride, self.padding)?;
                cuda::epilogue(&y, Epilogue { bias: bias.as_ref(), residual, activation: Activation::None })
            }
            Backend::Plain { weight, bias } => {
                let y = conv2d_reference(x, weight, bias.as_ref(), self.stride, self.padding)?;
                match residual {
                    Some(residual) => y.broadcast_add(residual),
                    None => Ok(y),
                }
            }
        }
    }
}

/// Nearest-neighbour enlargement, in plain candle operations.
pub fn upsample_reference(x: &Tensor, factor: usize) -> Result<Tensor> {
    let (b, h, w, c) = x.dims4()?;
    x.reshape((b, h, 1, w, 1, c))?.broadcast_as((b, h, factor, w, factor, c))?.reshape((
        b,
        factor * h,
        factor * w,
        c,
    ))
}

/// The definition, in plain candle operations.
pub fn conv2d_reference(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    stride: usize,
    padding: Padding,
) -> Result<Tensor> {
    let dtype = reference_dtype(x);
    let y = x
        .to_dtype(dtype)?
        .permute((0, 3, 1, 2))?
        .pad_with_zeros(2, padding.top, padding.bottom)?
        .pad_with_zeros(3, padding.left, padding.right)?
        .contiguous()?
        .conv2d(&weight.to_dtype(dtype)?, 0, stride, 1, 1)?
        .permute((0, 2, 3, 1))?
        .contiguous()?;
    let y = match bias {
        Some(bias) => y.broadcast_add(&bias.to_dtype(dtype)?.reshape((1, 1, 1, bias.dim(D::Minus1)?))?)?,
        None => y,
    };
    y.to_dtype(x.dtype())
}
