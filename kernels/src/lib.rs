//! Operations of the LatentSync networks and image stages, on channels-last tensors.
//!
//! Each operation has its own file with three parts:
//!
//! - a public function that checks its arguments and dispatches on the tensor's device and dtype;
//! - the fused versions: CPU kernels in [`cpu`], launchers of CUDA kernels in [`cuda`];
//! - a `*_reference` function in plain candle operations. It defines the result, runs on every device and in
//!   every dtype, and is the expected value in the tests of the fused versions.
//!
//! Layout: images are `(batch, height, width, channels)`, token sequences `(batch, tokens, channels)`.
//! With the channels innermost, a 1×1 convolution is a linear layer and attention needs no transposes.

use candle_core::{DType, Tensor};

pub mod allocator;
pub mod cpu;
mod packed_weights;
pub mod cuda;
pub mod profile;

// Operations of the networks.
pub mod linear;
pub mod qkv;
pub mod conv2d;
pub mod attention;
pub mod group_norm;
pub mod layer_norm;
pub mod activation;
pub mod join;

// Image operations of the face stages.
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

/// Dtype in which a reference computes. On the CPU candle has no 16-bit matrix product, so bf16 and f16 are
/// widened.
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
