//! Matrix products by tiles: registers of sixteen rows of 64 bytes, and one instruction that multiplies two of
//! them. The loops are written once over [`Tiles`]; AMX is the one kind of tiles that exists, and a model of it
//! in plain Rust lets the loops be tested on machines without.

use std::marker::PhantomData;

/// Rows of a tile.
pub const ROWS: usize = 16;
/// Bytes in a row of a tile: 32 bf16 of the summed dimension, or 16 sums.
pub const ROW_BYTES: usize = 64;
/// bf16 of the summed dimension in a tile.
pub const DEPTH: usize = ROW_BYTES / 2;
/// Tiles of rows, and groups of columns, that a piece has at most: their four sums and four operands fill the
/// eight tiles.
pub const SIDE: usize = 2;

/// The tile registers, by their numbers.
///
/// Safety of all methods: the machine has such tiles and the process may use them; all but `configure` need
/// [`Self::configure`] before them on the same thread, and pointers must be good for sixteen rows of 64 bytes,
/// `stride` bytes apart.
pub trait Tiles {
    /// All eight tiles with sixteen rows of 64 bytes.
    unsafe fn configure();
    /// Gives the registers back: a thread that keeps them makes every switch to another one slower.
    unsafe fn release();
    unsafe fn zero<const TILE: usize>();
    unsafe fn load<const TILE: usize>(from: *const u8, stride: usize);
    unsafe fn store<const TILE: usize>(to: *mut u8, stride: usize);
    /// To the sum in the f32 tile `SUM` the products of `LEFT`'s bf16 pairs (row by pair) and `RIGHT`'s (pair by
    /// column).
    unsafe fn dot<const SUM: usize, const LEFT: usize, const RIGHT: usize>();
}

/// What is multiplied: up to [`SIDE`] tiles of rows times up to [`SIDE`] groups of packed columns.
pub struct Piece<T> {
    pub left: Left<T>,
    /// Tiles along the summed dimension.
    pub steps: usize,
    /// The first line of the first group of columns, and the elements from a group to the next.
    pub columns: *const T,
    pub group_stride: usize,
    /// Where the sums go: row-major, `sums_stride` elements from row to row.
    pub sums: *mut f32,
    pub sums_stride: usize,
    /// Add to what is there, instead of overwriting it.
    pub accumulate: bool,
}

/// Where the left-hand tiles are; distances in elements.
pub struct Left<T> {
    pub first: *const T,
    /// From a row to the next within a tile.
    pub row: usize,
    /// From a tile of rows to the next.
    pub tile: usize,
    /// From a tile to the next along the summed dimension.
    pub step: usize,
}

/// A kind of tiles, as functions.
#[derive(Clone, Copy)]
pub struct TileKernel<T> {
    run: unsafe fn(usize, usize, &Piece<T>),
    configure: unsafe fn(),
    release: unsafe fn(),
}

impl<T> TileKernel<T> {
    /// # Safety
    /// The machine has these tiles and the process may use them.
    pub const unsafe fn of<X: Tiles>() -> Self {
        Self { run: run::<X, T>, configure: X::configure, release: X::release }
    }

    /// Takes the tile registers of this thread until the guard is dropped.
    pub fn start(self) -> Started<T> {
        // SAFETY: of `of`.
        unsafe { (self.configure)() };
        Started { kernel: self, of_this_thread: PhantomData }
    }
}

/// The right to run pieces on this thread.
pub struct Started<T> {
    kernel: TileKernel<T>,
    of_this_thread: PhantomData<*const T>,
}

impl<T> Started<T> {
    /// # Safety
    /// `rows` and `groups` are 1 to [`SIDE`]. `piece` must have that many tiles of rows and groups of columns,
    /// `steps` tiles deep each, and sums for all their sixteen rows and columns, exclusively. `T` is bf16.
    pub unsafe fn run(&self, rows: usize, groups: usize, piece: &Piece<T>) {
        // SAFETY: the tiles are configured, the rest is the caller's promise.
        unsafe { (self.kernel.run)(rows, groups, piece) }
    }
}

impl<T> Drop for Started<T> {
    fn drop(&mut self) {
        // SAFETY: configured by `start`, on this thread: a guard cannot be sent to another.
        unsafe { (self.kernel.release)() }
    }
}

/// # Safety
/// As for [`Started::run`].
unsafe fn run<X: Tiles, T>(rows: usize, groups: usize, piece: &Piece<T>) {
    // SAFETY: the caller's promise.
    unsafe {
        match (rows, groups) {
            (2, 2) => run_sized::<X, T, 2, 2>(piece),
            (2, 1) => run_sized::<X, T, 2, 1>(piece),
            (1, 2) => run_sized::<X, T, 1, 2>(piece),
            (1, 1) => run_sized::<X, T, 1, 1>(piece),
            _ => unreachable!("tiles were given {rows} by {groups}"),
        }
    }
}

/// Sums in the tiles 0 to 3 (row by row), rows in 4 and 5, columns in 6 and 7.
///
/// # Safety
/// As for [`Started::run`].
#[inline(always)]
unsafe fn run_sized<X: Tiles, T, const R: usize, const G: usize>(piece: &Piece<T>) {
    let element = size_of::<T>();
    let sums_stride = piece.sums_stride * size_of::<f32>();
    let sum = |row: usize, group: usize| {
        let at = row * ROWS * sums_stride + group * ROW_BYTES;
        piece.sums.cast::<u8>().wrapping_add(at)
    };
    let left_stride = piece.left.row * element;
    let mut left = piece.left.first.cast::<u8>();
    let mut right = piece.columns.cast::<u8>();
    let (next_rows, next_group) = (piece.left.tile * element, piece.group_stride * element);
    // SAFETY: the caller's promise: all addresses are of whole tiles within what `piece` describes; the last
    // advance of `left` and `right` is wrapping, as nothing is read there.
    unsafe {
        if piece.accumulate {
            X::load::<0>(sum(0, 0), sums_stride);
            if G > 1 {
                X::load::<1>(sum(0, 1), sums_stride);
            }
            if R > 1 {
                X::load::<2>(sum(1, 0), sums_stride);
            }
            if R > 1 && G > 1 {
                X::load::<3>(sum(1, 1), sums_stride);
            }
        } else {
            X::zero::<0>();
            X::zero::<1>();
            X::zero::<2>();
            X::zero::<3>();
        }
        for _ in 0..piece.steps {
            X::load::<4>(left, left_stride);
            X::load::<6>(right, ROW_BYTES);
            X::dot::<0, 4, 6>();
            if G > 1 {
                X::load::<7>(right.add(next_group), ROW_BYTES);
                X::dot::<1, 4, 7>();
            }
            if R > 1 {
                X::load::<5>(left.add(next_rows), left_stride);
                X::dot::<2, 5, 6>();
            }
            if R > 1 && G > 1 {
                X::dot::<3, 5, 7>();
            }
            left = left.wrapping_add(piece.left.step * element);
            right = right.wrapping_add(ROWS * ROW_BYTES);
        }
        X::store::<0>(sum(0, 0), sums_stride);
        if G > 1 {
            X::store::<1>(sum(0, 1), sums_stride);
        }
        if R > 1 {
            X::store::<2>(sum(1, 0), sums_stride);
        }
        if R > 1 && G > 1 {
            X::store::<3>(sum(1, 1), sums_stride);
        }
    }
}
