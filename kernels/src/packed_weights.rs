//! Packed weights with their bias, and their application to tensors: what linear layers and
//! convolutions share.

use std::fmt;
use std::sync::OnceLock;

use candle_core::{D, DType, Device, Result, Tensor, bail};
use half::{bf16, f16};

use crate::cpu::element::MicrokernelDispatch;
use crate::cpu::gemm::tiles::DEPTH;
use crate::cpu::winograd::{Images, Winograd};
use crate::cpu::{
    Activation, ConvGeometry, Element, Epilogue, Gemm, Isa, Lhs, Packed, PaddedImages, Padding, Residual,
    Shared, fill, slice, upsample_conv,
};
use crate::group_norm::GroupNormSilu;
use crate::layer_norm::LayerNormCall;

/// A packed weight and its bias.
pub struct Weights {
    packed: AnyPacked,
    /// Of the checkpoint, hence of the inputs and outputs.
    dtype: DType,
    /// Zeros where there is none.
    bias: Vec<f32>,
}

enum AnyPacked {
    F32(PackedVariants<f32>),
    Bf16(PackedVariants<bf16>),
}

/// One weight in all forms that were asked for.
struct PackedVariants<T> {
    packed: Packed<T>,
    /// For [`ConvLayout::Upsampled`].
    quarters: OnceLock<[Packed<T>; 4]>,
    /// For 3×3 convolutions of large images.
    winograd: OnceLock<Winograd>,
}

/// The rows that the weights are multiplied with.
#[derive(Debug, Clone, Copy)]
pub enum ConvLayout {
    /// Rows of channels: a linear layer or a 1×1 convolution.
    Pointwise,
    /// The patches of an image.
    Im2col(ConvGeometry),
    /// Those of an image that is doubled by nearest neighbour, with a border of one: 3×3 weights, stride 1.
    Upsampled { height: usize, width: usize },
}

/// A norm that is applied to the input on its way into the caches.
#[derive(Clone, Copy)]
pub enum Prologue<'a> {
    None,
    /// Of a [`ConvLayout::Pointwise`].
    LayerNorm(LayerNormCall<'a>),
    /// Of a [`ConvLayout::Im2col`] for which [`Weights::maps_pixels`] holds.
    GroupNormSilu(&'a GroupNormSilu),
}

/// How weights are applied.
pub struct GemmCall<'a> {
    /// The operation, for messages.
    pub name: &'static str,
    pub isa: Isa,
    pub layout: ConvLayout,
    pub activation: Activation,
    /// Applied to what the weights are multiplied with.
    pub prologue: Prologue<'a>,
    /// As wide as the output; each of its rows is added to equally many consecutive rows of the output.
    pub residual: Option<&'a Tensor>,
}

impl Weights {
    /// `weight`: (out, channels, ...), the remaining dimensions being the taps; `bias`: (out). `None` where
    /// there is no CPU version for the device or the dtype. The f16 of a checkpoint is kept as f32.
    pub fn pack(weight: &Tensor, bias: Option<&Tensor>) -> Result<Option<Self>> {
        if !weight.device().is_cpu() {
            return Ok(None);
        }
        let (out, channels) = (weight.dim(0)?, weight.dim(1)?);
        let taps = weight.dims()[2..].iter().product();
        let weight = weight.contiguous()?;
        let packed = match weight.dtype() {
            DType::F32 => {
                let w = &slice::<f32>(&weight)?[..];
                AnyPacked::F32(PackedVariants::new(Packed::new(out, channels, taps, |i| w[i])))
            }
            DType::BF16 => {
                let w = &slice::<bf16>(&weight)?[..];
                AnyPacked::Bf16(PackedVariants::new(Packed::new(out, channels, taps, |i| w[i])))
            }
            DType::F16 => {
                let w = &slice::<f16>(&weight)?[..];
                AnyPacked::F32(PackedVariants::new(Packed::new(out, channels, taps, |i| w[i].to_f32())))
            }
            _ => return Ok(None),
        };
        let bias = match bias {
            Some(bias) => bias.to_dtype(DType::F32)?.to_vec1()?,
            None => vec![0.; out],
        };
        Ok(Some(Self { packed, dtype: weight.dtype(), bias }))
    }

