//! Tiles in plain Rust, as Intel's manual describes the instructions of AMX (volume 2, `TILELOADD`, `TDPBF16PS`,
//! `TILESTORED`): for the tests, which compare the whole tile version with the references by it, and on a machine
//! with AMX the instructions with it.

use std::cell::RefCell;

use half::bf16;

use super::tiles::{ROW_BYTES, ROWS, Tiles};
use crate::cpu::Element;

pub struct Model;

type Tile = [[u8; ROW_BYTES]; ROWS];

thread_local! {
    /// The thread's tiles; `None` where they are not configured.
    static TILES: RefCell<Option<[Tile; 8]>> = const { RefCell::new(None) };
}

fn with_tiles<R>(use_them: impl FnOnce(&mut [Tile; 8]) -> R) -> R {
    TILES
        .with_borrow_mut(|tiles| use_them(tiles.as_mut().expect("tiles are used before they are configured")))
}

/// The f32 at `column`, with denormal numbers as zeros of their sign.
fn float(row: &[u8; ROW_BYTES], column: usize) -> f32 {
    let bytes = [0, 1, 2, 3].map(|i| row[4 * column + i]);
    flushed(f32::from_le_bytes(bytes))
}

/// The bf16 at `column` as f32.
fn half(row: &[u8; ROW_BYTES], column: usize) -> f32 {
    flushed(bf16::from_le_bytes([row[2 * column], row[2 * column + 1]]).widen())
}

fn flushed(x: f32) -> f32 {
    if x.is_subnormal() { 0f32.copysign(x) } else { x }
}

impl Tiles for Model {
    unsafe fn configure() {
        TILES.with_borrow_mut(|tiles| {
            assert!(tiles.is_none(), "tiles are configured twice");
            *tiles = Some([[[0; ROW_BYTES]; ROWS]; 8]);
        });
    }

    unsafe fn release() {
        TILES.with_borrow_mut(|tiles| *tiles = None);
    }

    unsafe fn zero<const TILE: usize>() {
        with_tiles(|tiles| tiles[TILE] = [[0; ROW_BYTES]; ROWS]);
    }

    unsafe fn load<const TILE: usize>(from: *const u8, stride: usize) {
        with_tiles(|tiles| {
            for (i, row) in tiles[TILE].iter_mut().enumerate() {
                // SAFETY: the trait's.
                *row = unsafe { from.add(i * stride).cast::<[u8; ROW_BYTES]>().read_unaligned() };
            }
        });
    }

    unsafe fn load_streamed<const TILE: usize>(from: *const u8) {
        assert!(from.addr().is_multiple_of(ROW_BYTES), "a streamed tile is not in whole lines");
        // SAFETY: the trait's.
        unsafe { Self::load::<TILE>(from, ROW_BYTES) }
    }

    unsafe fn store<const TILE: usize>(to: *mut u8, stride: usize) {
        with_tiles(|tiles| {
            for (i, row) in tiles[TILE].iter().enumerate() {
                // SAFETY: the trait's.
                unsafe { to.add(i * stride).cast::<[u8; ROW_BYTES]>().write_unaligned(*row) };
            }
        });
    }

    /// The products at even and at odd places are summed apart, each by fused steps; their sum is then added.
    unsafe fn dot<const SUM: usize, const LEFT: usize, const RIGHT: usize>() {
        with_tiles(|tiles| {
            let (left, right) = (tiles[LEFT], tiles[RIGHT]);
            for (row, left) in tiles[SUM].iter_mut().zip(&left) {
                for n in 0..ROW_BYTES / 4 {
                    let (mut even, mut odd) = (0f32, 0f32);
                    for (k, right) in right.iter().enumerate() {
                        even = flushed(half(left, 2 * k).mul_add(half(right, 2 * n), even));
                        odd = flushed(half(left, 2 * k + 1).mul_add(half(right, 2 * n + 1), odd));
                    }
                    let sum = flushed(float(row, n) + flushed(even + odd));
                    row[4 * n..4 * n + 4].copy_from_slice(&sum.to_le_bytes());
                }
            }
        });
    }
}

mod tests {
    use super::*;
    #[cfg(target_arch = "x86_64")]
    use crate::cpu::Isa;
    use crate::cpu::gemm::pack::Lines;
    use crate::cpu::gemm::tiles::{DEPTH, Interleaved, LhsTiles, MicroTile, Prefetch, SIDE, TileKernel};

    /// Small whole numbers, whose products and sums are exact.
    fn numbers(count: usize, seed: usize) -> Vec<bf16> {
        (0..count).map(|i| bf16::from_f32(((i * 37 + seed * 11 + i / 7) % 17) as f32 - 8.)).collect()
    }

    /// The arguments of a micro-kernel without their data.
    #[derive(Debug, Clone, Copy)]
    struct Shape {
        rows: usize,
        groups: usize,
        segments: usize,
        steps: usize,
        accumulate: bool,
    }

    struct Case {
        shape: Shape,
        lhs: Vec<bf16>,
        rhs: Lines<bf16>,
        before: Vec<f32>,
    }

    /// More columns than the tiles have, from row to row of the sums.
    const WIDTH: usize = SIDE * ROWS + 3;

    /// Counts the calls between the steps.
    struct Calls(usize);

