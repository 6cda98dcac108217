//! The types that the CPU versions compute on, and the way from tensors to slices and back.

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Deref;

use candle_core::{Result, Storage, StorageRef, Tensor, WithDType, bail};
use half::bf16;

use super::gemm::TileEpilogueRows;
use super::gemm::micro_kernel::Microkernel;
use super::gemm::tiles::TileKernel;
use super::row_kernels::RowKernels;
use super::{Isa, gemm, vector_math};

/// A type of tensor elements. Sums are in f32 whatever the element.
pub trait Element: WithDType + Default {
    /// Neighbours along the summed dimension that are packed together: what one 32-bit lane holds.
    const PAIR: usize;

    fn widen(self) -> f32;

    /// What a lane of a packed line holds: `of` is an f32, or a pair of bf16.
    fn lane(of: &[Self]) -> u32;

    /// The lanes that hold `first`, with `second` as the other of a pair (zeros where it is shorter; unused in f32).
    fn lanes(first: &[Self], second: &[Self], to: &mut [u32]);

    /// To the nearest, ties to even.
    fn narrow(x: f32) -> Self;

    /// [`Self::narrow`] of a finite number that is not negative; halves may go up.
    fn narrow_positive(x: f32) -> Self;

    /// e^x of a number that is 0 or less, as precise as sums of this type need it.
    fn exp_of_negative(x: f32) -> f32;

    /// x · sigmoid(x), likewise.
    fn silu(x: f32) -> f32;

    /// x · Φ(x), likewise.
    fn gelu(x: f32) -> f32;

    /// The micro-kernel for an instruction set.
    fn kernel(isa: Isa) -> MicrokernelDispatch<Self>;

    /// The epilogue of a micro-tile for an instruction set.
    fn tile_epilogue(_: Isa) -> TileEpilogueRows<Self> {
        gemm::write_rows::<Self>
    }

    /// Operations on rows that an instruction set has better ones for than plain loops.
    fn row_kernels(_: Isa) -> Option<&'static dyn RowKernels<Self>> {
        None
    }
}

/// The micro-kernel of a matrix product, with sums in registers or in tiles.
#[derive(Clone, Copy)]
pub enum MicrokernelDispatch<T> {
    Registers(Microkernel<T>),
    /// Of bf16 only.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    Tiles(TileKernel<T>),
}

impl Element for f32 {
    const PAIR: usize = 1;

    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }

    #[inline(always)]
    fn lane(of: &[f32]) -> u32 {
        of[0].to_bits()
    }

    #[inline(always)]
    fn lanes(first: &[f32], _: &[f32], to: &mut [u32]) {
        to.iter_mut().zip(first).for_each(|(to, x)| *to = x.to_bits());
    }

    #[inline(always)]
    fn narrow(x: f32) -> Self {
        x
    }

    #[inline(always)]
    fn narrow_positive(x: f32) -> Self {
        x
    }

    #[inline(always)]
    fn exp_of_negative(x: f32) -> f32 {
        vector_math::exp(x)
    }

    #[inline(always)]
    fn silu(x: f32) -> f32 {
        vector_math::silu(x)
    }

    #[inline(always)]
    fn gelu(x: f32) -> f32 {
        vector_math::gelu(x)
    }

    fn kernel(isa: Isa) -> MicrokernelDispatch<Self> {
        MicrokernelDispatch::Registers(match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Avx512Bf16 | Isa::Amx => super::avx512::F32,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => super::avx2::F32,
            #[cfg(target_arch = "aarch64")]
            Isa::NeonBf16 | Isa::Neon => super::neon::F32,
            _ => super::portable::F32,
        })
    }
}

impl Element for bf16 {
    const PAIR: usize = 2;

    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    #[inline(always)]
    fn lane(of: &[bf16]) -> u32 {
        u32::from(of[0].to_bits()) | u32::from(of[1].to_bits()) << 16
    }

    #[inline(always)]
    fn lanes(first: &[bf16], second: &[bf16], to: &mut [u32]) {
        let to_both = to.iter_mut().zip(first);
        if second.is_empty() {
            to_both.for_each(|(to, x)| *to = u32::from(x.to_bits()));
        } else {
            to_both.zip(second).for_each(|((to, x), y)| *to = Self::lane(&[*x, *y]));
        }
    }

    // `half`'s own conversion branches on NaN; this one is straight-line and vectorises.
    #[inline(always)]
    fn narrow(x: f32) -> Self {
        let bits = x.to_bits();
        let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
        let quiet_nan = (bits >> 16) | 0x40;
        bf16::from_bits(if x.is_nan() { quiet_nan } else { rounded } as u16)
    }

    #[inline(always)]
    fn narrow_positive(x: f32) -> Self {
        bf16::from_bits((x.to_bits().wrapping_add(0x8000) >> 16) as u16)
    }

