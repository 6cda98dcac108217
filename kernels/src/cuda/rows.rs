//! The geometry of the kernels that walk over (rows, columns).

use candle_core::{DType, Tensor};

/// Rows that a thread takes, so that it reads what belongs to its columns more seldom than the columns.
const ROWS_PER_THREAD: usize = 4;
/// Enough for four blocks on each multiprocessor of the largest GPUs. A constant, so that sums which are taken
/// block by block come out alike everywhere.
pub const FILLING_BLOCKS: usize = 528;

/// Elements that a thread reads at a time: 16 bytes where the columns allow.
fn pack(dtype: DType, columns: usize) -> usize {
    let pack = 16 / dtype.size_in_bytes().max(1);
    if columns.is_multiple_of(pack) { pack } else { 1 }
}

/// Threads along the columns and along the rows, `threads` at most; `columns` is not 0.
pub fn block(dtype: DType, columns: usize, threads: usize) -> [usize; 3] {
    let wide = (columns / pack(dtype, columns)).min(threads);
    [wide, threads / wide, 1]
}

/// Blocks for `rows`, and the block.
pub fn geometry(dtype: DType, (rows, columns): (usize, usize), threads: usize) -> ([usize; 3], [usize; 3]) {
    let block = block(dtype, columns, threads);
    // A few rows per thread only where the GPU is filled anyway.
    let blocks = rows.div_ceil(block[1]);
    let blocks = blocks.min((blocks / ROWS_PER_THREAD).max(FILLING_BLOCKS));
    ([blocks, 1, 1], block)
}

/// (rows, columns) of (..., columns).
pub fn dims(x: &Tensor) -> (usize, usize) {
    let columns = x.dims().last().copied().unwrap_or(1);
    (x.elem_count() / columns.max(1), columns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_cover_a_row_and_fill_their_threads() {
        assert_eq!(block(DType::BF16, 320, 256), [40, 6, 1]);
        assert_eq!(block(DType::F32, 320, 256), [80, 3, 1]);
        assert_eq!(block(DType::F16, 13, 512), [13, 39, 1]);
        assert_eq!(block(DType::F32, 2561, 512), [512, 1, 1]);
        assert_eq!(geometry(DType::BF16, (7, 320), 256), ([2, 1, 1], [40, 6, 1]));
        assert_eq!(geometry(DType::BF16, (600_000, 320), 256).0, [25_000, 1, 1]);
    }
}