    /// Whether `x` is where the weights are, and of their type.
    pub fn is_for(&self, x: &Tensor) -> bool {
        x.dtype() == self.dtype && x.device().is_cpu()
    }

    /// Whether rows are mapped on their way into the caches, so that a [`Prologue::LayerNorm`] costs no pass over them.
    pub fn maps_rows(&self, isa: Isa) -> bool {
        match &self.packed {
            AnyPacked::Bf16(forms) => {
                let channels = forms.packed.channels;
                matches!(bf16::kernel(isa), MicrokernelDispatch::Tiles(_))
                    && channels > 0
                    && channels.is_multiple_of(DEPTH)
            }
            AnyPacked::F32(_) => false,
        }
    }

    /// Whether a convolution with these weights copies its input, so that a [`Prologue::GroupNormSilu`] costs no pass
    /// over it. `rows`: output pixels of all images.
    pub fn maps_pixels(&self, isa: Isa, geometry: &ConvGeometry, rows: usize) -> bool {
        match &self.packed {
            AnyPacked::Bf16(forms) => {
                let channels = forms.packed.channels;
                matches!(bf16::kernel(isa), MicrokernelDispatch::Tiles(_))
                    && PaddedImages::<bf16>::supports(geometry, channels, rows)
            }
            AnyPacked::F32(_) => false,
        }
    }

    /// `x`: (..., channels), for a convolution (batch, height, width, channels) → `dims`.
    pub fn apply(&self, x: &Tensor, dims: &[usize], call: &GemmCall) -> Result<Tensor> {
        if !self.is_for(x) {
            bail!(
                "{}: the weights are {:?} on the CPU, the input {:?} on {:?}",
                call.name,
                self.dtype,
                x.dtype(),
                x.device().location()
            );
        }
        match &self.packed {
            AnyPacked::F32(forms) => self.apply_forms(forms, x, dims, call),
            AnyPacked::Bf16(forms) => self.apply_forms(forms, x, dims, call),
        }
    }

    fn apply_forms<T: Element>(
        &self,
        forms: &PackedVariants<T>,
        x: &Tensor,
        dims: &[usize],
        call: &GemmCall,
    ) -> Result<Tensor> {
        let padding = forms.packed.padded_channels() - forms.packed.channels;
        let x = x.to_dtype(T::DTYPE)?;
        let x = if padding > 0 { x.pad_with_zeros(D::Minus1, 0, padding)? } else { x };
        let x = x.contiguous()?;
        let x = slice::<T>(&x)?;

        let columns = dims.last().copied().unwrap_or(1);
        let rows = dims.iter().product::<usize>() / columns.max(1);
        let residual = call.residual.map(|r| r.to_dtype(T::DTYPE)?.contiguous()).transpose()?;
        let residual = residual.as_ref().map(slice::<T>).transpose()?;
        let epilogue = Epilogue {
            bias: &self.bias,
            residual: residual.as_deref().map(|values| Residual {
                values,
                rows_per_value: (rows * columns / values.len().max(1)).max(1),
            }),
            activation: call.activation,
        };
        let isa = call.isa;
        let images = call.layout.same_size_images(rows);
        let images = images.filter(|images| {
            Winograd::is_profitable::<T>(call.isa, forms.packed.channels, forms.packed.out, images)
        });
        let norm = match call.prologue {
            Prologue::LayerNorm(norm) => Some(norm),
            _ => None,
        };
        let added = norm.map(|norm| norm.added::<T>()).transpose()?.flatten();
        let normed_rows = norm.map(|norm| norm.rows(added.as_deref()));
        let write = |out: &Shared<T>| match call.layout {
            _ if let Some(images) = images => {
                let winograd = forms.winograd.get_or_init(|| Winograd::pack(&forms.packed));
                winograd.run(call.isa, &x, images, &epilogue, out);
            }
            ConvLayout::Pointwise => {
                let lhs = match &normed_rows {
                    Some(norm) => Lhs::Mapped(&x, norm),
                    None => Lhs::Matrix(&x),
                };
                Gemm { isa, rows, lhs, weights: &forms.packed, epilogue }.run(out);
            }
            ConvLayout::Im2col(geometry) => {
                let padded = match call.prologue {
                    Prologue::GroupNormSilu(norm) => {
                        let padding = Padding::of(&geometry);
                        let channels = forms.packed.padded_channels();
                        Some(PaddedImages::new(&x, &geometry, channels, padding, Some(norm)))
                    }
                    _ => None,
                };
                let lhs = match &padded {
                    Some(images) => Lhs::Padded(images, geometry),
                    None => Lhs::Im2col(&x, geometry),
                };
                Gemm { isa, rows, lhs, weights: &forms.packed, epilogue }.run(out);
            }
            ConvLayout::Upsampled { height, width } => {
                let quarters = forms.quarters.get_or_init(|| upsample_conv::pack(&forms.packed));
                let geometries = upsample_conv::geometries(height, width);
                let channels = forms.packed.padded_channels();
                let in_place = matches!(T::kernel(call.isa), MicrokernelDispatch::Tiles(_))
                    && PaddedImages::<T>::supports(&geometries[0], channels, rows / 4);
                let padding = Padding { height: height + 2, width: width + 2, top: 1, left: 1 };
                let padded = in_place.then(|| PaddedImages::new(&x, &geometries[0], channels, padding, None));
                for (weights, geometry) in quarters.iter().zip(geometries) {
                    let lhs = match &padded {
                        Some(images) => Lhs::Padded(images, geometry),
                        None => Lhs::Im2col(&x, geometry),
                    };
                    Gemm { isa, rows: rows / 4, lhs, weights, epilogue }.run(out);
                }
            }
        };
        // SAFETY: a problem writes all its rows and columns; the quarters are all of an output.
        let out = unsafe { fill(rows * columns, write) };
        Tensor::from_vec(out, dims, &Device::Cpu)?.to_dtype(self.dtype)
    }
}