    #[inline(always)]
    fn exp_of_negative(x: f32) -> f32 {
        vector_math::quick_exp(x)
    }

    #[inline(always)]
    fn silu(x: f32) -> f32 {
        vector_math::quick_silu(x)
    }

    #[inline(always)]
    fn gelu(x: f32) -> f32 {
        vector_math::quick_gelu(x)
    }

    fn kernel(isa: Isa) -> MicrokernelDispatch<Self> {
        MicrokernelDispatch::Registers(match isa {
            // SAFETY: only this crate can pass an `Isa`, and it passes those that it found on this CPU.
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => {
                return MicrokernelDispatch::Tiles(unsafe { TileKernel::of::<super::gemm::amx::Amx>() });
            }
            // SAFETY: the model needs nothing.
            #[cfg(test)]
            Isa::TileModel => {
                return MicrokernelDispatch::Tiles(unsafe {
                    TileKernel::of::<super::gemm::tile_model::Model>()
                });
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 => super::avx512::BF16,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => super::avx512::BF16_WIDENED,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => super::avx2::BF16_WIDENED,
            #[cfg(target_arch = "aarch64")]
            Isa::NeonBf16 => super::neon_bf16::BF16,
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => super::neon::BF16_WIDENED,
            _ => super::portable::BF16_WIDENED,
        })
    }

    #[cfg(target_arch = "x86_64")]
    fn tile_epilogue(isa: Isa) -> TileEpilogueRows<Self> {
        match isa {
            Isa::Amx => gemm::write_rows_bf16,
            _ => gemm::write_rows::<Self>,
        }
    }

    #[cfg(target_arch = "x86_64")]
    fn row_kernels(isa: Isa) -> Option<&'static dyn RowKernels<Self>> {
        matches!(isa, Isa::Avx512Bf16 | Isa::Amx).then_some(&super::avx512_bf16_rows::Bf16Rows)
    }
}

/// The elements of a contiguous CPU tensor, for as long as this guard lives.
pub struct Slice<'a, T> {
    storage: StorageRef<'a>,
    start: usize,
    len: usize,
    element: PhantomData<T>,
}

/// `x` as a slice; an error when `x` is not contiguous, not on the CPU or of another type.
pub fn slice<T: WithDType>(x: &Tensor) -> Result<Slice<'_, T>> {
    let (storage, layout) = x.storage_and_layout();
    let Some((start, end)) = layout.contiguous_offsets() else {
        bail!("expected a contiguous tensor, got {layout:?}");
    };
    let slice = Slice { storage, start, len: end - start, element: PhantomData };
    // Asked once here, so that `deref` cannot fail.
    if slice.whole().is_none_or(|whole| whole.len() < end) {
        bail!("expected {:?} on the CPU, got {:?} on {:?}", T::DTYPE, x.dtype(), x.device());
    }
    Ok(slice)
}

impl<T: WithDType> Slice<'_, T> {
    fn whole(&self) -> Option<&[T]> {
        match &*self.storage {
            Storage::Cpu(storage) => T::cpu_storage_as_slice(storage).ok(),
            _ => None,
        }
    }
}

impl<T: WithDType> Deref for Slice<'_, T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        let whole = self.whole().unwrap_or_default();
        &whole[self.start..self.start + self.len]
    }
}

/// Memory that threads write disjoint parts of. It holds nothing yet: zeros that are overwritten would be written by
/// one thread while the others wait.
pub struct Shared<T>(*mut MaybeUninit<T>);

// SAFETY: the pointer is only followed through the unsafe methods below, whose callers promise that no
// two threads touch the same element.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    pub(super) fn new(first: *mut MaybeUninit<T>) -> Self {
        Self(first)
    }

    /// Disjointness and bounds of what is written through it are the caller's to ensure.
    pub(super) fn as_ptr(&self) -> *mut T {
        self.0.cast()
    }

    /// # Safety
    /// `start..start + len` must lie within the memory, and nobody else may use it meanwhile.
    #[allow(clippy::mut_from_ref)] // Disjointness is the caller's promise.
    pub unsafe fn part(&self, start: usize, len: usize) -> &mut [MaybeUninit<T>] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(start), len) }
    }
}

/// A vector of `len` elements.
///
/// # Safety
/// `write` must write every one of them.
pub unsafe fn fill<T: Element>(len: usize, write: impl FnOnce(&Shared<T>)) -> Vec<T> {
    let mut out = Vec::with_capacity(len);
    write(&Shared(out.spare_capacity_mut().as_mut_ptr()));
    // SAFETY: there is room for `len`, and the caller promises that they were written.
    unsafe { out.set_len(len) };
    out
}
