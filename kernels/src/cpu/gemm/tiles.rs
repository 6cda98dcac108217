//! Micro-kernel over tile registers: sixteen rows of 64 bytes each, and one instruction that multiplies two tiles.
//!
//! The loops are written once over [`Tiles`]. AMX is the only implementation in hardware; a software model of it
//! (`tile_model.rs`) lets the loops be tested on machines without AMX.

use std::marker::PhantomData;

/// Rows of a tile.
pub const ROWS: usize = 16;
/// Bytes in a row of a tile: 32 bf16 of the summed dimension, or 16 f32 sums.
pub const ROW_BYTES: usize = 64;
/// bf16 of the summed dimension in a tile.
pub const DEPTH: usize = ROW_BYTES / 2;
/// Tiles of rows and groups of columns in a micro-tile: four sums and four operands fill the eight registers.
pub const SIDE: usize = 2;
/// Rows of a micro-tile, and its columns.
pub const MR: usize = SIDE * ROWS;

/// The tile registers, addressed by number.
///
/// Safety of all methods: the CPU has such tiles and the process may use them; all but `configure` need
/// [`Self::configure`] before them on the same thread; pointers must be valid for sixteen rows of 64 bytes,
/// `stride` bytes apart.
pub trait Tiles {
    /// All eight tiles with sixteen rows of 64 bytes.
    unsafe fn configure();
    /// Frees the registers: a thread that keeps them makes every context switch slower.
    unsafe fn release();
    unsafe fn zero<const TILE: usize>();
    unsafe fn load<const TILE: usize>(from: *const u8, stride: usize);
    /// [`Self::load`] of sixteen contiguous lines that are not reused soon, so that they need not stay in L1.
    unsafe fn load_streamed<const TILE: usize>(from: *const u8) {
        // SAFETY: the caller's promise.
        unsafe { Self::load::<TILE>(from, ROW_BYTES) }
    }
    /// Prefetches a cache line into L2. Reads nothing, so any address is allowed.
    fn prefetch(_line: *const u8) {}
    unsafe fn store<const TILE: usize>(to: *mut u8, stride: usize);
    /// Adds to the f32 tile `SUM` the products of `LEFT`'s bf16 pairs (row by pair) and `RIGHT`'s (pair by column).
    unsafe fn dot<const SUM: usize, const LEFT: usize, const RIGHT: usize>();
}

/// Arguments of the micro-kernel: up to [`SIDE`] tiles of rows times up to [`SIDE`] groups of packed columns.
///
/// The summed dimension has `steps` tiles, each in `segments` places: the horizontal taps of a convolution, 1 for a
/// matrix. All segments of a step follow each other, because neighbouring taps read almost the same lines.
pub struct MicroTile<T> {
    pub lhs: LhsTiles<T>,
    pub segments: usize,
    pub steps: usize,
    /// First line of the first group of columns; elements to the next group and to the next segment.
    pub rhs: *const T,
    pub group_stride: usize,
    pub rhs_segment: usize,
    /// Row-major sums, `sums_stride` elements from row to row.
    pub sums: *mut f32,
    pub sums_stride: usize,
    /// Add to the sums in memory instead of overwriting them.
    pub accumulate: bool,
    /// The columns are not reused soon.
    pub streamed: bool,
    /// Lines to prefetch during the steps.
    pub prefetch: [Prefetch; 2],
}

/// Consecutive cache lines.
#[derive(Clone, Copy)]
pub struct Prefetch {
    pub first: *const u8,
    pub lines: usize,
}

impl Prefetch {
    pub const NONE: Self = Self { first: std::ptr::null(), lines: 0 };
}

/// Addresses of the left-hand tiles; distances in elements.
#[derive(Clone, Copy)]
pub struct LhsTiles<T> {
    pub first: *const T,
    /// From a row to the next within a tile.
    pub row: usize,
    /// From the first tile of rows to the second; wraps around where the second lies before the first.
    pub tile: usize,
    /// From a tile to the next along the summed dimension.
    pub step: usize,
    /// From a segment to the next.
    pub segment: usize,
}

/// Other work that is executed in parts between the tile instructions, which leave the vector units idle.
pub trait Interleaved {
    /// Called after every step and segment of the micro-kernel.
    fn advance(&mut self);
}

type Run<T> = unsafe fn(usize, usize, &MicroTile<T>, Option<&mut dyn Interleaved>);

/// An implementation of [`Tiles`], as functions.
#[derive(Clone, Copy)]
pub struct TileKernel<T> {
    run: Run<T>,
    configure: unsafe fn(),
    release: unsafe fn(),
}

impl<T> TileKernel<T> {
    /// # Safety
    /// The CPU has these tiles and the process may use them.
    pub const unsafe fn of<X: Tiles>() -> Self {
        Self { run: run::<X, T>, configure: X::configure, release: X::release }
    }

    /// Takes the tile registers of this thread until the guard is dropped.
    pub fn start(self) -> Started<T> {
        // SAFETY: the promise of `of`.
        unsafe { (self.configure)() };
        Started { kernel: self, of_this_thread: PhantomData }
    }
}

/// The right to run micro-kernels on this thread.
pub struct Started<T> {
    kernel: TileKernel<T>,
    of_this_thread: PhantomData<*const T>,
}

