//! Packed weights with their bias, and their application to tensors: what linear layers and
//! convolutions share.

use std::fmt;
use std::sync::OnceLock;

use candle_core::{D, DType, Device, Result, Tensor, bail};
use half::{bf16, f16};

use crate::cuda;

use super::{
    Activation, Element, Epilogue, Geometry, Isa, Packed, Problem, Residual, Shared, Source, fill, quarters,
    slice,
    winograd::{Images, Winograd},
};

/// A packed weight and its bias.
pub struct Weights {
    packed: AnyPacked,
    /// Of the checkpoint, hence of the inputs and outputs.
    dtype: DType,
    /// Zeros where there is none.
    bias: Vec<f32>,
}

enum AnyPacked {
    F32(Forms<f32>),
    Bf16(Forms<bf16>),
}

/// One weight in all forms that were asked for.
struct Forms<T> {
    packed: Packed<T>,
    /// For [`Walk::Doubled`].
    quarters: OnceLock<[Packed<T>; 4]>,
    /// For 3×3 convolutions of large images.
    winograd: OnceLock<Winograd>,
}

/// What the weights are laid on.
#[derive(Debug, Clone, Copy)]
pub enum Walk {
    /// Rows of channels: a linear layer.
    Rows,
    /// The patches of an image.
    Patches(Geometry),
    /// Those of an image that is doubled by nearest neighbour, with a border of one: 3×3 weights, stride 1.
    Doubled { height: usize, width: usize },
}

/// How weights are applied.
pub struct Call<'a> {
    /// The operation, for messages.
    pub name: &'static str,
    pub isa: Isa,
    pub walk: Walk,
    pub activation: Activation,
    /// As wide as the output; each of its rows is added to equally many consecutive rows of the output.
    pub residual: Option<&'a Tensor>,
}

impl Weights {
    /// `weight`: (out, channels, ...), the remaining dimensions being the taps; `bias`: (out). `None` where
    /// there is no CPU version for the device or the dtype. The f16 of a checkpoint is kept as f32.
    pub fn pack(weight: &Tensor, bias: Option<&Tensor>) -> Result<Option<Self>> {
        if !weight.device().is_cpu() || cuda::takes(weight) {
            return Ok(None);
        }
        let (out, channels) = (weight.dim(0)?, weight.dim(1)?);
        let taps = weight.dims()[2..].iter().product();
        let weight = weight.contiguous()?;
        let packed = match weight.dtype() {
            DType::F32 => {
                let w = &slice::<f32>(&weight)?[..];
                AnyPacked::F32(Forms::new(Packed::new(out, channels, taps, |i| w[i])))
            }
            DType::BF16 => {
                let w = &slice::<bf16>(&weight)?[..];
                AnyPacked::Bf16(Forms::new(Packed::new(out, channels, taps, |i| w[i])))
            }
            DType::F16 => {
                let w = &slice::<f16>(&weight)?[..];
                AnyPacked::F32(Forms::new(Packed::new(out, channels, taps, |i| w[i].to_f32())))
            }
            _ => return Ok(None),
        };
        let bias = match bias {
            Some(bias) => bias.to_dtype(DType::F32)?.to_vec1()?,
            None => vec![0.; out],
        };
        Ok(Some(Self { packed, dtype: weight.dtype(), bias }))
    }

    /// `x`: (..., channels), for a convolution (batch, height, width, channels) → `dims`.
    pub fn apply(&self, x: &Tensor, dims: &[usize], call: &Call) -> Result<Tensor> {
        if x.dtype() != self.dtype || !x.device().is_cpu() {
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
        forms: &Forms<T>,
        x: &Tensor,
        dims: &[usize],
        call: &Call,
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
        let problem = |weights, rows, source| Problem { isa: call.isa, rows, source, weights, epilogue };
        let images = call.walk.same_size_images(rows);
        let images = images.filter(|images| {
            Winograd::is_profitable::<T>(call.isa, forms.packed.channels, forms.packed.out, images)
        });
        let write = |out: &Shared<T>| match call.walk {
            _ if let Some(images) = images => {
                let winograd = forms.winograd.get_or_init(|| Winograd::pack(&forms.packed));
                winograd.run(call.isa, &x, images, &epilogue, out);
            }
            Walk::Rows => problem(&forms.packed, rows, Source::Matrix(&x)).run(out),
            Walk::Patches(geometry) => problem(&forms.packed, rows, Source::Patches(&x, geometry)).run(out),
            Walk::Doubled { height, width } => {
                let quarters = forms.quarters.get_or_init(|| quarters::pack(&forms.packed));
                for (weights, geometry) in quarters.iter().zip(quarters::geometries(height, width)) {
                    problem(weights, rows / 4, Source::Patches(&x, geometry)).run(out);
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
    let (pays, element) = match dtype {
        DType::BF16 => (Winograd::is_profitable::<bf16>(isa, channels, out, images), size_of::<bf16>()),
        _ => (Winograd::is_profitable::<f32>(isa, channels, out, images), size_of::<f32>()),
    };
    match (pays, images.doubled) {
        (true, _) => Winograd::bytes(channels, out),
        (false, true) => quarters::TAPS * channels * out * element,
        (false, false) => 0,
    }
}

impl Walk {
    /// The images of a 3×3 convolution whose output of `rows` pixels is as large as its input, or as its input doubled.
    fn same_size_images(&self, rows: usize) -> Option<Images> {
        let (height, width, doubled) = match *self {
            Walk::Rows => return None,
            Walk::Patches(Geometry {
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
            Walk::Doubled { height, width } => (2 * height, 2 * width, true),
        };
        Some(Images { count: rows / (height * width).max(1), height, width, doubled })
    }
}

impl<T> Forms<T> {
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
