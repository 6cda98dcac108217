//! Launcher of `implicit_gemm.cu`: linear layers and convolutions in f16 and bf16.

use candle_core::{D, DType, Result, Tensor, bail};

use super::epilogue::activation_number;
use super::launch::Launch;
use crate::cpu::Activation;

const THREADS: usize = 256;
/// Output tiles for which the kernel is compiled, in descending order of arithmetic intensity.
const TILES: [Tile; 3] = [Tile { m: 128, n: 128 }, Tile { m: 128, n: 64 }, Tile { m: 64, n: 64 }];
/// Minimum number of blocks that occupies all multiprocessors of the largest GPUs.
const MIN_BLOCKS: usize = 132;
/// The kernel reads channels 16 bytes at a time, so their number is padded to a multiple of this.
const CHANNEL_ALIGN: usize = 8;
/// Weights packed for GEGLU alternate between this many columns of values and as many of gates.
const GEGLU_INTERLEAVE: usize = 8;

/// Output tile of a block: `m` rows × `n` columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tile {
    m: usize,
    n: usize,
}

/// Packed weights of a linear layer or a convolution.
#[derive(Debug, Clone)]
pub struct GemmWeights {
    /// (out, kernel, kernel, channels), the channels padded with zeros to a multiple of [`CHANNEL_ALIGN`].
    weight: Tensor,
    bias: Option<Tensor>,
    /// Channels without padding.
    channels: usize,
    /// Whether the output columns are interleaved for GEGLU.
    for_geglu: bool,
}

/// Parameters of the implicit im2col: how rows of the GEMM map to patches of the image.
#[derive(Debug, Clone, Copy)]
pub struct Im2col {
    pub stride: usize,
    /// Rows of zero padding above the image.
    pub top: usize,
    /// Columns of zero padding to the left of the image.
    pub left: usize,
    pub out_height: usize,
    pub out_width: usize,
    /// Whether the patches are those of the image upsampled 2× by nearest neighbour.
    pub doubled: bool,
}

impl GemmWeights {
    /// Packs `weight`, (out, channels, kernel, kernel) or (out, channels), and `bias`, (out). `None` if the
    /// kernel does not support their device or dtype.
    pub fn pack(weight: &Tensor, bias: Option<&Tensor>) -> Result<Option<Self>> {
        if !super::supports(weight) || weight.dtype() == DType::F32 || weight.elem_count() == 0 {
            return Ok(None);
        }
        let weight = match weight.rank() {
            2 => weight.unsqueeze(1)?.unsqueeze(1)?,
            _ => weight.permute((0, 2, 3, 1))?,
        };
        let channels = weight.dim(D::Minus1)?;
        let weight = pad_channels(&weight)?.force_contiguous()?;
        let bias = bias.map(|bias| bias.to_dtype(weight.dtype())?.contiguous()).transpose()?;
        Ok(Some(Self { weight, bias, channels, for_geglu: false }))
    }

    /// The same weights, interleaved for [`Activation::Geglu`]. `None` if the number of columns is not a multiple
    /// of 2 × [`GEGLU_INTERLEAVE`].
    pub fn for_geglu(&self) -> Result<Option<Self>> {
        if !self.weight.dim(0)?.is_multiple_of(2 * GEGLU_INTERLEAVE) {
            return Ok(None);
        }
        // (2 halves, groups, 8 columns) → (groups, 2 halves, 8 columns).
        let interleave = |x: &Tensor| {
            let rest = x.elem_count() / x.dim(0)?;
            let groups = x.dim(0)? / (2 * GEGLU_INTERLEAVE);
            let halves = x.reshape((2, groups, GEGLU_INTERLEAVE * rest))?;
            halves.transpose(0, 1)?.force_contiguous()?.reshape(x.shape())
        };
        let (weight, bias) = (interleave(&self.weight)?, self.bias.as_ref().map(interleave).transpose()?);
        Ok(Some(Self { weight, bias, channels: self.channels, for_geglu: true }))
    }

    /// Columns of the GEMM: for GEGLU, twice the columns of the output.
    pub fn columns(&self) -> Result<usize> {
        self.weight.dim(0)
    }

    /// Whether the weights are interleaved for GEGLU, the only activation they then support.
    pub fn is_for_geglu(&self) -> bool {
        self.for_geglu
    }

    /// Weight of a linear layer as a plain matrix, (out, channels), for cuBLAS. `None` if there is a bias, or
    /// if the weight is padded or interleaved.
    pub fn plain_matrix(&self) -> Result<Option<Tensor>> {
        let (out, _, _, padded) = self.weight.dims4()?;
        if self.bias.is_some() || padded != self.channels || self.for_geglu {
            return Ok(None);
        }
        self.weight.reshape((out, padded)).map(Some)
    }

