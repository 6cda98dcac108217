//! The CUDA versions: a checked launcher for each of the kernels in `kernels/cuda`.
//!
//! Everything here compiles without the `cuda` feature; then no tensor is on a CUDA device, and the fronts go on to
//! their other versions.
//! With the `cuda-emulator` feature the same launchers run the same kernels on a CPU, for tests.

mod launch;
mod rows;
mod norms;
mod epilogue;
mod attention;
mod layout;
mod product;
mod linear;
mod faces;
#[cfg(feature = "cuda")]
mod device;
pub mod emulator;

use candle_core::{DType, Device, Tensor};

pub(crate) use attention::{attention, temporal_attention};
pub(crate) use epilogue::{Epilogue, Then, epilogue};
pub(crate) use faces::{
    blend, erode, gaussian_blur, resize_bicubic, resize_lanczos4, warp_affine, warp_coverage,
};
#[cfg(all(test, feature = "cuda-emulator"))]
pub(crate) use launch::Launch;
pub(crate) use layout::{join_channels, upsample};
pub(crate) use linear::LinearWeights;
pub(crate) use norms::{GroupNorm, LayerNorm, group_norm, layer_norm};
pub(crate) use product::{Patches, Weights};

/// Whether the kernels run where `x` is.
pub(crate) fn is_on(x: &Tensor) -> bool {
    match x.device() {
        Device::Cuda(_) => cfg!(feature = "cuda"),
        Device::Cpu => emulator::is_on(),
        _ => false,
    }
}

/// Whether the networks' kernels take `x`: where it is, and of what type.
pub(crate) fn takes(x: &Tensor) -> bool {
    matches!(x.dtype(), DType::F32 | DType::F16 | DType::BF16) && is_on(x)
}
