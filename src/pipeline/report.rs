//! What a job says: its progress while it runs, and afterwards what was done and what it cost.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Serialize, Serializer};

use crate::options::FrameRange;

/// The eight stages, in the order in which a frame passes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    DecodeVideo,
    AlignFaces,
    AudioFeatures,
    EncodeLatents,
    DenoiseLatents,
    DecodeLatents,
    BlendFaces,
    MuxVideo,
}

impl Stage {
    pub const ALL: [Stage; 8] = [
        Stage::DecodeVideo,
        Stage::AlignFaces,
        Stage::AudioFeatures,
        Stage::EncodeLatents,
        Stage::DenoiseLatents,
        Stage::DecodeLatents,
        Stage::BlendFaces,
        Stage::MuxVideo,
    ];

    /// The stage's name in the report and in the source tree.
    pub fn name(self) -> &'static str {
        match self {
            Stage::DecodeVideo => "decode_video",
            Stage::AlignFaces => "align_faces",
            Stage::AudioFeatures => "audio_features",
            Stage::EncodeLatents => "encode_latents",
            Stage::DenoiseLatents => "denoise_latents",
            Stage::DecodeLatents => "decode_latents",
            Stage::BlendFaces => "blend_faces",
            Stage::MuxVideo => "mux_video",
        }
    }
}

/// Where a running job tells how far it is. Called from the thread that called
/// `LipSync::run`, often: it must not block.
pub trait Progress: Send {
    /// `done` of `total` units of `stage` are finished (frames; denoising counts its steps times its
    /// frames). `total` is absent while it is not known; `done == total` ends the stage.
    fn stage(&mut self, stage: Stage, done: usize, total: Option<usize>);

    /// Something that a person may want to know and that is no error.
    fn log(&mut self, message: &str) {
        tracing::info!("{message}");
    }
}

/// Says nothing.
impl Progress for () {
    fn stage(&mut self, _: Stage, _: usize, _: Option<usize>) {}

    fn log(&mut self, _: &str) {}
}

/// What was done and what it cost.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    #[serde(serialize_with = "as_text")]
    pub output: PathBuf,
    /// The published model's name, or the directory it was loaded from.
    pub model: String,
    pub device: String,
    pub dtype: String,
    pub seed: u64,
    pub steps: usize,
    pub guidance_scale: f64,
    pub deepcache: Option<usize>,
    /// Frames written.
    pub frames: usize,
    /// Distinct frames of the input that were used.
    pub source_frames: usize,
    pub fps: f64,
    /// Output frames that an earlier, killed run of this job had finished.
    pub resumed_frames: usize,
    /// Nothing was searched or encoded: an earlier job with this video did it.
    pub faces_from_cache: bool,
    /// The most chunks of 16 frames that went through the UNet together.
    pub batch_chunks: usize,
    #[serde(flatten)]
    pub faces: FaceReport,
    /// Seconds of work per stage. Stages overlap, so that the sum may exceed `seconds`.
    pub stage_seconds: StageTimes,
    pub seconds: f64,
    /// `seconds` divided by the output's duration.
    pub seconds_per_output_second: f64,
    /// The most memory that the process has held, where the system tells.
    pub peak_memory_bytes: Option<u64>,
    pub warnings: Vec<String>,
}

impl Report {
    /// With the time that the whole job took.
    #[cfg_attr(not(feature = "media"), expect(dead_code, reason = "only jobs are timed"))]
    pub(crate) fn timed(self, time: Duration) -> Self {
        let seconds = time.as_secs_f64();
        Self { seconds, seconds_per_output_second: seconds * self.fps / self.frames as f64, ..self }
    }
}

/// Output frames in which the face was not simply there, by what was done about it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct FaceReport {
    /// Passed through untouched: no face was found.
    pub frames_without_face: Vec<FrameRange>,
    /// The face was lost for a moment; its place was taken from the frames around.
    pub frames_bridged: Vec<FrameRange>,
    /// The face was lost; its last place was kept, as asked for.
    pub frames_held: Vec<FrameRange>,
    /// Passed through untouched: the face is turned further away than the model can do.
    pub frames_turned_away: Vec<FrameRange>,
    /// Passed through untouched: the voice is silent, and the original mouth was asked to stay.
    pub frames_silent: Vec<FrameRange>,
}

/// Seconds of work per stage; serialised as an object with one key per stage.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct StageTimes([f64; Stage::ALL.len()]);

impl StageTimes {
    pub fn add(&mut self, stage: Stage, time: Duration) {
        self.0[stage as usize] += time.as_secs_f64();
    }

    pub fn seconds(&self, stage: Stage) -> f64 {
        self.0[stage as usize]
    }
}

/// Adds up the work of a job's threads.
#[derive(Debug, Default)]
pub(crate) struct Clock(Mutex<StageTimes>);

#[cfg_attr(not(feature = "media"), expect(dead_code, reason = "only jobs are timed"))]
impl Clock {
    /// Runs `work` and counts its time to `stage`.
    pub fn time<T>(&self, stage: Stage, work: impl FnOnce() -> T) -> T {
        let started = Instant::now();
        let result = work();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).add(stage, started.elapsed());
        result
    }

    pub fn times(&self) -> StageTimes {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Serialize for StageTimes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(Stage::ALL.map(|stage| (stage.name(), self.seconds(stage))))
    }
}

/// A name need not be UTF-8, JSON has to be: what has no letter becomes U+FFFD.
fn as_text<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stage_times_serialise_by_name() {
        let mut times = StageTimes::default();
        times.add(Stage::DenoiseLatents, Duration::from_millis(1500));
        times.add(Stage::DenoiseLatents, Duration::from_millis(500));
        let json = serde_json::to_value(times).unwrap();
        assert_eq!(json["denoise_latents"], 2.0);
        assert_eq!(json.as_object().unwrap().len(), 8);
        assert!(Stage::ALL.iter().enumerate().all(|(i, &stage)| stage as usize == i));
    }

    #[cfg(unix)]
    #[test]
    fn an_output_whose_name_is_not_utf_8_can_be_reported() {
        use std::os::unix::ffi::OsStrExt;
        let path = Path::new(std::ffi::OsStr::from_bytes(b"a\xff.mp4"));
        assert_eq!(as_text(path, serde_json::value::Serializer).unwrap(), "a\u{fffd}.mp4");
    }
}
