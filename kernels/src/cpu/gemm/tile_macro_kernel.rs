//! Macro-kernel over tiles.
//!
//! A macro tile is walked strip by strip (32 rows); a strip is multiplied by panels of 32 columns, a K block at a time,
//! so short that its left operand stays in L1 while weights stream from L2. Sums stay in L1 until their epilogue, which
//! is interleaved with the tile instructions of the next panel: what is written past L1 costs about four times what is
//! read from L2, and bursts of stores stall the tile loads.
//!
//! Either the weights of a macro tile stay in L2 while strips pass by ([`Blocking::ResidentWeights`]), or the
//! left operand does while weights stream through ([`Blocking::ResidentRows`]); the other operand is prefetched into L2
//! at exactly the rate of its use.

use std::mem::MaybeUninit;
use std::ops::Range;

use super::super::Element;
use super::super::element::Shared;
use super::super::isa::multiversion;
use super::micro_kernel::NR;
use super::pack::Line;
use super::queue::for_each_worker;
use super::tile_epilogue::{SUMS, StripRows, TileEpilogue};
use super::tile_lhs::{TileLhs, ValidTaps};
use super::tiles::{self, DEPTH, Interleaved, LhsTiles, MR, MicroTile, Prefetch, SIDE, Started, TileKernel};
use super::{Gemm, Lhs, MacroTile, chunks};

/// Panels whose sums are kept in L1 from K block to K block.
const PART_PANELS: usize = 4;
/// Tiles along the summed dimension of a K block where that is all of it, and where there are several: the strip's
/// part of it has 2 KB a tile.
const MAX_ONLY_STEPS: usize = 20;
const MAX_STEPS: usize = 10;
/// Bytes of weights that stay in L2, of those where they are only just more, and of the left operand.
const RESIDENT_WEIGHT_BYTES: usize = 768 << 10;
const MAX_RESIDENT_WEIGHT_BYTES: usize = 1 << 20;
const RESIDENT_LHS_BYTES: usize = 1280 << 10;
/// Rows that are mapped and packed at a time.
const MAX_MAPPED_ROWS: usize = 512;
/// Panels of weights that stream by resident rows together.
const STREAMED_PANELS: usize = 4;
/// Where 4 groups of the whole summed dimension exceed the L2 cache, it is cut into passes with this many groups; sums
/// of a macro tile's rows are kept in f32.
const PASS_GROUPS: usize = 16;
const PASS_ROWS: usize = 512;
/// Prefetching more lines per step than this takes longer than it saves.
const MAX_PREFETCH_LINES: usize = 4;
const MAX_LHS_PREFETCH_LINES: usize = 2;

/// Which operand of a macro tile stays in L2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blocking {
    ResidentWeights { groups: usize, passes: usize },
    ResidentRows { rows: usize },
}

/// A range of the summed dimension: the taps of one line of a window, and steps of their channels.
#[derive(Debug, Clone)]
struct KBlock {
    first_tap: usize,
    down: usize,
    taps: usize,
    steps: Range<usize>,
}

/// The columns of a micro-tile: packed groups, and the first group of the output that they belong to.
#[derive(Clone)]
struct Panel {
    groups: Range<usize>,
    output_group: usize,
    kind: PanelKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PanelKind {
    Plain,
    /// Of GEGLU; the gates are the next panel.
    Values,
    Gates,
}

/// Buffers that a worker reuses.
struct Scratch<'a, T> {
    sums: Vec<Line>,
    strip: Vec<Line>,
    rows: Vec<&'a [T]>,
    /// Mapped rows of a macro tile, [`packed_stride`] elements apart.
    packed: Vec<Line>,
    packed_rows: Range<usize>,
    /// Of two strips in turn.
    strip_rows: [StripRows; 2],
}

/// Elements between packed rows: rows of powers of two would compete for the same sets of the caches.
fn packed_stride(channels: usize) -> usize {
    channels + DEPTH
}

