//! The launcher of `product.cu`: linear layers and convolutions of f16 and bf16.

use candle_core::{D, DType, Result, Tensor, bail};

use super::epilogue::Then;
use super::launch::Launch;

const THREADS: usize = 256;
/// Rows and columns of the tiles that the kernels are compiled for, the most work per byte first.
const TILES: [(usize, usize); 3] = [(128, 128), (128, 64), (64, 64)];
/// Fewer blocks leave multiprocessors of the largest GPUs without work.
const ENOUGH_BLOCKS: usize = 132;
/// Channels are read 16 bytes at a time.
const CHANNELS: usize = 8;
/// Columns of values that lie together, before those of their gates.
const GATES: usize = 8;

/// The weights of a linear layer or a convolution, as the kernel reads them.
#[derive(Debug, Clone)]
pub struct Weights {
    /// (out, kernel, kernel, channels), with zeros up to whole groups of channels.
    weight: Tensor,
    bias: Option<Tensor>,
    channels: usize,
    /// Rows of values and of gates alternate.
    for_geglu: bool,
}

/// Which patches of an image a convolution takes.
#[derive(Debug, Clone, Copy)]
pub struct Patches {
    pub stride: usize,
    /// Zeros above and to the left.
    pub top: usize,
    pub left: usize,
    pub out_height: usize,
    pub out_width: usize,
    /// Of the image doubled by nearest neighbour.
    pub doubled: bool,
}

impl Weights {
    /// `weight`: (out, channels, kernel, kernel) or (out, channels); `bias`: (out). `None` where there is no kernel
    /// for it.
    pub fn pack(weight: &Tensor, bias: Option<&Tensor>) -> Result<Option<Self>> {
        if !super::takes(weight) || weight.dtype() == DType::F32 || weight.elem_count() == 0 {
            return Ok(None);
        }
        let weight = match weight.rank() {
            2 => weight.unsqueeze(1)?.unsqueeze(1)?,
            _ => weight.permute((0, 2, 3, 1))?,
        };
        let channels = weight.dim(D::Minus1)?;
        let weight = pad(&weight)?.force_contiguous()?;
        let bias = bias.map(|bias| bias.to_dtype(weight.dtype())?.contiguous()).transpose()?;
        Ok(Some(Self { weight, bias, channels, for_geglu: false }))
    }

    /// The same for [`Then::Geglu`]; `None` where the kernel cannot pair the columns.
    pub fn for_geglu(&self) -> Result<Option<Self>> {
        if !self.weight.dim(0)?.is_multiple_of(2 * GATES) {
            return Ok(None);
        }
        // Halves of groups of eight rows → groups, each of both halves.
        let pair = |x: &Tensor| {
            let rest = x.elem_count() / x.dim(0)?;
            let groups = x.dim(0)? / (2 * GATES);
            let paired = x.reshape((2, groups, GATES * rest))?.transpose(0, 1)?.force_contiguous()?;
            paired.reshape(x.shape())
        };
        let (weight, bias) = (pair(&self.weight)?, self.bias.as_ref().map(pair).transpose()?);
        Ok(Some(Self { weight, bias, channels: self.channels, for_geglu: true }))
    }

    /// Of the product: twice those of the result, for GEGLU.
    pub fn columns(&self) -> Result<usize> {
        self.weight.dim(0)
    }

    /// Whether [`Then::Geglu`] is what they are for, and nothing else.
    pub fn is_for_geglu(&self) -> bool {
        self.for_geglu
    }

    /// The weight of a linear layer, (out, channels), for a product without anything after it; `None` where it has
    /// a bias, was padded, or is in another order.
    pub fn matrix(&self) -> Result<Option<Tensor>> {
        let (out, _, _, padded) = self.weight.dims4()?;
        if self.bias.is_some() || padded != self.channels || self.for_geglu {
            return Ok(None);
        }
        self.weight.reshape((out, padded)).map(Some)
    }

    /// A linear layer. `x`: (..., channels), not empty → (..., out), for GEGLU half of it. `residual`: as the result.
    pub fn apply_to_rows(&self, x: &Tensor, residual: Option<&Tensor>, then: Then) -> Result<Tensor> {
        let channels = x.dim(D::Minus1)?;
        let rows = x.elem_count() / channels;
        let row = Patches { stride: 1, top: 0, left: 0, out_height: 1, out_width: rows, doubled: false };
        let y = self.apply(&x.reshape((1, 1, rows, channels))?, &row, residual, then)?;
        let mut dims = x.dims().to_vec();
        if let Some(last) = dims.last_mut() {
            *last = y.dim(D::Minus1)?;
        }
        y.reshape(dims)
    }