impl<T> Started<T> {
    /// # Safety
    /// `rows` and `groups` are 1 to [`SIDE`]. `tile` must have that many tiles of rows and groups of columns,
    /// `steps` tiles deep in each segment, and sums for all their sixteen rows and columns, exclusively. `T` is bf16.
    pub unsafe fn run(
        &self,
        rows: usize,
        groups: usize,
        tile: &MicroTile<T>,
        interleaved: Option<&mut dyn Interleaved>,
    ) {
        // SAFETY: the tiles are configured, the rest is the caller's promise.
        unsafe { (self.kernel.run)(rows, groups, tile, interleaved) }
    }
}

impl<T> Drop for Started<T> {
    fn drop(&mut self) {
        // SAFETY: configured by `start`, on this thread: the guard cannot be sent to another.
        unsafe { (self.kernel.release)() }
    }
}

/// # Safety
/// As for [`Started::run`].
unsafe fn run<X: Tiles, T>(
    rows: usize,
    groups: usize,
    tile: &MicroTile<T>,
    interleaved: Option<&mut dyn Interleaved>,
) {
    // SAFETY: the caller's promise.
    unsafe {
        match (rows, groups, tile.streamed) {
            (2, 2, true) => run_sized::<X, T, 2, 2, true>(tile, interleaved),
            (2, 2, false) => run_sized::<X, T, 2, 2, false>(tile, interleaved),
            (2, 1, true) => run_sized::<X, T, 2, 1, true>(tile, interleaved),
            (2, 1, false) => run_sized::<X, T, 2, 1, false>(tile, interleaved),
            (1, 2, true) => run_sized::<X, T, 1, 2, true>(tile, interleaved),
            (1, 2, false) => run_sized::<X, T, 1, 2, false>(tile, interleaved),
            (1, 1, true) => run_sized::<X, T, 1, 1, true>(tile, interleaved),
            (1, 1, false) => run_sized::<X, T, 1, 1, false>(tile, interleaved),
            _ => unreachable!("tiles were given {rows} by {groups}"),
        }
    }
}

/// Sums in the tiles 0 to 3 (row by row), rows in 4 and 5, columns in 6 and 7.
///
/// # Safety
/// As for [`Started::run`].
#[inline(always)]
unsafe fn run_sized<X: Tiles, T, const R: usize, const G: usize, const STREAMED: bool>(
    tile: &MicroTile<T>,
    mut interleaved: Option<&mut dyn Interleaved>,
) {
    let element = size_of::<T>();
    let sums_stride = tile.sums_stride * size_of::<f32>();
    let sum = |row: usize, group: usize| {
        let at = row * ROWS * sums_stride + group * ROW_BYTES;
        tile.sums.cast::<u8>().wrapping_add(at)
    };
    let lhs_stride = tile.lhs.row * element;
    let (next_rows, next_group) = (tile.lhs.tile * element, tile.group_stride * element);
    let (lhs_segment, rhs_segment) = (tile.lhs.segment * element, tile.rhs_segment * element);
    let mut lhs_step = tile.lhs.first.cast::<u8>();
    let mut rhs_step = tile.rhs.cast::<u8>();
    let calls = (tile.steps * tile.segments).max(1);
    let [mut first, mut second] = tile.prefetch.map(|prefetch| Lines::new(prefetch, calls));
    // SAFETY: the caller's promise: all addresses are of whole tiles within what `tile` describes; the last advances
    // are wrapping, as nothing is read there.
    unsafe {
        if tile.accumulate {
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
        for _ in 0..tile.steps {
            let (mut lhs, mut rhs) = (lhs_step, rhs_step);
            for _ in 0..tile.segments {
                X::load::<4>(lhs, lhs_stride);
                if STREAMED {
                    X::load_streamed::<6>(rhs);
                } else {
                    X::load::<6>(rhs, ROW_BYTES);
                }
                X::dot::<0, 4, 6>();
                if G > 1 {
                    if STREAMED {
                        X::load_streamed::<7>(rhs.wrapping_add(next_group));
                    } else {
                        X::load::<7>(rhs.wrapping_add(next_group), ROW_BYTES);
                    }
                    X::dot::<1, 4, 7>();
                }
                if R > 1 {
                    X::load::<5>(lhs.wrapping_add(next_rows), lhs_stride);
                    X::dot::<2, 5, 6>();
                }
                if R > 1 && G > 1 {
                    X::dot::<3, 5, 7>();
                }
                first.advance::<X>();
                second.advance::<X>();
                if let Some(work) = &mut interleaved {
                    work.advance();
                }
                lhs = lhs.wrapping_add(lhs_segment);
                rhs = rhs.wrapping_add(rhs_segment);
            }
            lhs_step = lhs_step.wrapping_add(tile.lhs.step * element);
            rhs_step = rhs_step.wrapping_add(ROWS * ROW_BYTES);
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

/// Lines of a [`Prefetch`] that remain.
struct Lines {
    next: *const u8,
    remaining: usize,
    per_call: usize,
}

impl Lines {
    fn new(prefetch: Prefetch, calls: usize) -> Self {
        let per_call = if prefetch.lines == 0 { 0 } else { prefetch.lines.div_ceil(calls) };
        Self { next: prefetch.first, remaining: prefetch.lines, per_call }
    }

    #[inline(always)]
    fn advance<X: Tiles>(&mut self) {
        if self.remaining == 0 {
            return;
        }
        let count = self.per_call.min(self.remaining);
        for _ in 0..count {
            X::prefetch(self.next);
            self.next = self.next.wrapping_add(ROW_BYTES);
        }
        self.remaining -= count;
    }
}
