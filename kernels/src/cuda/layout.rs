//! Launchers of `layout.cu`.

use candle_core::{D, Result, Tensor};

use super::launch::Launch;
use super::rows::{self, RowShape};

const THREADS: usize = 256;

/// 2× nearest-neighbour upsampling. `x`: (images, height, width, channels), not empty →
/// (images, 2 × height, 2 × width, channels).
pub fn upsample(x: &Tensor) -> Result<Tensor> {
    let x = x.contiguous()?;
    let (images, height, width, channels) = x.dims4()?;
    let launch = Launch::with_dtype_of("layout", "upsample", &x)
        .dims(rows::launch_dims(x.dtype(), RowShape::of(&x), THREADS))
        .tensor(&x)
        .output()
        .ints(&[images, height, width, channels]);
    // SAFETY: the threads cover all pixels of `x`, and each is written to its four output pixels.
    unsafe { launch.run((images, 2 * height, 2 * width, channels), x.dtype(), x.device()) }
}

/// Concatenation of `a`, (..., m), and `b`, (..., n), along the last dimension → (..., m + n). Neither is
/// empty, and the other dimensions are equal.
pub fn join_channels(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (a, b) = (a.contiguous()?, b.contiguous()?);
    let (RowShape { rows, columns: left }, right) = (RowShape::of(&a), b.dim(D::Minus1)?);
    let mut dims = a.dims().to_vec();
    if let Some(last) = dims.last_mut() {
        *last = left + right;
    }
    let launch = Launch::with_dtype_of("layout", "join", &a)
        .dims(rows::launch_dims(a.dtype(), RowShape { rows, columns: left + right }, THREADS))
        .tensor(&a)
        .tensor(&b)
        .output()
        .ints(&[rows, left, right]);
    // SAFETY: the threads cover all rows and columns of the output.
    unsafe { launch.run(dims, a.dtype(), a.device()) }
}