/// What all macro tiles of a product share.
struct Plan<'a, T> {
    lhs: Option<TileLhs<'a, T>>,
    k_blocks: Vec<KBlock>,
    passes: usize,
    zeros: Vec<T>,
}

/// A strip of rows and where its tiles are.
struct Strip<T> {
    tiles: usize,
    /// First rows of both tiles in place, or of the copy.
    first: *const T,
    row: usize,
    tile: usize,
    step: usize,
    /// From a tap to the next, across and down.
    tap: [usize; 2],
    valid: ValidTaps,
    count: usize,
}

impl<T: Element> Gemm<'_, T> {
    pub(super) fn run_by_tiles(&self, kernel: TileKernel<T>, wanted: usize, out: &Shared<T>) {
        let zeros = vec![T::default(); self.weights.padded_channels()];
        let lhs = self.tile_lhs();
        let k_blocks = self.tile_k_blocks();
        if k_blocks.is_empty() {
            return self.finish_without_sums(out);
        }
        let (tasks, passes) = self.tile_tasks(wanted, k_blocks.len(), lhs.is_some());
        let plan = Plan { lhs, k_blocks, passes, zeros };
        for_each_worker(tasks.len(), |claims| {
            let mut claimed = claims.next();
            if claimed.is_none() {
                return;
            }
            let tiles = kernel.start();
            let mut scratch = Scratch {
                sums: Vec::new(),
                strip: Vec::new(),
                rows: Vec::new(),
                packed: Vec::new(),
                packed_rows: 0..0,
                strip_rows: [StripRows::EMPTY, StripRows::EMPTY],
            };
            while let Some((task, next)) = claimed {
                let next = next.map(|next| &tasks[next]);
                self.compute(&tiles, &plan, (&tasks[task], next), &mut scratch, out);
                claimed = claims.next();
            }
        });
    }

    /// The output of a product over an empty dimension.
    fn finish_without_sums(&self, out: &Shared<T>) {
        let groups = 0..self.output_groups();
        let sums = vec![0.; self.weights.groups() * NR];
        (0..self.rows).for_each(|row| self.finish_row(row, &groups, &sums, out));
    }

    /// Tiles of the whole summed dimension.
    fn steps(&self) -> usize {
        (self.weights.taps * self.weights.padded_channels()).div_ceil(DEPTH)
    }

    /// In the order in which sums are taken, which only the weights' shape decides.
    fn tile_k_blocks(&self) -> Vec<KBlock> {
        // Tiles that span taps are only in copied strips, which have one long tap.
        let (window, steps) = match self.is_in_whole_tiles() {
            true => (self.weights.taps.isqrt(), self.weights.padded_channels() / DEPTH),
            false => (1, self.steps()),
        };
        let max_steps = if window == 1 && steps <= MAX_ONLY_STEPS { MAX_ONLY_STEPS } else { MAX_STEPS };
        let each = steps.div_ceil(steps.div_ceil(max_steps).max(1)).max(1);
        (0..window)
            .flat_map(|down| {
                chunks(&(0..steps), each).map(move |steps| KBlock {
                    first_tap: down * window,
                    down,
                    taps: window,
                    steps,
                })
            })
            .collect()
    }

    /// Packed groups of a panel of the output times 1, or 2 for GEGLU.
    fn halves(&self) -> usize {
        if self.is_geglu() { 2 } else { 1 }
    }

    /// Strips that are not `in_place` are copied for every macro tile, so that rows must not return.
    fn blocking(&self, in_place: bool) -> Blocking {
        let group_bytes = (self.steps() * DEPTH * NR * size_of::<T>()).max(1);
        let packed = self.weights.groups();
        let threads = rayon::current_num_threads();
        let row_bytes = (self.weights.padded_channels() * size_of::<T>()).max(1);
        let resident_rows =
            (RESIDENT_LHS_BYTES / row_bytes / MR * MR).min(self.rows.div_ceil(threads).next_multiple_of(MR));
        if let Lhs::Mapped(..) = self.lhs {
            return Blocking::ResidentRows { rows: resident_rows.clamp(MR, MAX_MAPPED_ROWS) };
        }
        let resident = match packed * group_bytes <= MAX_RESIDENT_WEIGHT_BYTES {
            true => packed,
            false => (RESIDENT_WEIGHT_BYTES / group_bytes / 4 * 4).min(packed),
        };
        // Lines that each choice reads from beyond L2, per tile step.
        let lines =
            |rows: usize, groups: usize| 1024. / rows.max(1) as f64 + 1024. / (groups * NR).max(1) as f64;
        if in_place && self.weights.taps == 1 && resident_rows >= 4 * MR && packed > resident {
            let by_rows = lines(resident_rows, packed);
            let by_weights = if resident == 0 { f64::INFINITY } else { lines(self.rows, resident) };
            if by_rows < by_weights {
                return Blocking::ResidentRows { rows: resident_rows };
            }
        }
        if resident > 0 {
            return Blocking::ResidentWeights { groups: resident / self.halves(), passes: 1 };
        }
        if group_bytes * 4 <= MAX_RESIDENT_WEIGHT_BYTES {
            return Blocking::ResidentWeights { groups: 4 / self.halves(), passes: 1 };
        }
        let passes = (group_bytes * PASS_GROUPS).div_ceil(RESIDENT_WEIGHT_BYTES);
        Blocking::ResidentWeights { groups: PASS_GROUPS / self.halves(), passes }
    }

    /// Macro tiles in the order of their use, and passes over the summed dimension.
    fn tile_tasks(&self, wanted: usize, k_blocks: usize, in_place: bool) -> (Vec<MacroTile>, usize) {
        let groups = self.output_groups();
        let even = |total: usize, most: usize, unit: usize| {
            total.div_ceil(total.div_ceil(most.max(1)).max(1)).next_multiple_of(unit).max(unit)
        };
        match self.blocking(in_place) {
            Blocking::ResidentRows { rows } => {
                let high = even(self.rows, rows, MR);
                let bytes = self.weights.groups() * self.weights.group_stride() * size_of::<T>();
                let wide = match bytes <= RESIDENT_WEIGHT_BYTES {
                    true => groups.next_multiple_of(SIDE),
                    false => STREAMED_PANELS * SIDE / self.halves(),
                };
                let tasks = chunks(&(0..self.rows), high).flat_map(|rows| {
                    chunks(&(0..groups), wide).map(move |groups| MacroTile { rows: rows.clone(), groups })
                });
                (tasks.collect(), 1)
            }
            Blocking::ResidentWeights { groups: resident, passes } => {
                let passes = passes.min(k_blocks);
                let mut high = self.rows.div_ceil(wanted).next_multiple_of(MR).max(4 * MR);
                if passes > 1 {
                    high = high.min(PASS_ROWS);
                }
                let mut wide = resident.min(groups).max(1);
                while self.rows.div_ceil(high) * groups.div_ceil(wide) < wanted && wide > SIDE {
                    wide = (wide / 2).next_multiple_of(SIDE);
                }
                let (high, wide) = (even(self.rows, high, MR), even(groups, wide, SIDE));
                let tasks = chunks(&(0..groups), wide).flat_map(|groups| {
                    chunks(&(0..self.rows), high).map(move |rows| MacroTile { rows, groups: groups.clone() })
                });
                (tasks.collect(), passes)
            }
        }
    }

    fn panels(&self, groups: &Range<usize>) -> Vec<Panel> {
        let half = self.output_groups();
        let both = |groups: Range<usize>| {
            let output_group = groups.start;
            let gates = groups.start + half..groups.end + half;
            [
                Panel { groups, output_group, kind: PanelKind::Values },
                Panel { groups: gates, output_group, kind: PanelKind::Gates },
            ]
        };
        let panels = chunks(groups, SIDE);
        if self.is_geglu() {
            return panels.flat_map(both).collect();
        }
        panels.map(|groups| Panel { output_group: groups.start, groups, kind: PanelKind::Plain }).collect()
    }

    /// The output's rows and columns of a macro tile.
    fn compute<'a>(
        &'a self,
        tiles: &Started<T>,
        plan: &'a Plan<T>,
        (task, next): (&MacroTile, Option<&MacroTile>),
        scratch: &mut Scratch<'a, T>,
        out: &Shared<T>,
    ) {
        self.pack_rows(task, scratch);
        let panels = self.panels(&task.groups);
        let has_one_block = plan.k_blocks.len() == 1;
        let part_panels = if has_one_block { self.halves() } else { PART_PANELS.max(self.halves()) };
        let strips = task.rows.len().div_ceil(MR);
        // Of all strips where later passes add to them, else of two parts in turn.
        let slots = if plan.passes == 1 { 2 * part_panels } else { strips * panels.len() };
        let lines = slots * SUMS / NR;
        if scratch.sums.len() < lines {
            scratch.sums.resize(lines, Line([0; NR]));
        }
        let sums = scratch.sums.as_mut_ptr().cast::<f32>();
        let mut pending = TileEpilogue::empty(self.isa);
        let mut weights_ahead = self.weights_ahead(task, next, plan, panels.len());
        for pass in 0..plan.passes {
            let here =
                plan.k_blocks.len() * pass / plan.passes..plan.k_blocks.len() * (pass + 1) / plan.passes;
            for (strip_index, rows) in chunks(&task.rows, MR).enumerate() {
                let strip = self.strip(plan, &rows, task, scratch);
                // Of this strip and the one before it, whose last epilogue may be pending.
                let strip_rows = &raw mut scratch.strip_rows[strip_index % 2];
                if pending.rows == strip_rows.cast_const() {
                    pending.finish();
                }
                // SAFETY: no pending epilogue reads it.
                unsafe { *strip_rows = self.strip_rows(plan, &rows) };
                let active: Vec<usize> = (0..plan.k_blocks.len())
                    .filter(|&block| strip.valid.down.contains(&plan.k_blocks[block].down))
                    .collect();
                let (Some(&first_block), Some(&last_block)) = (active.first(), active.last()) else {
                    continue;
                };
                let active = active.into_iter().filter(|block| here.contains(block));
                let active: Vec<usize> = active.collect();
                let mut lhs_ahead = self.lhs_ahead(plan, &rows, panels.len() * active.len());
                for (part_index, part) in panels.chunks(part_panels).enumerate() {
                    for &index in &active {
                        let block = &plan.k_blocks[index];
                        for (i, panel) in part.iter().enumerate() {
                            let slot = match plan.passes {
                                1 if has_one_block => {
                                    (strip_index * panels.len().div_ceil(part_panels) + part_index) % 2
                                        * part_panels
                                        + i
                                }
                                1 => i,
                                _ => strip_index * panels.len() + part_index * part_panels + i,
                            };
                            // SAFETY: within `scratch.sums`.
                            let slot = unsafe { sums.add(slot * SUMS) };
                            if slot.cast_const() == pending.sums || slot.cast_const() == pending.gates {
                                pending.finish();
                            }
                            let micro_tile = self.micro_tile(&strip, block, panel, slot);
                            let micro_tile = MicroTile {
                                accumulate: index != first_block,
                                prefetch: [lhs_ahead.take(), weights_ahead.take()],
                                ..micro_tile
                            };
                            let steps = micro_tile.steps * micro_tile.segments;
                            let remaining = pending.count - pending.done;
                            pending.rows_per_call = remaining.div_ceil(steps.max(1));
                            let interleaved: Option<&mut dyn Interleaved> =
                                if pending.is_done() { None } else { Some(&mut pending) };
                            // SAFETY: the strip's tiles are in place, or copied for all steps; the weights have
                            // whole tiles for all steps of each of their groups; the slot has room for a micro-tile,
                            // which no pending epilogue reads. Tiles are of bf16.
                            unsafe { tiles.run(strip.tiles, panel.groups.len(), &micro_tile, interleaved) };
                            if index == last_block && panel.kind != PanelKind::Values {
                                pending.finish();
                                pending = self.tile_epilogue((strip_rows, strip.count), panel, slot, out);
                            }
                        }
                    }
                }
            }
        }
        pending.finish();
    }

    fn micro_tile(&self, strip: &Strip<T>, block: &KBlock, panel: &Panel, sums: *mut f32) -> MicroTile<T> {
        let channels = self.weights.padded_channels();
        let across = match self.is_in_whole_tiles() {
            true => strip.valid.across.start..strip.valid.across.end.min(block.taps),
            false => 0..1,
        };
        let lhs = across.start * strip.tap[0] + block.down * strip.tap[1] + block.steps.start * strip.step;
        let tap = block.first_tap + across.start;
        let rhs = panel.groups.start * self.weights.group_stride()
            + (tap * channels + block.steps.start * DEPTH) * NR;
        MicroTile {
            lhs: LhsTiles {
                first: strip.first.wrapping_add(lhs),
                row: strip.row,
                tile: strip.tile,
                step: strip.step,
                segment: strip.tap[0],
            },
            segments: across.len(),
            steps: block.steps.len(),
            rhs: self.weights.as_ptr().wrapping_add(rhs),
            group_stride: self.weights.group_stride(),
            rhs_segment: channels * NR,
            sums,
            sums_stride: MR,
            accumulate: false,
            streamed: true,
            prefetch: [Prefetch::NONE; 2],
        }
    }

    fn tile_epilogue(
        &self,
        (rows, count): (*const StripRows, usize),
        panel: &Panel,
        sums: *const f32,
        out: &Shared<T>,
    ) -> TileEpilogue<T> {
        let columns = self.columns();
        let first = panel.output_group * NR;
        let bias = self.epilogue.bias.as_ptr().wrapping_add(first);
        let (sums, gates, gate_bias) = match panel.kind {
            // Values lie in the slot before their gates.
            PanelKind::Gates => (sums.wrapping_sub(SUMS), sums, bias.wrapping_add(columns)),
            _ => (sums, std::ptr::null(), std::ptr::null()),
        };
        TileEpilogue {
            isa: self.isa,
            activation: self.epilogue.activation,
            sums,
            gates,
            bias,
            gate_bias,
            out: out.as_ptr().wrapping_add(first),
            residual: match &self.epilogue.residual {
                Some(residual) => residual.values.as_ptr().wrapping_add(first),
                None => std::ptr::null(),
            },
            rows,
            count,
            columns: (columns - first).min(panel.groups.len() * NR),
            done: 0,
            rows_per_call: 0,
        }
    }

    /// Where the rows of a strip are written.
    fn strip_rows(&self, plan: &Plan<T>, rows: &Range<usize>) -> StripRows {
        let columns = self.columns();
        let mut strip_rows = StripRows::EMPTY;
        for (i, row) in rows.clone().enumerate() {
            let row = plan.lhs.as_ref().map_or(row, |lhs| lhs.product_row(row));
            let row = self.lhs.output_row(row);
            strip_rows.out[i] = row * columns;
            if let Some(residual) = &self.epilogue.residual {
                strip_rows.residual[i] = row / residual.rows_per_value * columns;
            }
        }
        strip_rows
    }

    /// The strip in place, or a copy of it.
    fn strip<'a>(
        &'a self,
        plan: &'a Plan<T>,
        rows: &Range<usize>,
        task: &MacroTile,
        scratch: &mut Scratch<'a, T>,
    ) -> Strip<T> {
        let tiles = rows.len().div_ceil(tiles::ROWS);
        if let Some(lhs) = &plan.lhs
            && rows.len().is_multiple_of(tiles::ROWS)
        {
            let first_tile = rows.start / tiles::ROWS;
            let last_tile = first_tile + tiles - 1;
            let (first, last) = (lhs.tile(first_tile), lhs.tile(last_tile));
            let valid = lhs.valid_taps(first_tile).union(&lhs.valid_taps(last_tile));
            let is_empty = valid.down.is_empty() || valid.across.is_empty();
            return Strip {
                tiles,
                first,
                row: lhs.row,
                // Wraps around where the second tile lies before the first.
                tile: last.addr().wrapping_sub(first.addr()) / size_of::<T>(),
                step: DEPTH,
                tap: lhs.tap,
                valid: if is_empty { self.all_taps() } else { valid },
                count: rows.len(),
            };
        }
        if let Lhs::Mapped(..) = self.lhs {
            let stride = packed_stride(self.weights.padded_channels());
            let first = scratch.packed.as_ptr().cast::<T>();
            return Strip {
                tiles,
                first: first.wrapping_add((rows.start - task.rows.start) * stride),
                row: stride,
                tile: tiles::ROWS * stride,
                step: DEPTH,
                tap: [0, 0],
                valid: self.all_taps(),
                count: rows.len(),
            };
        }
        self.copy(plan, rows, scratch);
        let step = tiles * tiles::ROWS * DEPTH;
        let tap_steps = self.weights.padded_channels() / DEPTH;
        let window = self.weights.taps.isqrt();
        Strip {
            tiles,
            first: scratch.strip.as_ptr().cast(),
            row: DEPTH,
            tile: tiles::ROWS * DEPTH,
            step,
            tap: [tap_steps * step, window * tap_steps * step],
            valid: self.all_taps(),
            count: rows.len(),
        }
    }

    /// Packs the mapped rows of a macro tile, unless the one before had the same.
    fn pack_rows(&self, task: &MacroTile, scratch: &mut Scratch<T>) {
        let Lhs::Mapped(values, map) = self.lhs else { return };
        if scratch.packed_rows == task.rows {
            return;
        }
        let channels = self.weights.padded_channels();
        let stride = packed_stride(channels);
        // Whole tiles are read, though no sum of the rows after the last is used.
        let lines = task.rows.len().next_multiple_of(tiles::ROWS) * stride / DEPTH;
        if scratch.packed.len() < lines {
            scratch.packed.resize(lines, Line([0; NR]));
        }
        let first = scratch.packed.as_mut_ptr().cast::<MaybeUninit<T>>();
        for (i, row) in task.rows.clone().enumerate() {
            // SAFETY: within the lines that were just made.
            let to = unsafe { std::slice::from_raw_parts_mut(first.add(i * stride), channels) };
            map.map(row, &values[row * channels..][..channels], to);
        }
        scratch.packed_rows = task.rows.clone();
    }

    fn all_taps(&self) -> ValidTaps {
        let window = if self.is_in_whole_tiles() { self.weights.taps.isqrt() } else { 1 };
        ValidTaps { down: 0..window, across: 0..window }
    }

    /// A strip into `scratch.strip`, all steps, as tiles: those of all rows for a step, then those for the next.
    fn copy<'a>(&'a self, plan: &'a Plan<T>, rows: &Range<usize>, scratch: &mut Scratch<'a, T>) {
        let (taps, channels) = (self.weights.taps, self.weights.padded_channels());
        let lines = self.steps() * MR;
        if scratch.strip.len() < lines {
            scratch.strip.resize(lines, Line([0; NR]));
        }
        scratch.rows.clear();
        let product_row = |row| plan.lhs.as_ref().map_or(row, |lhs| lhs.product_row(row));
        for row in rows.clone().map(product_row) {
            self.lhs.each(row..row + 1, channels, &plan.zeros, |_, _, pixel| scratch.rows.push(pixel));
        }
        // SAFETY: any bits are elements.
        let to =
            unsafe { std::slice::from_raw_parts_mut(scratch.strip.as_mut_ptr().cast::<T>(), lines * DEPTH) };
        copy_strip(self.isa, &scratch.rows, taps, 0..self.steps(), to);
    }

    /// The part of the next strip that no strip before it has read: its last line of taps.
    fn lhs_ahead(&self, plan: &Plan<T>, rows: &Range<usize>, panels: usize) -> Ahead {
        let Some(lhs) = plan.lhs.as_ref().filter(|_| plan.passes == 1 && rows.end + MR <= self.rows) else {
            return Ahead::NONE;
        };
        let window = self.weights.taps.isqrt();
        let first = lhs.tile(rows.end / tiles::ROWS).wrapping_add((window - 1) * lhs.tap[1]);
        let lines = MR * lhs.row / DEPTH;
        let steps = panels * self.steps() / plan.k_blocks.len();
        if lines > MAX_LHS_PREFETCH_LINES * steps {
            return Ahead::NONE;
        }
        Ahead::new([(first.cast(), lines), (std::ptr::null(), 0)], panels)
    }

    /// The weights of the next macro tile where they are others.
    fn weights_ahead(
        &self,
        task: &MacroTile,
        next: Option<&MacroTile>,
        plan: &Plan<T>,
        panels: usize,
    ) -> Ahead {
        let Some(next) = next.filter(|next| next.groups != task.groups) else { return Ahead::NONE };
        let strips = task.rows.len().div_ceil(MR);
        let group_lines = self.weights.group_stride() / (NR * T::PAIR);
        let lines = next.groups.len() * group_lines;
        if lines * self.halves() > MAX_PREFETCH_LINES * strips * panels * self.steps() {
            return Ahead::NONE;
        }
        let from =
            |group: usize| self.weights.as_ptr().wrapping_add(group * self.weights.group_stride()).cast();
        let gates = match self.is_geglu() {
            true => (from(next.groups.start + self.output_groups()), lines),
            false => (std::ptr::null(), 0),
        };
        Ahead::new([(from(next.groups.start), lines), gates], strips * panels * plan.k_blocks.len())
    }
}

