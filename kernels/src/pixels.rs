//! Types that the image operations share: rectangles and resampling taps.

use candle_core::{Result, Tensor};

/// Rectangle in whole pixels; `x`, `y` is the top left corner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rect {
    pub x: usize,
    pub y: usize,
    pub width: usize,
    pub height: usize,
}

impl Rect {
    /// View of the pixels of `x`, (height, width, ...), inside this rectangle.
    pub fn of(&self, x: &Tensor) -> Result<Tensor> {
        x.narrow(0, self.y, self.height)?.narrow(1, self.x, self.width)
    }
}

/// Taps of one output row or column: the source indices and their weights.
pub(crate) struct Taps<W> {
    /// In ascending order; consecutive for the bicubic kernel.
    pub indices: Vec<usize>,
    pub weights: Vec<W>,
}

#[cfg(test)]
pub(crate) mod testing {
    use candle_core::{DType, Device, Result, Shape, Tensor};

    /// Pseudo-random values in 0..1 from a fixed seed.
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
