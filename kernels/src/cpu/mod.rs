//! The CPU versions: one matrix-product core with a microkernel per instruction set, on which linear
//! layers, convolutions and attention stand, and the row-wise operations beside it.
//!
//! Results do not depend on the number of threads: every output element is summed in an order that only
//! the shapes decide.

mod isa;
mod element;
mod portable;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "aarch64")]
mod neon_bf16;
pub(crate) mod gemm;
mod row_kernels;
mod upsample_conv;
mod winograd;
mod weights;
pub(crate) mod flash_attention;
pub(crate) mod vector_math;
pub mod peak;

pub use isa::{Features, Isa, features};

pub(crate) use element::{Element, Shared, Slice, fill, slice};
pub(crate) use gemm::epilogue::{Activation, Epilogue, Residual};
pub(crate) use gemm::micro_kernel::NR;
pub(crate) use gemm::pack::Packed;
pub(crate) use gemm::{ConvGeometry, Gemm, Lhs, PaddedImages, Padding, PixelMap, RowMap, chunks};
pub(crate) use isa::multiversion;
pub(crate) use weights::{ConvLayout, GemmCall, Prologue, Weights, derived_bytes};
pub(crate) use winograd::Images;
