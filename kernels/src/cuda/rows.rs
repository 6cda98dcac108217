//! Grid and block of the element-wise kernels, whose threads loop over (rows, columns).

use candle_core::{DType, Tensor};

use super::launch::LaunchDims;

/// Minimum rows per thread on a full GPU: a thread reads the bias or scale of its columns once for all its
/// rows.
const ROWS_PER_THREAD: usize = 4;
/// Blocks that fill the largest GPUs: 132 multiprocessors with four blocks each. The number is a constant,
/// not a property of the device, so that sums per block have the same rounding on every GPU.
pub const FILLING_BLOCKS: usize = 528;

/// A tensor (..., columns) as a matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowShape {
    pub rows: usize,
    pub columns: usize,
}

impl RowShape {
    pub fn of(x: &Tensor) -> Self {
        let columns = x.dims().last().copied().unwrap_or(1);
        Self { rows: x.elem_count() / columns.max(1), columns }
    }
}

/// Elements of one vector load: 16 bytes if the columns are a multiple of that, else one element.
fn vector_len(dtype: DType, columns: usize) -> usize {
    let len = 16 / dtype.size_in_bytes().max(1);
    if columns.is_multiple_of(len) { len } else { 1 }
}

/// Block of at most `max_threads`: x runs along the columns, y along the rows. `columns` must not be 0.
pub fn block(dtype: DType, columns: usize, max_threads: usize) -> [usize; 3] {
    let x = (columns / vector_len(dtype, columns)).min(max_threads);
    [x, max_threads / x, 1]
}

/// Grid and block for all elements of `shape`.
pub fn launch_dims(dtype: DType, shape: RowShape, max_threads: usize) -> LaunchDims {
    let block = block(dtype, shape.columns, max_threads);
    // Several rows per thread only if the remaining blocks still fill the GPU.
    let blocks = shape.rows.div_ceil(block[1]);
    let blocks = blocks.min((blocks / ROWS_PER_THREAD).max(FILLING_BLOCKS));
    LaunchDims { grid: [blocks, 1, 1], block }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_cover_a_row_and_use_their_threads() {
        assert_eq!(block(DType::BF16, 320, 256), [40, 6, 1]);
        assert_eq!(block(DType::F32, 320, 256), [80, 3, 1]);
        assert_eq!(block(DType::F16, 13, 512), [13, 39, 1]);
        assert_eq!(block(DType::F32, 2561, 512), [512, 1, 1]);
        let dims = launch_dims(DType::BF16, RowShape { rows: 7, columns: 320 }, 256);
        assert_eq!((dims.grid, dims.block), ([2, 1, 1], [40, 6, 1]));
        let large = RowShape { rows: 600_000, columns: 320 };
        assert_eq!(launch_dims(DType::BF16, large, 256).grid, [25_000, 1, 1]);
    }
}
