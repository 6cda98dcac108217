//! What a measurement leaves: one JSON object, printed, stored, and compared with others.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Part;
use super::machine::{Load, Machine};
use crate::bench::stats::Spread;
use crate::bench::{Error, Result};
use crate::system;

/// Everything that one call of `latentsync bench` measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub version: String,
    pub commit: Option<String>,
    pub command: String,
    /// When it began, since 1970.
    pub unix_seconds: u64,
    pub machine: Machine,
    pub setting: Setting,
    /// Before the first measurement.
    pub load: Load,
    /// Absent on a GPU.
    pub peak: Option<Peak>,
    /// Reading or making the weights, and packing them.
    pub load_seconds: f64,
    pub parts: BTreeMap<Part, PartRecord>,
    pub job: Option<JobRecord>,
    /// What the networks take for a second of output, from the parts: 25 frames, 20 steps, no guidance, and two
    /// images encoded for every frame.
    pub seconds_per_output_second: Option<f64>,
    pub peer: Option<PeerRecord>,
    /// The peer's median, of its fastest variant, over ours.
    pub ratios: BTreeMap<Part, f64>,
    /// The same of the fastest runs.
    pub ratios_of_minima: BTreeMap<Part, f64>,
    pub warnings: Vec<String>,
}

/// What was measured, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Setting {
    /// `synthetic-256`, or the model's name or directory.
    pub model: String,
    /// Side of the faces, in pixels.
    pub resolution: usize,
    /// That the UNet sees at once.
    pub frames: usize,
    pub device: String,
    pub dtype: String,
    pub threads: usize,
    pub runs: usize,
    pub warm_up: usize,
}

/// What the machine's arithmetic reaches in a loop on registers, all threads together, in FLOP/s.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Peak {
    /// The loop whose instructions the kernels use here.
    pub name: String,
    pub flops: f64,
    /// Every loop that this machine can run.
    pub loops: BTreeMap<String, f64>,
}

/// One part of the work.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PartRecord {
    /// Wall time of each run.
    pub seconds: Spread,
    /// The first run of all, which warms up.
    pub first_seconds: f64,
    /// Time of all threads in each run, which other processes disturb less.
    pub processor_seconds: Option<Spread>,
    /// The share of the machine that others had meanwhile.
    pub others_share: Option<f64>,
    pub flop: f64,
    /// In the median run.
    pub flops: f64,
    pub share_of_peak: Option<f64>,
    /// In a second of processor time of the median run, and its share of one core's part of the peak: what is left of
    /// a figure while others compute.
    pub core_flops: Option<f64>,
    pub core_share_of_peak: Option<f64>,
    pub peak_memory_bytes: Option<u64>,
    /// By kind, of the fastest run. On a GPU, of one run in which every operation was waited for.
    pub operations: Vec<OperationRecord>,
    /// The same by shape.
    pub shapes: Vec<OperationRecord>,
}

/// The operations of one kind, or of one kind and shape.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OperationRecord {
    /// `other` is what no operation was timed for: copies, casts, sums.
    pub kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shape: Option<String>,
    pub calls: u64,
    pub seconds: f64,
    /// Of the run.
    pub share: f64,
    pub flop: f64,
    pub flops: f64,
    pub share_of_peak: Option<f64>,
    pub bytes: f64,
    pub bytes_per_second: f64,
}

/// Whole jobs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobRecord {
    pub seconds: Spread,
    pub seconds_per_output_second: f64,
    pub frames: usize,
    pub fps: f64,
    pub steps: usize,
    pub deepcache: Option<usize>,
    /// The most chunks that the UNet was given at once; 0 where an old record does not say.
    #[serde(default)]
    pub batch_chunks: usize,
    /// Of the fastest run. Stages overlap, so that the sum may exceed `seconds`.
    pub stage_seconds: BTreeMap<String, f64>,
    /// UNet and VAE's part of the time.
    pub networks_share: f64,
    pub peak_memory_bytes: Option<u64>,
    pub others_share: Option<f64>,
}

/// What the peer is, and what it took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerRecord {
    /// Versions, threads and device, in its own words.
    pub about: serde_json::Value,
    pub parts: BTreeMap<Part, PeerPart>,
}

/// The peer's runs of one part, each after one of ours.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerPart {
    /// The fastest.
    pub variant: String,
    pub seconds: Spread,
    /// Every variant's best of two runs, when the fastest was chosen.
    pub tried: BTreeMap<String, f64>,
    /// Variants that do not run here, and why.
    pub failed: BTreeMap<String, String>,
    pub parameters: u64,
}

impl Record {
    pub fn read(path: &Path) -> Result<Self> {
        let text =
            fs::read(path).map_err(|source| system::Error::ReadFile { path: path.to_path_buf(), source })?;
        serde_json::from_slice(&text)
            .map_err(|error| Error::Record { path: path.to_path_buf(), problem: error.to_string() })
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        let refuse = |source| system::Error::WriteFile { path: path.to_path_buf(), source };
        let mut text = serde_json::to_string_pretty(self).map_err(|error| refuse(error.into()))?;
        text.push('\n');
        Ok(fs::write(path, text).map_err(refuse)?)
    }
}
