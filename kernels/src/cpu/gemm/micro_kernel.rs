//! The innermost piece of a matrix product: a few rows times a few groups of sixteen columns, with every
//! sum in a register. One loop, written once, over the vector types of an instruction set.

/// Columns that are packed side by side, whatever the instruction set: a 64-byte line of f32 or of bf16 pairs.
pub const NR: usize = 16;

/// What a microkernel works on. The summed dimension comes in `segments` (the taps of a convolution, one
/// for a linear layer) of `steps` lines each; the right-hand lines of all segments follow each other.
pub struct Strip<T> {
    /// `segments` × rows pointers to the left-hand rows; `shift` elements are added to each.
    pub rows: *const *const T,
    pub shift: usize,
    pub segments: usize,
    /// Lines in a segment; one line holds [`super::Element::PAIR`] × [`NR`] elements.
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

/// A microkernel and the largest piece it takes.
#[derive(Clone, Copy)]
pub struct Microkernel<T> {
    pub max_rows: usize,
    pub max_groups: usize,
    /// `run(rows, groups, strip)` with 1 ≤ rows ≤ `max_rows` and 1 ≤ groups ≤ `max_groups`.
    ///
    /// Safety: the CPU must have the instruction set; every pointer in `strip` must be good for the
    /// elements that its counts imply, `sums` exclusively so.
    pub run: unsafe fn(usize, usize, &Strip<T>),
}

/// The registers of an instruction set for one element type.
///
/// Safety of all methods: the CPU has the instruction set, and pointers are good for what is accessed.
pub trait Registers {
    type Element;
    /// Sums of `LANES` columns.
    type Sum: Copy;
    /// One left-hand element (or pair), in all lanes.
    type Left: Copy;
    /// `LANES` right-hand elements (or pairs).
    type Right: Copy;

    /// Columns in a register: [`NR`] or a divisor of it.
    const LANES: usize;
    /// Elements along the summed dimension in a lane.
    const PAIR: usize;

