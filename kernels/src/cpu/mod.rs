//! CPU versions: a matrix product with a microkernel per instruction set, used by linear layers, convolutions
//! and attention, and row-wise operations.
//!
//! Results do not depend on the number of threads: the order in which an output element is summed depends
//! only on the shapes.

mod isa;
mod element;
mod microkernel;
mod portable;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "aarch64")]
mod neon_bf16;
// Only AMX has tiles, but the loops around them are the same everywhere.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
mod tiles;
#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(test)]
mod tile_model;
mod packed;
mod matmul;
mod tile_matmul;
mod epilogue;
mod row_kernels;
#[cfg(target_arch = "x86_64")]
mod avx512_bf16_rows;
mod quarters;
mod winograd;
mod weights;
pub(crate) mod flash;
pub(crate) mod vector_math;
pub mod peak;

pub use isa::{Features, Isa, features};

pub(crate) use element::{Element, Shared, fill, slice};
pub(crate) use epilogue::{Activation, Epilogue, Residual};
pub(crate) use isa::multiversion;
pub(crate) use matmul::{Geometry, Problem, Source, pieces};
pub(crate) use microkernel::GROUP;
pub(crate) use packed::Packed;
pub(crate) use weights::{Call, Walk, Weights, derived_bytes};
pub(crate) use winograd::Images;
