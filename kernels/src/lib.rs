//! The operations of LatentSync's networks and face stages, on channels-last tensors.
//!
//! One operation is one file: a checked front function that picks the fastest version for the tensor's
//! device and dtype, the fused versions, and a plain `*_reference` made of candle's own operations, which
//! is the definition, runs everywhere, and is what the others are tested against.
//!
//! Layout: images are `(batch, height, width, channels)`, token sequences `(batch, tokens, channels)`.
//! A 1×1 convolution is therefore a linear layer and attention needs no transposes.

use candle_core::{DType, Tensor};

pub mod allocator;
pub mod cpu;
pub mod cuda;
pub mod profile;

// Networks.
pub mod linear;
pub mod qkv;
pub mod conv2d;
pub mod attention;
pub mod group_norm;
pub mod layer_norm;
pub mod activation;
pub mod join;

// Faces.
pub mod pixels;
pub mod warp_affine;
pub mod resize;
pub mod erode;
pub mod gaussian_blur;
pub mod blend;

pub use activation::{gelu, silu};
pub use attention::{attention, self_attention, temporal_attention, temporal_self_attention};
pub use conv2d::{Conv2d, Padding};
pub use group_norm::GroupNorm;
pub use join::join_channels;
pub use layer_norm::LayerNorm;
pub use linear::Linear;
pub use qkv::{Qkv, QkvLinear};

/// What a reference computes in: on a CPU candle has no products of the 16-bit types.
fn reference_dtype(x: &Tensor) -> DType {
    match x.dtype() {
        DType::BF16 | DType::F16 if x.device().is_cpu() => DType::F32,
        dtype => dtype,
    }
}

#[cfg(test)]
#[global_allocator]
static ALLOCATOR: allocator::Allocator = allocator::Allocator;

#[cfg(test)]
mod tests;
