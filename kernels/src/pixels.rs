//! Types that the image operations share: rectangles, resampling weights, pixels as slices.

use candle_core::{Result, Storage, Tensor, WithDType, bail};

/// A rectangle of whole pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rect {
    pub x: usize,
    pub y: usize,
    pub width: usize,
    pub height: usize,
}

impl Rect {
    /// The part of a (height, width, ...) tensor that lies in this rectangle.
    pub fn of(&self, x: &Tensor) -> Result<Tensor> {
        x.narrow(0, self.y, self.height)?.narrow(1, self.x, self.width)
    }
}

/// Which source samples make an output sample, and how much each counts.
pub(crate) struct Taps<W> {
    /// In order; of the bicubic kernel, neighbours.
    pub indices: Vec<usize>,
    pub weights: Vec<W>,
}

/// Calls `f` with the elements of a CPU tensor in row-major order.
pub(crate) fn with_slice<T: WithDType, R>(x: &Tensor, f: impl FnOnce(&[T]) -> Result<R>) -> Result<R> {
    let x = x.contiguous()?;
    let (storage, layout) = x.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else {
        bail!("expected a tensor on the CPU, got {:?}", x.device());
    };
    let start = layout.start_offset();
    f(&storage.as_slice::<T>()?[start..start + layout.shape().elem_count()])
}

#[cfg(test)]
pub(crate) mod testing {
    use candle_core::{DType, Device, Result, Shape, Tensor};

    /// Values in 0..1 that look random and are the same on every run.
    pub fn random(shape: impl Into<Shape>) -> Result<Tensor> {
        let shape = shape.into();
        let mut state = 0x9E37_79B9_u32;
        let values: Vec<f32> = (0..shape.elem_count())
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1u32 << 24) as f32
            })
            .collect();
        Tensor::from_vec(values, shape, &Device::Cpu)
    }

    pub fn max_difference(a: &Tensor, b: &Tensor) -> Result<f64> {
        assert_eq!(a.dims(), b.dims());
        let (a, b) = (a.to_dtype(DType::F64)?, b.to_dtype(DType::F64)?);
        (a - b)?.abs()?.max_all()?.to_scalar::<f64>()
    }
}
