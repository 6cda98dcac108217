//! Progress of a running job and the report of a finished one.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Serialize, Serializer};

use crate::options::FrameRange;

/// The eight stages, in the order of the data flow.
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

    /// Name of the stage in the report and in the source tree.
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

/// Receiver of a job's progress. It is called often, on the thread that called `LipSync::run`, and must not
/// block.
pub trait Progress: Send {
    /// `done` of `total` units of `stage` are finished. The unit is a frame; that of denoising is a step of
    /// one frame. `total` is `None` while it is not known. `done == total` ends the stage.
    fn stage(&mut self, stage: Stage, done: usize, total: Option<usize>);

    /// An informational message.
    fn log(&mut self, message: &str) {
        tracing::info!("{message}");
    }
}

/// Discards all progress.
impl Progress for () {
    fn stage(&mut self, _: Stage, _: usize, _: Option<usize>) {}

    fn log(&mut self, _: &str) {}
}

/// Result and cost of a finished job.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    #[serde(serialize_with = "as_text")]
    pub output: PathBuf,
    /// Name of the published model, or the directory of the model files.
    pub model: String,
    pub device: String,
    pub dtype: String,
    pub seed: u64,
    pub steps: usize,
    pub guidance_scale: f64,
    pub deepcache: Option<usize>,
    /// Frames in the output.
    pub frames: usize,
    /// Distinct frames of the video that were used.
    pub source_frames: usize,
    pub fps: f64,
    /// Output frames taken over from a killed run of the same job.
    pub resumed_frames: usize,
    /// Whether detection, tracking and encoding were skipped because the faces were cached.
    pub faces_from_cache: bool,
    /// Largest number of 16-frame chunks in one UNet batch.
    pub batch_chunks: usize,
    #[serde(flatten)]
    pub faces: FaceReport,
    /// Working time per stage in seconds. Stages overlap, so the sum may exceed `seconds`.
    pub stage_seconds: StageTimes,
    pub seconds: f64,
    /// `seconds` divided by the output's duration.
    pub seconds_per_output_second: f64,
    /// Peak resident memory of the process, if the system reports it.
    pub peak_memory_bytes: Option<u64>,
    pub warnings: Vec<String>,
}

impl Report {
    /// Sets the wall time of the job.
    #[cfg_attr(not(feature = "media"), expect(dead_code, reason = "only jobs are timed"))]
    pub(crate) fn timed(self, time: Duration) -> Self {
        let seconds = time.as_secs_f64();
        Self { seconds, seconds_per_output_second: seconds * self.fps / self.frames as f64, ..self }
    }
}

/// Output frames in which the face was not simply detected and replaced.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct FaceReport {
    /// Unchanged: no face was found.
    pub frames_without_face: Vec<FrameRange>,
    /// The face was not detected for a moment; its position was interpolated.
    pub frames_bridged: Vec<FrameRange>,
    /// The face was not detected; its last position was used (`on_missing_face: hold`).
    pub frames_held: Vec<FrameRange>,
    /// Unchanged: the face is turned beyond `max_yaw`.
    pub frames_turned_away: Vec<FrameRange>,
    /// Unchanged: the voice is silent (`silence: keep`).
    pub frames_silent: Vec<FrameRange>,
}

/// Working time per stage in seconds; serialised as an object with one key per stage.
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

/// Sums the working time of a job's threads by stage.
#[derive(Debug, Default)]
pub(crate) struct StageClock(Mutex<StageTimes>);

#[cfg_attr(not(feature = "media"), expect(dead_code, reason = "only jobs are timed"))]
impl StageClock {
    /// Runs `work` and adds its duration to `stage`.
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

/// Serialises a path. Bytes that are not UTF-8 become U+FFFD, since JSON must be UTF-8.
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
    fn an_output_path_that_is_not_utf_8_can_be_serialised() {
        use std::os::unix::ffi::OsStrExt;
        let path = Path::new(std::ffi::OsStr::from_bytes(b"a\xff.mp4"));
        assert_eq!(as_text(path, serde_json::value::Serializer).unwrap(), "a\u{fffd}.mp4");
    }
}