    impl Interleaved for Calls {
        fn advance(&mut self) {
            self.0 += 1;
        }
    }

    impl Case {
        fn new(shape: Shape) -> Self {
            let Shape { rows, groups, segments, steps, .. } = shape;
            let mut rhs = Lines::zeroed(groups * segments * steps * ROWS);
            let values = numbers(rhs.as_slice().len(), 2);
            rhs.as_mut_slice().copy_from_slice(&values);
            Self {
                shape,
                lhs: numbers(rows * ROWS * segments * steps * DEPTH, 1),
                rhs,
                before: (0..SIDE * ROWS * WIDTH).map(|i| (i % 13) as f32).collect(),
            }
        }

        /// Row-major rows of all segments and their steps; whole groups of columns, one after the other.
        fn run(&self, kernel: TileKernel<bf16>) -> Vec<f32> {
            let Shape { rows, groups, segments, steps, accumulate } = self.shape;
            let mut sums = self.before.clone();
            let row = segments * steps * DEPTH;
            let prefetch = Prefetch { first: self.lhs.as_ptr().cast(), lines: steps + 1 };
            let tile = MicroTile {
                lhs: LhsTiles {
                    first: self.lhs.as_ptr(),
                    row,
                    tile: ROWS * row,
                    step: DEPTH,
                    segment: steps * DEPTH,
                },
                segments,
                steps,
                rhs: self.rhs.as_ptr(),
                group_stride: ROWS * row,
                rhs_segment: ROWS * steps * DEPTH,
                sums: sums.as_mut_ptr(),
                sums_stride: WIDTH,
                accumulate,
                streamed: steps == 3,
                prefetch: [prefetch, Prefetch::NONE],
            };
            let mut calls = Calls(0);
            // SAFETY: `new` made what the arguments describe.
            unsafe { kernel.start().run(rows, groups, &tile, Some(&mut calls)) };
            assert_eq!(calls.0, segments * steps);
            sums
        }

        fn plain(&self) -> Vec<f32> {
            let Shape { rows, groups, segments, steps, accumulate } = self.shape;
            let mut sums = self.before.clone();
            let depth = segments * steps * DEPTH;
            for i in 0..rows * ROWS {
                for j in 0..groups * ROWS {
                    let column = &self.rhs.as_slice()[j / ROWS * ROWS * depth..];
                    let product = |k: usize| {
                        let line = k / 2 * DEPTH + j % ROWS * 2 + k % 2;
                        self.lhs[i * depth + k].to_f32() * column[line].to_f32()
                    };
                    let sum: f32 = (0..depth).map(product).sum();
                    let at = i * WIDTH + j;
                    sums[at] = sum + if accumulate { sums[at] } else { 0. };
                }
            }
            sums
        }
    }

    fn cases() -> impl Iterator<Item = Case> {
        let sizes = [(1, 1), (1, 2), (2, 1), (2, 2)];
        sizes.into_iter().flat_map(|(rows, groups)| {
            [(1, 1, false), (1, 3, true), (3, 2, false), (2, 3, true)].map(|(segments, steps, accumulate)| {
                Case::new(Shape { rows, groups, segments, steps, accumulate })
            })
        })
    }

    #[test]
    fn the_kernel_over_the_model_is_the_plain_product_and_writes_nothing_else() {
        for case in cases() {
            // SAFETY: the model needs nothing.
            let got = case.run(unsafe { TileKernel::of::<Model>() });
            assert!(got == case.plain(), "{:?}", case.shape);
        }
    }

    /// Only where there are such tiles.
    #[test]
    #[cfg(target_arch = "x86_64")]
    fn the_instructions_do_what_the_model_says() {
        if !Isa::available().contains(&Isa::Amx) {
            eprintln!("skipped: this machine has no AMX");
            return;
        }
        for mut case in cases() {
            for fraction in [1., 1.37, 1e-20] {
                case.lhs.iter_mut().for_each(|x| *x = bf16::from_f32(x.to_f32() * fraction));
                // SAFETY: available, as was asked; the model needs nothing.
                let (got, want) = unsafe {
                    (
                        case.run(TileKernel::of::<crate::cpu::gemm::amx::Amx>()),
                        case.run(TileKernel::of::<Model>()),
                    )
                };
                let scale = want.iter().fold(0f32, |most, x| most.max(x.abs()));
                let worst = got.iter().zip(&want).fold(0f32, |most, (a, b)| most.max((a - b).abs()));
                assert!(worst <= 1e-6 * scale, "{:?}: {worst:e}", case.shape);
            }
        }
    }

    #[test]
    fn denormal_numbers_are_zeros() {
        let case = |left: f32, right: f32| {
            let shape = Shape { rows: 1, groups: 1, segments: 1, steps: 1, accumulate: false };
            let mut case = Case::new(shape);
            case.lhs.fill(bf16::from_f32(left));
            case.rhs.as_mut_slice().fill(bf16::from_f32(right));
            // SAFETY: the model needs nothing.
            case.run(unsafe { TileKernel::of::<Model>() })[0]
        };
        assert_eq!(case(1e-39, 1e30), 0.);
        assert_eq!(case(1e-20, 1e-20), 0.);
        assert_eq!(case(0.5, 2.), 32.);
    }
}
