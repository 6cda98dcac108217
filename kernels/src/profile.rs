//! Operation profiler: calls, seconds, FLOP and bytes for each kind and shape of operation.
//!
//! Profiling is off until [`start`] is called; while it is off, an operation pays for one atomic load. The
//! table is global to the process, so only one measurement runs at a time. An operation called by another
//! operation is counted as part of the outer one.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use candle_core::{Device, Tensor};

static ON: AtomicBool = AtomicBool::new(false);
static TABLE: Mutex<BTreeMap<(Kind, String), Totals>> = Mutex::new(BTreeMap::new());

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Kind of an operation, independent of its shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Linear,
    Conv2d,
    SelfAttention,
    CrossAttention,
    TemporalAttention,
    GroupNorm,
    LayerNorm,
    Activation,
    Join,
    Warp,
    Resize,
    Erode,
    Blur,
    Blend,
}

impl Kind {
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Linear => "linear",
            Kind::Conv2d => "conv2d",
            Kind::SelfAttention => "self_attention",
            Kind::CrossAttention => "cross_attention",
            Kind::TemporalAttention => "temporal_attention",
            Kind::GroupNorm => "group_norm",
            Kind::LayerNorm => "layer_norm",
            Kind::Activation => "activation",
            Kind::Join => "join",
            Kind::Warp => "warp",
            Kind::Resize => "resize",
            Kind::Erode => "erode",
            Kind::Blur => "blur",
            Kind::Blend => "blend",
        }
    }
}

/// Totals over all calls of one kind and shape.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Totals {
    pub calls: u64,
    pub seconds: f64,
    /// Floating-point operations of the matrix products; a multiply-add counts as two. Norms and activations
    /// count as 0: they are bound by memory bandwidth.
    pub flop: f64,
    /// Bytes of inputs, weights and output, each counted once.
    pub bytes: f64,
}

/// One row of a finished profile.
#[derive(Debug, Clone, PartialEq)]
pub struct Operation {
    pub kind: Kind,
    /// Human-readable shape, such as `16384×320→2560`.
    pub shape: String,
    pub totals: Totals,
}

/// Clears the table and starts recording.
pub fn start() {
    table().clear();
    ON.store(true, Ordering::Relaxed);
}

/// Stops recording and returns the operations recorded since [`start`].
pub fn stop() -> Vec<Operation> {
    ON.store(false, Ordering::Relaxed);
    let recorded = std::mem::take(&mut *table());
    recorded.into_iter().map(|((kind, shape), totals)| Operation { kind, shape, totals }).collect()
}

fn table() -> std::sync::MutexGuard<'static, BTreeMap<(Kind, String), Totals>> {
    TABLE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Work of one call: what [`timer`] adds to the table.
pub(crate) struct Work {
    pub kind: Kind,
    pub shape: String,
    pub flop: f64,
    pub bytes: f64,
}

impl Work {
    /// Work of a memory-bound operation that reads `x` and writes an output of the same size.
    pub fn moving(kind: Kind, x: &Tensor) -> Self {
        Self::moving_bytes(kind, x, 2.0 * bytes(x))
    }

    /// Work of a memory-bound operation that reads and writes `bytes` in total.
    pub fn moving_bytes(kind: Kind, x: &Tensor, bytes: f64) -> Self {
        let dims: Vec<_> = x.dims().iter().map(ToString::to_string).collect();
        Self { kind, shape: dims.join("×"), flop: 0.0, bytes }
    }
}

/// Size of a tensor in bytes.
pub(crate) fn bytes(x: &Tensor) -> f64 {
    (x.elem_count() * x.dtype().size_in_bytes()) as f64
}

/// Guard that times the scope it lives in. `None` if profiling is off or an outer operation is already timed.
/// `x` is one of the operands: the guard synchronizes its device before it reads the clock.
#[inline]
pub(crate) fn timer(x: &Tensor, work: impl FnOnce() -> Work) -> Option<Timer> {
    if !ON.load(Ordering::Relaxed) || INSIDE.replace(true) {
        return None;
    }
    Some(Timer { work: Some(work()), device: x.device().clone(), started: Instant::now() })
}

/// See [`timer`].
pub(crate) struct Timer {
    work: Option<Work>,
    device: Device,
    started: Instant,
}

impl Drop for Timer {
    fn drop(&mut self) {
        INSIDE.set(false);
        // A device error is reported when the result is read.
        let _ = self.device.synchronize();
        let seconds = self.started.elapsed().as_secs_f64();
        if let Some(Work { kind, shape, flop, bytes }) = self.work.take() {
            let mut table = table();
            let totals = table.entry((kind, shape)).or_default();
            totals.calls += 1;
            totals.seconds += seconds;
            totals.flop += flop;
            totals.bytes += bytes;
        }
    }
}
