//! Launchers of the kernels in `faces/`. Images are contiguous, not empty and of the types that the fronts name.

use candle_core::{DType, Result, Tensor};

use super::launch::Launch;
use crate::pixels::{Rect, Taps};

/// A thread per pixel, in tiles of 32 × 8.
const TILE: [usize; 3] = [32, 8, 1];

fn launch<'a>(module: &'static str, name: &'static str, height: usize, width: usize) -> Launch<'a> {
    let grid = [width.div_ceil(TILE[0]), height.div_ceil(TILE[1]), 1];
    Launch::new(module, name).grid(grid).block(TILE)
}

/// `source`: (height, width, channels), u8 or f32; `inverse`: destination to source.
pub fn warp_affine(source: &Tensor, inverse: &[[f64; 3]; 2], window: Rect, fill: f32) -> Result<Tensor> {
    let source = source.contiguous()?;
    let (height, width, channels) = source.dims3()?;
    let launch = launch("warp_affine", "warp_affine", window.height, window.width)
        .dtype(source.dtype())
        .tensor(&source)
        .output()
        .doubles(inverse.as_flattened().iter().copied())
        .ints(&[height, width, channels, window.x, window.y, window.height, window.width])
        .float(fill);
    // SAFETY: the tiles cover the window.
    unsafe { launch.run((window.height, window.width, channels), DType::F32, source.device()) }
}

/// As above.
pub fn warp_coverage(source: &Tensor, inverse: &[[f64; 3]; 2], window: Rect) -> Result<Tensor> {
    let (height, width, _) = source.dims3()?;
    let launch = launch("warp_affine", "warp_coverage", window.height, window.width)
        .output()
        .doubles(inverse.as_flattened().iter().copied())
        .ints(&[height, width, window.x, window.y, window.height, window.width]);
    // SAFETY: the tiles cover the window.
    unsafe { launch.run((window.height, window.width), DType::F32, source.device()) }
}

/// `image`: (height, width, channels), u8; a row or column of the new image for each of `rows` and `columns`.
pub fn resize_lanczos4(image: &Tensor, rows: &[Taps<i32>], columns: &[Taps<i32>]) -> Result<Tensor> {
    let image = image.contiguous()?;
    let (_, width, channels) = image.dims3()?;
    // Eight indices, then their weights.
    let table = |taps: &[Taps<i32>]| {
        let lines = taps
            .iter()
            .flat_map(|taps| taps.indices.iter().map(|&at| at as i32).chain(taps.weights.iter().copied()));
        Tensor::from_iter(lines, image.device())
    };
    let (height, new_width) = (rows.len(), columns.len());
    let (rows, columns) = (table(rows)?, table(columns)?);
    let launch = launch("resize", "resize_lanczos4", height, new_width)
        .tensor(&image)
        .tensor(&rows)
        .tensor(&columns)
        .output()
        .ints(&[width, channels, height, new_width]);
    // SAFETY: the tiles cover the new image, and the indices are within the old one.
    unsafe { launch.run((height, new_width, channels), DType::U8, image.device()) }
}

/// `image`: (height, width, channels), f32; as above.
pub fn resize_bicubic(image: &Tensor, rows: &[Taps<f32>], columns: &[Taps<f32>]) -> Result<Tensor> {
    let image = image.contiguous()?;
    let (_, width, channels) = image.dims3()?;
    let most = |taps: &[Taps<f32>]| taps.iter().map(|taps| taps.weights.len()).max().unwrap_or(0);
    // The first sample and how many, then the weights with zeros after them.
    let tables = |taps: &[Taps<f32>]| -> Result<(Tensor, Tensor)> {
        let most = most(taps);
        let runs = taps.iter().flat_map(|taps| [taps.indices[0] as i32, taps.indices.len() as i32]);
        let weights =
            taps.iter().flat_map(|taps| (0..most).map(|i| taps.weights.get(i).copied().unwrap_or(0.)));
        Ok((Tensor::from_iter(runs, image.device())?, Tensor::from_iter(weights, image.device())?))
    };
    let (height, new_width, row_taps, column_taps) = (rows.len(), columns.len(), most(rows), most(columns));
    let ((rows, row_weights), (columns, column_weights)) = (tables(rows)?, tables(columns)?);
    let launch = launch("resize", "resize_bicubic", height, new_width)
        .tensor(&image)
        .tensor(&rows)
        .tensor(&row_weights)
        .tensor(&columns)
        .tensor(&column_weights)
        .output()
        .ints(&[width, channels, height, new_width, row_taps, column_taps]);
    // SAFETY: as above.
    unsafe { launch.run((height, new_width, channels), DType::F32, image.device()) }
}

/// `image`: (height, width), f32.
pub fn erode(image: &Tensor, size: usize) -> Result<Tensor> {
    let (height, width) = image.dims2()?;
    let pass = |image: &Tensor, is_vertical: bool| {
        let launch = launch("masks", "erode", height, width);
        let launch = launch.tensor(image).output().ints(&[height, width, size, usize::from(is_vertical)]);
        // SAFETY: the tiles cover the image.
        unsafe { launch.run((height, width), DType::F32, image.device()) }
    };
    pass(&pass(&image.contiguous()?, false)?, true)
}

/// `image`: (height, width), f32; `kernel`: an odd number of weights.
pub fn gaussian_blur(image: &Tensor, kernel: &[f32]) -> Result<Tensor> {
    let (height, width) = image.dims2()?;
    let weights = Tensor::new(kernel, image.device())?;
    let pass = |image: &Tensor, is_vertical: bool| {
        let sizes = [height, width, kernel.len(), usize::from(is_vertical)];
        let launch = launch("masks", "gaussian_blur", height, width);
        let launch = launch.tensor(image).tensor(&weights).output().ints(&sizes);
        // SAFETY: the tiles cover the image.
        unsafe { launch.run((height, width), DType::F32, image.device()) }
    };
    pass(&pass(&image.contiguous()?, false)?, true)
}

/// `frame`: (height, width, 3), u8; `face`: (height, width, 3), f32; `face_mask` and `weight`: (height, width), f32.
pub fn blend(frame: &Tensor, face: &Tensor, face_mask: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let (height, width, channels) = frame.dims3()?;
    let (frame, face) = (frame.contiguous()?, face.contiguous()?);
    let (mask, weight) = (face_mask.contiguous()?, weight.contiguous()?);
    let launch = launch("blend", "blend", height, width)
        .tensor(&frame)
        .tensor(&face)
        .tensor(&mask)
        .tensor(&weight)
        .output()
        .ints(&[height, width]);
    // SAFETY: the tiles cover the frame, which has three channels.
    unsafe { launch.run((height, width, channels), DType::U8, frame.device()) }
}
