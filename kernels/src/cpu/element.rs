//! The types that the CPU versions compute on, and the way from tensors to slices and back.

use std::marker::PhantomData;
use std::ops::Deref;

use candle_core::{Result, Storage, StorageRef, Tensor, WithDType, bail};
use half::bf16;
use half::vec::HalfBitsVecExt;

use super::Isa;
use super::microkernel::Microkernel;

/// A type of tensor elements. Sums are in f32 whatever the element.
pub trait Element: WithDType + Default {
    /// Neighbours along the summed dimension that are packed together: what one 32-bit lane holds.
    const PAIR: usize;

    fn widen(self) -> f32;

    /// To the nearest, ties to even.
    fn narrow(x: f32) -> Self;

    /// Zeros that cost nothing where the memory is fresh: the system hands it out zeroed.
    fn zeros(len: usize) -> Vec<Self>;

    /// The matrix product's innermost piece for an instruction set.
    fn microkernel(isa: Isa) -> Microkernel<Self>;
}

impl Element for f32 {
    const PAIR: usize = 1;

    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }

    #[inline(always)]
    fn narrow(x: f32) -> Self {
        x
    }

    fn zeros(len: usize) -> Vec<Self> {
        vec![0.; len]
    }

    fn microkernel(isa: Isa) -> Microkernel<Self> {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Avx512Bf16 => super::avx512::F32,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => super::avx2::F32,
            _ => super::portable::F32,
        }
    }
}

impl Element for bf16 {
    const PAIR: usize = 2;

    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    // `half`'s own conversion branches on NaN; this one is straight-line and vectorises.
    #[inline(always)]
    fn narrow(x: f32) -> Self {
        let bits = x.to_bits();
        let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
        let quiet_nan = (bits >> 16) | 0x40;
        bf16::from_bits(if x.is_nan() { quiet_nan } else { rounded } as u16)
    }

    // Of integers, since only for the language's own types are the zeros not written one by one.
    fn zeros(len: usize) -> Vec<Self> {
        vec![0u16; len].reinterpret_into()
    }

    fn microkernel(isa: Isa) -> Microkernel<Self> {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 => super::avx512::BF16,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => super::avx512::BF16_WIDENED,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => super::avx2::BF16_WIDENED,
            _ => super::portable::BF16_WIDENED,
        }
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

/// Memory that threads write disjoint parts of.
pub struct Shared<T>(*mut T);

// SAFETY: the pointer is only followed through the unsafe methods below, whose callers promise that no
// two threads touch the same element.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// # Safety
    /// `start..start + len` must lie within the memory, and nobody else may use it meanwhile.
    #[allow(clippy::mut_from_ref)] // Disjointness is the caller's promise.
    pub unsafe fn part(&self, start: usize, len: usize) -> &mut [T] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(start), len) }
    }
}

/// A vector of `len` elements, zeros where `write` leaves them.
pub fn fill<T: Element>(len: usize, write: impl FnOnce(&Shared<T>)) -> Vec<T> {
    let mut out = T::zeros(len);
    write(&Shared(out.as_mut_ptr()));
    out
}