    unsafe fn zero() -> Self::Sum;
    unsafe fn load(from: *const f32) -> Self::Sum;
    unsafe fn store(to: *mut f32, sum: Self::Sum);
    unsafe fn left(from: *const Self::Element) -> Self::Left;
    unsafe fn right(from: *const Self::Element) -> Self::Right;
    unsafe fn multiply_add(sum: Self::Sum, left: Self::Left, right: Self::Right) -> Self::Sum;
}

/// `ROWS` rows times `VECTORS` registers of columns. The loops over them are unrolled by the compiler.
///
/// # Safety
/// As for [`Microkernel::run`].
#[inline(always)]
pub unsafe fn run<R: Registers, const ROWS: usize, const VECTORS: usize>(strip: &Strip<R::Element>) {
    // SAFETY: the caller's promise about the instruction set and the pointers of `strip`; every offset
    // below stays within rows × columns × steps × segments.
    unsafe {
        let mut sums = [[R::zero(); VECTORS]; ROWS];
        if strip.accumulate {
            for (r, row) in sums.iter_mut().enumerate() {
                for (v, sum) in row.iter_mut().enumerate() {
                    *sum = R::load(strip.sums.add(r * strip.sums_stride + v * R::LANES));
                }
            }
        }
        let mut columns = [strip.columns; VECTORS];
        for (v, column) in columns.iter_mut().enumerate() {
            let (group, within) = (v * R::LANES / NR, v * R::LANES % NR);
            *column = column.add(group * strip.group_stride + within * R::PAIR);
        }
        for segment in 0..strip.segments {
            let mut rows = [strip.columns; ROWS];
            for (r, row) in rows.iter_mut().enumerate() {
                *row = (*strip.rows.add(segment * ROWS + r)).add(strip.shift);
            }
            for step in 0..strip.steps {
                let mut rights = [R::right(columns[0]); VECTORS];
                for v in 1..VECTORS {
                    rights[v] = R::right(columns[v]);
                }
                for r in 0..ROWS {
                    let left = R::left(rows[r].add(step * R::PAIR));
                    for v in 0..VECTORS {
                        sums[r][v] = R::multiply_add(sums[r][v], left, rights[v]);
                    }
                }
                for column in &mut columns {
                    *column = column.add(NR * R::PAIR);
                }
            }
        }
        for (r, row) in sums.iter().enumerate() {
            for (v, sum) in row.iter().enumerate() {
                R::store(strip.sums.add(r * strip.sums_stride + v * R::LANES), *sum);
            }
        }
    }
}

/// A [`Microkernel`] from [`Registers`]: one copy of [`run`] for every number of rows and groups.
macro_rules! microkernel {
    ($(#[$meta:meta])* $name:ident, $registers:ty, $element:ty, [$($feature:literal)?],
        groups $groups:tt, rows $rows:tt) => {
        $(#[$meta])*
        pub const $name: Microkernel<$element> = {
            $(#[target_feature(enable = $feature)])?
            unsafe fn choose(rows: usize, groups: usize, strip: &Strip<$element>) {
                const VECTORS: usize = NR / <$registers as Registers>::LANES;
                $crate::cpu::gemm::micro_kernel::cases!($registers, rows, groups, strip, $groups, $rows)
            }
            Microkernel {
                max_rows: $crate::cpu::gemm::micro_kernel::last!($rows),
                max_groups: $crate::cpu::gemm::micro_kernel::last!($groups),
                run: choose,
            }
        };
    };
}

macro_rules! last {
    ([$($n:literal),*]) => {{
        let all = [$($n),*];
        all[all.len() - 1]
    }};
}

macro_rules! cases {
    ($registers:ty, $r:ident, $g:ident, $strip:ident, [$($groups:literal),*], $rows:tt) => {
        match $g {
            $($groups => $crate::cpu::gemm::micro_kernel::cases!(@rows $registers, $r, $strip, $groups, $rows),)*
            _ => unreachable!("a microkernel was given {} groups", $g),
        }
    };
    (@rows $registers:ty, $r:ident, $strip:ident, $groups:literal, [$($rows:literal),*]) => {
        match $r {
            // SAFETY: the caller's promise; the enclosing function has the instruction set switched on.
            $($rows => unsafe {
                $crate::cpu::gemm::micro_kernel::run::<$registers, $rows, { $groups * VECTORS }>($strip)
            },)*
            _ => unreachable!("a microkernel was given {} rows", $r),
        }
    };
}
pub(crate) use {cases, last, microkernel};

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;
    use crate::cpu::element::MicrokernelDispatch;
    use crate::cpu::{Element, Isa};

    /// Elements before those of a row that are summed.
    const SHIFT: usize = 4;
    /// Columns between the sums of two rows that belong to nobody.
    const BETWEEN: usize = 3;

    /// Small whole numbers, whose products and sums are exact.
    fn number(i: usize, seed: usize) -> f32 {
        ((i * 37 + seed * 11 + i / 7) % 17) as f32 - 8.
    }

    fn numbers<T: Element>(count: usize, seed: usize) -> Vec<T> {
        (0..count).map(|i| T::narrow(number(i, seed))).collect()
    }

    /// What a microkernel is given, but for the data.
    #[derive(Debug, Clone, Copy)]
    struct Case {
        rows: usize,
        groups: usize,
        segments: usize,
        steps: usize,
        accumulate: bool,
    }

    impl Case {
        /// The sums, with those between them, by the kernel and by their definition.
        fn run<T: Element>(self, kernel: &Microkernel<T>) -> [Vec<f32>; 2] {
            let Case { rows, groups, segments, steps, accumulate } = self;
            let (depth, width) = (steps * T::PAIR, groups * NR + BETWEEN);
            let group_stride = segments * depth * NR;
            let left = numbers::<T>(segments * rows * (SHIFT + depth), 1);
            let columns = numbers::<T>(groups * group_stride, 2);
            let before: Vec<f32> = (0..rows * width).map(|i| number(i, 3)).collect();
            let pointers: Vec<*const T> = left.chunks(SHIFT + depth).map(<[T]>::as_ptr).collect();

            let mut got = before.clone();
            let strip = Strip {
                rows: pointers.as_ptr(),
                shift: SHIFT,
                segments,
                steps,
                columns: columns.as_ptr(),
                group_stride,
                sums: got.as_mut_ptr(),
                sums_stride: width,
                accumulate,
            };
            // SAFETY: the kernel is of an instruction set that is there; the counts are those of the vectors.
            unsafe { (kernel.run)(rows, groups, &strip) };

            let mut want = before;
            for (row, want) in want.chunks_mut(width).enumerate() {
                for (column, want) in want[..groups * NR].iter_mut().enumerate() {
                    let product = |k: usize| {
                        let (segment, at) = (k / depth, k % depth);
                        let line = k / T::PAIR * T::PAIR * NR;
                        let within = column % NR * T::PAIR + k % T::PAIR;
                        left[(segment * rows + row) * (SHIFT + depth) + SHIFT + at].widen()
                            * columns[column / NR * group_stride + line + within].widen()
                    };
                    let sum: f32 = (0..segments * depth).map(product).sum();
                    *want = sum + if accumulate { *want } else { 0. };
                }
            }
            [got, want]
        }
    }

    fn check<T: Element>(isa: Isa) {
        let MicrokernelDispatch::Registers(kernel) = T::kernel(isa) else { return };
        for rows in 1..=kernel.max_rows {
            for groups in 1..=kernel.max_groups {
                for (segments, steps) in [(1, 1), (1, 2), (3, 5), (2, 8)] {
                    for accumulate in [false, true] {
                        let case = Case { rows, groups, segments, steps, accumulate };
                        let [got, want] = case.run(&kernel);
                        assert!(got == want, "{isa:?} {:?} {case:?}: {got:?}, expected {want:?}", T::DTYPE);
                    }
                }
            }
        }
    }

    #[test]
    fn sums_of_whole_numbers_are_exact_and_nothing_else_is_written() {
        for isa in Isa::available() {
            check::<f32>(isa);
            check::<bf16>(isa);
        }
    }
}
