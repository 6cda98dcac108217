//! Launchers of `layout.cu`.

use candle_core::{D, Result, Tensor};

use super::launch::Launch;
use super::rows;

const THREADS: usize = 256;

/// Nearest-neighbour enlargement. `x`: (images, height, width, channels), not empty → (images, 2 × height,
/// 2 × width, channels).
pub fn upsample(x: &Tensor) -> Result<Tensor> {
    let x = x.contiguous()?;
    let (images, height, width, channels) = x.dims4()?;
    let (grid, block) = rows::geometry(x.dtype(), rows::dims(&x), THREADS);
    let launch = Launch::of_dtype("layout", "upsample", &x)
        .grid(grid)
        .block(block)
        .tensor(&x)
        .output()
        .ints(&[images, height, width, channels]);
    // SAFETY: every pixel is written to its four places.
    unsafe { launch.run((images, 2 * height, 2 * width, channels), x.dtype(), x.device()) }
}

/// `a`: (..., m), `b`: (..., n), not empty, alike but for the last dimension → (..., m + n).
pub fn join_channels(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (a, b) = (a.contiguous()?, b.contiguous()?);
    let ((rows, left), right) = (rows::dims(&a), b.dim(D::Minus1)?);
    let (grid, block) = rows::geometry(a.dtype(), (rows, left + right), THREADS);
    let mut dims = a.dims().to_vec();
    if let Some(last) = dims.last_mut() {
        *last = left + right;
    }
    let launch = Launch::of_dtype("layout", "join", &a)
        .grid(grid)
        .block(block)
        .tensor(&a)
        .tensor(&b)
        .output()
        .ints(&[rows, left, right]);
    // SAFETY: the blocks walk over all rows and columns.
    unsafe { launch.run(dims, a.dtype(), a.device()) }
}
