//! Where the time goes: calls, seconds and work of every kind and shape of operation. Off until [`start`] is called;
//! until then it costs an operation one load of a flag.
//!
//! The table is the process's: one measurement at a time. An operation inside of another counts as part of it.

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

/// What an operation is, whatever its shape.
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

/// What all calls of one kind and shape came to.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Totals {
    pub calls: u64,
    pub seconds: f64,
    /// A multiplication and an addition are two. Only products count: what norms and activations compute is small
    /// beside what they read.
    pub flop: f64,
    /// Inputs, weights and output, each moved once.
    pub bytes: f64,
}

/// One line of a finished measurement.
#[derive(Debug, Clone, PartialEq)]
pub struct Operation {
    pub kind: Kind,
    /// For people: `16384×320→2560`.
    pub shape: String,
    pub totals: Totals,
}

/// Begins a measurement, with an empty table.
pub fn start() {
    table().clear();
    ON.store(true, Ordering::Relaxed);
}

/// Ends the measurement: what was recorded since [`start`].
pub fn stop() -> Vec<Operation> {
    ON.store(false, Ordering::Relaxed);
    let recorded = std::mem::take(&mut *table());
    recorded.into_iter().map(|((kind, shape), totals)| Operation { kind, shape, totals }).collect()
}

fn table() -> std::sync::MutexGuard<'static, BTreeMap<(Kind, String), Totals>> {
    TABLE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a call has to do.
pub(crate) struct Work {
    pub kind: Kind,
    pub shape: String,
    pub flop: f64,
    pub bytes: f64,
}

impl Work {
    /// For what is bound by memory: an output like `x`.
    pub fn moving(kind: Kind, x: &Tensor) -> Self {
        Self::moving_bytes(kind, x, 2. * bytes(x))
    }

    /// For what is bound by memory.
    pub fn moving_bytes(kind: Kind, x: &Tensor, bytes: f64) -> Self {
        let dims: Vec<_> = x.dims().iter().map(ToString::to_string).collect();
        Self { kind, shape: dims.join("×"), flop: 0., bytes }
    }
}

/// The bytes of a tensor's elements.
pub(crate) fn bytes(x: &Tensor) -> f64 {
    (x.elem_count() * x.dtype().size_in_bytes()) as f64
}

/// Times the rest of its scope, if a measurement is under way and no outer operation is being timed. `x` is one of the
/// operands: its device is waited for.
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
        // A GPU that fails says so to whoever reads the result.
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
