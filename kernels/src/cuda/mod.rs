//! CUDA versions: a checked launcher for each kernel in `kernels/cuda`.
//!
//! The module also compiles without the `cuda` feature. No tensor is on a CUDA device then, so the public
//! functions use their other versions. With the `cuda-emulator` feature the same launchers run the same
//! kernels on a CPU, for tests.

mod launch;
mod rows;
mod norms;
mod epilogue;
mod attention;
mod layout;
mod implicit_gemm;
mod linear;
mod faces;
#[cfg(feature = "cuda")]
mod device;
pub mod emulator;

use candle_core::{DType, Device, Tensor};

pub(crate) use attention::{attention, temporal_attention};
pub(crate) use epilogue::{Epilogue, epilogue};
pub(crate) use faces::{
    blend, erode, gaussian_blur, resize_bicubic, resize_lanczos4, warp_affine, warp_coverage,
};
pub(crate) use implicit_gemm::{GemmWeights, Im2col};
#[cfg(all(test, feature = "cuda-emulator"))]
pub(crate) use launch::Launch;
pub(crate) use layout::{join_channels, upsample};
pub(crate) use linear::LinearWeights;
pub(crate) use norms::{GroupNorm, LayerNorm, group_norm, layer_norm};

/// Whether the kernels can run on the device of `x`.
pub(crate) fn is_available_for(x: &Tensor) -> bool {
    match x.device() {
        Device::Cuda(_) => cfg!(feature = "cuda"),
        Device::Cpu => emulator::is_active(),
        _ => false,
    }
}

/// Whether the network kernels support the device and the dtype of `x`.
pub(crate) fn supports(x: &Tensor) -> bool {
    matches!(x.dtype(), DType::F32 | DType::F16 | DType::BF16) && is_available_for(x)
}