/// Lines to prefetch in equal shares.
struct Ahead {
    ranges: [(*const u8, usize); 2],
    done: usize,
    shares: usize,
    taken: usize,
}

impl Ahead {
    const NONE: Self = Self { ranges: [(std::ptr::null(), 0); 2], done: 0, shares: 0, taken: 0 };

    fn new(ranges: [(*const u8, usize); 2], shares: usize) -> Self {
        Self { ranges, done: 0, shares, taken: 0 }
    }

    fn take(&mut self) -> Prefetch {
        let [first, second] = self.ranges;
        let lines = first.1 + second.1;
        if self.done >= lines {
            return Prefetch::NONE;
        }
        self.taken += 1;
        let end = (lines * self.taken).div_ceil(self.shares.max(1)).min(lines);
        let (range, start, end) = match self.done < first.1 {
            true => (first.0, self.done, end.min(first.1)),
            false => (second.0, self.done - first.1, end - first.1),
        };
        self.done += end - start;
        Prefetch { first: range.wrapping_add(start * tiles::ROW_BYTES), lines: end - start }
    }
}

multiversion! {
    /// The steps `of` every row's summed dimension into tiles: those of all rows for the first step, then
    /// those for the next. `rows` are the channels at each of the taps, row by row; zeros follow the last.
    fn copy_strip<T: Element>(rows: &[&[T]], taps: usize, of: Range<usize>, strip: &mut [T]) {
        let tiles_of_rows = (rows.len() / taps).div_ceil(tiles::ROWS);
        for (row, taps) in rows.chunks_exact(taps).enumerate() {
            let channels = taps[0].len();
            let (mut tap, mut channel) = (of.start * DEPTH / channels, of.start * DEPTH % channels);
            let steps = strip.chunks_exact_mut(tiles_of_rows * tiles::ROWS * DEPTH);
            for step in steps.take(of.len()) {
                let to = &mut step.as_chunks_mut::<DEPTH>().0[row];
                if let Some(from) = taps[tap][channel..].first_chunk::<DEPTH>() {
                    *to = *from;
                    channel += DEPTH;
                } else {
                    for to in to {
                        *to = taps.get(tap).map_or(T::default(), |channels| channels[channel]);
                        channel += 1;
                        if channel == channels {
                            (tap, channel) = (tap + 1, 0);
                        }
                    }
                }
                if channel == channels {
                    (tap, channel) = (tap + 1, 0);
                }
            }
        }
    }
}
