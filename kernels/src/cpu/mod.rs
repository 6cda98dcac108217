//! CPU versions: a matrix product with a microkernel per instruction set, used by linear layers, convolutions
//! and attention, and row-wise operations.
//!
//! Results do not depend on the number of threads: the order in which an output element is summed depends
//! only on the shapes.

mod isa;
pub(crate) mod element;
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
#[cfg(target_arch = "x86_64")]
mod avx512_bf16_rows;
pub(crate) mod upsample_conv;
pub(crate) mod winograd;
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
pub(crate) use winograd::Images;