    /// `x`: (images, height, width, channels) → (images, out_height, out_width, out), neither of them empty.
    /// `residual`: as wide as the result; each of its rows goes to equally many consecutive pixels.
    pub fn apply(&self, x: &Tensor, of: &Patches, residual: Option<&Tensor>, then: Then) -> Result<Tensor> {
        let (images, height, width, channels) = x.dims4()?;
        let (columns, kernel, _, padded) = self.weight.dims4()?;
        let fits = channels == self.channels && x.dtype() == self.weight.dtype();
        if !fits || (then == Then::Geglu) != self.for_geglu || (self.for_geglu && residual.is_some()) {
            bail!("product: input {:?} {:?}, weight {:?}, {then:?}", x.dtype(), x.shape(), self.weight);
        }
        let x = pad(x)?.contiguous()?;
        // A tensor can begin anywhere within another's memory.
        let x = if x.layout().start_offset().is_multiple_of(CHANNELS) { x } else { x.force_contiguous()? };
        let residual = residual.map(|residual| residual.to_dtype(x.dtype())?.contiguous()).transpose()?;

        let rows = images * of.out_height * of.out_width;
        let residual_rows = residual.as_ref().map_or(rows, |residual| residual.elem_count() / columns);
        if residual_rows == 0 || !rows.is_multiple_of(residual_rows) {
            bail!("product: {rows} rows of {columns}, residual {residual:?}");
        }
        let tile = tile(rows, columns);
        // Four steps of 32 channels, in rows of eight more.
        let shared = 4 * (tile.0 + tile.1) * (32 + 8) * x.dtype().size_in_bytes();
        let launch = Launch::of_dtype("product", "product", &x)
            .tile(tile.0, tile.1)
            .grid([rows.div_ceil(tile.0) * columns.div_ceil(tile.1), 1, 1])
            .block([THREADS, 1, 1])
            .shared(shared)
            .tensor(&x)
            .tensor(&self.weight)
            .optional(self.bias.as_ref())
            .optional(residual.as_ref())
            .output()
            .ints(&[rows, columns, padded, height, width, kernel, of.stride, of.top, of.left])
            .ints(&[of.out_height, of.out_width, rows / residual_rows])
            .ints(&[then.number(), usize::from(of.doubled)]);
        let columns = if self.for_geglu { columns / 2 } else { columns };
        // SAFETY: the tiles cover the result, and the kernel reads zeros where a patch is beyond the image.
        unsafe { launch.run((images, of.out_height, of.out_width, columns), x.dtype(), x.device()) }
    }
}

/// The largest tile that leaves no multiprocessor idle and wastes little beyond the result's edge.
fn tile(rows: usize, columns: usize) -> (usize, usize) {
    let blocks = |(high, wide): (usize, usize)| rows.div_ceil(high) * columns.div_ceil(wide);
    let covered = |tile: (usize, usize)| blocks(tile) * tile.0 * tile.1;
    let smallest = TILES[TILES.len() - 1];
    let is_good = |&tile: &(usize, usize)| {
        blocks(tile) >= ENOUGH_BLOCKS && covered(tile) <= covered(smallest) + covered(smallest) / 8
    };
    TILES.into_iter().find(is_good).unwrap_or(smallest)
}

/// With zeros up to whole groups of channels.
fn pad(x: &Tensor) -> Result<Tensor> {
    let missing = x.dim(D::Minus1)?.next_multiple_of(CHANNELS) - x.dim(D::Minus1)?;
    if missing == 0 { Ok(x.clone()) } else { x.pad_with_zeros(D::Minus1, 0, missing) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_fill_the_gpu_and_waste_little() {
        assert_eq!(tile(16 * 32 * 32, 320), (128, 64));
        assert_eq!(tile(16 * 32 * 32, 640), (128, 128));
        assert_eq!(tile(16 * 8 * 8, 1280), (128, 64));
        assert_eq!(tile(16 * 4 * 4, 1280), (64, 64));
        assert_eq!(tile(16 * 512 * 512, 3), (128, 64));
        assert_eq!(tile(1, 1), (64, 64));
    }
}