    /// Linear layer: a 1×1 convolution of an image of one row. `x`: (..., channels), not empty → (..., out),
    /// for GEGLU (..., out / 2). `residual`: the shape of the output.
    pub fn apply_linear(
        &self,
        x: &Tensor,
        residual: Option<&Tensor>,
        activation: Activation,
    ) -> Result<Tensor> {
        let channels = x.dim(D::Minus1)?;
        let rows = x.elem_count() / channels;
        let im2col = Im2col { stride: 1, top: 0, left: 0, out_height: 1, out_width: rows, doubled: false };
        let y = self.apply(&x.reshape((1, 1, rows, channels))?, &im2col, residual, activation)?;
        let mut dims = x.dims().to_vec();
        if let Some(last) = dims.last_mut() {
            *last = y.dim(D::Minus1)?;
        }
        y.reshape(dims)
    }

    /// Convolution. `x`: (images, height, width, channels) → (images, out_height, out_width, out), neither
    /// empty. `residual`: as many columns as the output; each of its rows is added to the same number of
    /// consecutive pixels.
    pub fn apply(
        &self,
        x: &Tensor,
        im2col: &Im2col,
        residual: Option<&Tensor>,
        activation: Activation,
    ) -> Result<Tensor> {
        let (images, height, width, channels) = x.dims4()?;
        let (columns, kernel, _, padded_channels) = self.weight.dims4()?;
        let fits = channels == self.channels && x.dtype() == self.weight.dtype();
        if !fits
            || (activation == Activation::Geglu) != self.for_geglu
            || (self.for_geglu && residual.is_some())
        {
            bail!(
                "implicit_gemm: input {:?} {:?}, weight {:?}, {activation:?}",
                x.dtype(),
                x.shape(),
                self.weight
            );
        }
        let x = pad_channels(x)?.contiguous()?;
        // The kernel loads 16 bytes at a time; a view can start at any element of its storage.
        let is_aligned = x.layout().start_offset().is_multiple_of(CHANNEL_ALIGN);
        let x = if is_aligned { x } else { x.force_contiguous()? };
        let residual = residual.map(|residual| residual.to_dtype(x.dtype())?.contiguous()).transpose()?;

        let Im2col { stride, top, left, out_height, out_width, doubled } = *im2col;
        let rows = images * out_height * out_width;
        let residual_rows = residual.as_ref().map_or(rows, |residual| residual.elem_count() / columns);
        if residual_rows == 0 || !rows.is_multiple_of(residual_rows) {
            bail!("implicit_gemm: {rows} rows of {columns} columns, residual {residual:?}");
        }
        let tile = best_tile(rows, columns);
        // Four pipeline stages of 32 channels, in rows padded by eight elements.
        let shared = 4 * (tile.m + tile.n) * (32 + 8) * x.dtype().size_in_bytes();
        let launch = Launch::with_dtype_of("implicit_gemm", "implicit_gemm", &x)
            .tile(tile.m, tile.n)
            .grid([rows.div_ceil(tile.m) * columns.div_ceil(tile.n), 1, 1])
            .block([THREADS, 1, 1])
            .shared(shared)
            .tensor(&x)
            .tensor(&self.weight)
            .optional(self.bias.as_ref())
            .optional(residual.as_ref())
            .output()
            .ints(&[rows, columns, padded_channels, height, width, kernel, stride, top, left])
            .ints(&[out_height, out_width, rows / residual_rows])
            .ints(&[activation_number(activation), usize::from(doubled)]);
        let columns = if self.for_geglu { columns / 2 } else { columns };
        // SAFETY: the tiles cover the output, and the kernel replaces reads outside the image by zeros.
        unsafe { launch.run((images, out_height, out_width, columns), x.dtype(), x.device()) }
    }
}

/// The first tile of [`TILES`] that occupies all multiprocessors and computes at most 1/8 more elements than
/// the smallest tile does; else the smallest.
fn best_tile(rows: usize, columns: usize) -> Tile {
    let blocks = |tile: Tile| rows.div_ceil(tile.m) * columns.div_ceil(tile.n);
    let computed = |tile: Tile| blocks(tile) * tile.m * tile.n;
    let smallest = TILES[TILES.len() - 1];
    let is_good = |&tile: &Tile| {
        blocks(tile) >= MIN_BLOCKS && computed(tile) <= computed(smallest) + computed(smallest) / 8
    };
    TILES.into_iter().find(is_good).unwrap_or(smallest)
}

/// `x`, (..., channels), padded with zero channels to a multiple of [`CHANNEL_ALIGN`].
fn pad_channels(x: &Tensor) -> Result<Tensor> {
    let missing = x.dim(D::Minus1)?.next_multiple_of(CHANNEL_ALIGN) - x.dim(D::Minus1)?;
    if missing == 0 { Ok(x.clone()) } else { x.pad_with_zeros(D::Minus1, 0, missing) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tile_occupies_the_gpu_and_computes_little_outside_the_output() {
        let tile = |rows, columns| {
            let Tile { m, n } = best_tile(rows, columns);
            (m, n)
        };
        assert_eq!(tile(16 * 32 * 32, 320), (128, 64));
        assert_eq!(tile(16 * 32 * 32, 640), (128, 128));
        assert_eq!(tile(16 * 8 * 8, 1280), (128, 64));
        assert_eq!(tile(16 * 4 * 4, 1280), (64, 64));
        assert_eq!(tile(16 * 512 * 512, 3), (128, 64));
        assert_eq!(tile(1, 1), (64, 64));
    }
}