/// Bytes of what is made of a 3×3 weight of (`out`, `channels`), and kept, when it is first laid on such `images`.
pub fn derived_bytes(isa: Isa, dtype: DType, channels: usize, out: usize, images: &Images) -> usize {
    let (profitable, element) = match dtype {
        DType::BF16 => (Winograd::is_profitable::<bf16>(isa, channels, out, images), size_of::<bf16>()),
        _ => (Winograd::is_profitable::<f32>(isa, channels, out, images), size_of::<f32>()),
    };
    match (profitable, images.doubled) {
        (true, _) => Winograd::bytes(channels, out),
        (false, true) => upsample_conv::TAPS * channels * out * element,
        (false, false) => 0,
    }
}

impl ConvLayout {
    /// The images of a 3×3 convolution whose output of `rows` pixels is as large as its input, or as its input doubled.
    fn same_size_images(&self, rows: usize) -> Option<Images> {
        let (height, width, doubled) = match *self {
            ConvLayout::Pointwise => return None,
            ConvLayout::Im2col(ConvGeometry {
                height,
                width,
                kernel,
                stride,
                top,
                left,
                out_height,
                out_width,
                ..
            }) => {
                let same = (kernel, stride, top, left, out_height, out_width) == (3, 1, 1, 1, height, width);
                (same.then_some(height)?, width, false)
            }
            ConvLayout::Upsampled { height, width } => (2 * height, 2 * width, true),
        };
        Some(Images { count: rows / (height * width).max(1), height, width, doubled })
    }
}

impl<T> PackedVariants<T> {
    fn new(packed: Packed<T>) -> Self {
        Self { packed, quarters: OnceLock::new(), winograd: OnceLock::new() }
    }
}

impl fmt::Debug for Weights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (out, channels, taps) = match &self.packed {
            AnyPacked::F32(w) => (w.packed.out, w.packed.channels, w.packed.taps),
            AnyPacked::Bf16(w) => (w.packed.out, w.packed.channels, w.packed.taps),
        };
        write!(f, "Weights({out}, {channels}, {taps}; {:?})", self.dtype)
    }
}
