//! Everything that can go wrong, one variant per thing a user can act on.

use std::path::PathBuf;

use crate::weights::pull_command;

/// The result of every fallible function of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, with the file and the place. [`Error::hint`] says what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("{0}")]
    Usage(String),

    // Options, requests and devices.
    #[error("{option} is {value}: it must be {expected}")]
    InvalidOption { option: &'static str, value: String, expected: String },

    #[error("request `{}` is refused", path.display())]
    Request {
        path: PathBuf,
        #[source]
        source: crate::request::FieldError,
    },

    #[error("device `{device}` cannot be used")]
    Device {
        device: String,
        #[source]
        source: candle_core::Error,
    },

    #[error("not enough memory: {:.1} GB needed, {:.1} GB available", *needed as f64 / 1e9, *available as f64 / 1e9)]
    Memory { needed: u64, available: u64 },

    // Files.
    #[error("cannot read `{}`", path.display())]
    ReadFile {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },

    #[error("cannot write `{}`", path.display())]
    WriteFile {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },

    // Jobs.
    #[error("cannot use the anchors in `{}`: {reason}", path.display())]
    Anchors { path: PathBuf, reason: String },

    #[error(transparent)]
    FaceModel(#[from] models::face::FaceModelError),

    // Faces.
    #[error("no face in frame {frame} of the video, at {seconds:.2} s")]
    FaceMissing { frame: usize, seconds: f64 },

    #[error("no face in the reference picture `{}`", path.display())]
    NoReferenceFace { path: PathBuf },

    #[error("the search for a face failed in `{}`", path.display())]
    ReferenceFaceSearch {
        path: PathBuf,
        #[source]
        source: candle_core::Error,
    },

    #[error("the search for a face failed in frame {frame}")]
    FaceSearch {
        frame: usize,
        #[source]
        source: candle_core::Error,
    },

    /// Seen by nobody: the job starts again and keeps its frames.
    #[error("the video ended after {frames} frames, before the file had announced it")]
    VideoShorterThanAnnounced { frames: usize },
    // media
    #[error("`{}` is not a media file that can be read: {reason}", path.display())]
    NotMedia { path: PathBuf, reason: String },

    #[error("`{}` has no video stream", path.display())]
    NoVideoStream { path: PathBuf },

    #[error("`{}` has no audio stream", path.display())]
    NoAudioStream { path: PathBuf },

    #[error("no frame of `{}` could be decoded ({damaged} damaged packets)", path.display())]
    NoFrames { path: PathBuf, damaged: u64 },

    #[error("frame {frame} of `{}` is in a format that cannot be converted: {reason}", path.display())]
    Picture { path: PathBuf, frame: u64, reason: String },

    #[error("`{}` is high dynamic range video ({transfer})", path.display())]
    HighDynamicRange { path: PathBuf, transfer: &'static str },

    #[error("the output `{}` is also an input", path.display())]
    OutputIsInput { path: PathBuf },

    #[error("no space left for `{}`", path.display())]
    DiskFull { path: PathBuf },

    #[error(
        "not enough space at `{}`: frames that are shown again need {}, {} are free",
        path.display(), bytesize::ByteSize(*needed), bytesize::ByteSize(*free)
    )]
    NotEnoughDisk { path: PathBuf, needed: u64, free: u64 },

    #[error("FFmpeg has no encoder `{name}`")]
    NoEncoder { name: &'static str },

    #[error("cannot encode `{}`: {reason}", path.display())]
    Encode { path: PathBuf, reason: String },

    // output and journal
    #[error("no hardware encoder for {codec} could be used{}", tried_list(tried))]
    NoHardwareEncoder { codec: crate::options::VideoCodec, tried: String },

    #[error("the killed job that was writing `{}` cannot be continued: {what} differ from this one's", path.display())]
    NotResumable { path: PathBuf, what: &'static str },

    #[error(
        "the killed job that was writing `{}` cannot be resumed: its journal has version {found}, this program reads \
         version {expected}",
        path.display()
    )]
    JournalVersion { path: PathBuf, found: u32, expected: u32 },

    #[error("another job is writing `{}`", path.display())]
    OutputBusy { path: PathBuf },

    // Inputs that are no regular files.
    #[error("cannot fetch {input}: {problem}")]
    Fetch {
        /// Without passwords and signatures.
        input: String,
        problem: crate::input::FetchProblem,
    },

    // Audio.
    #[error("cannot read the sound of `{}`: {reason}", path.display())]
    Audio { path: PathBuf, reason: String },

    #[error("`{}` has an audio stream without a single sample", path.display())]
    EmptyAudio { path: PathBuf },

    #[error("`{}` has a sample of {value} at second {second:.3}", path.display())]
    AudioSample { path: PathBuf, second: f64, value: f32 },

    #[error("`{}` is cut short: {got:.2} s of sound, its header promises {expected:.2} s", path.display())]
    AudioTruncated { path: PathBuf, got: f64, expected: f64 },

    #[error("interrupted")]
    Interrupted,

    // model
    #[error("`{file}` of {model} is not in `{}`", cache.display())]
    ModelNotPulled { model: String, file: String, cache: PathBuf },

    #[error("`{}` has no {what}: looked for {looked_for}", directory.display())]
    ModelIncomplete { directory: PathBuf, what: &'static str, looked_for: String, remedy: String },

    #[error("cannot read model file `{}`", path.display())]
    ReadModel {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },

    #[error("cannot write model file `{}`", path.display())]
    WriteModel {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },

    #[error("model file `{}`: {problem}", path.display())]
    ModelFile { path: PathBuf, problem: String },

    #[error("`{}` is truncated: {bytes} bytes, expected {expected}", path.display())]
    ModelTruncated { path: PathBuf, bytes: u64, expected: String, remedy: String },

    #[error("`{}` contains code ({name}) and was refused", path.display())]
    ModelCode { path: PathBuf, name: String },

    #[error("`{}`: missing key `{key}`", path.display())]
    MissingKey { path: PathBuf, key: String },

    #[error("`{}`: unexpected key{} {}", path.display(), if *count == 1 { "" } else { "s" }, first_of(keys, *count))]
    UnexpectedKeys {
        path: PathBuf,
        /// The first few.
        keys: Vec<String>,
        count: usize,
    },

    #[error("`{}`: shape of `{key}`: expected {expected:?}, got {got:?}", path.display())]
    KeyShape { path: PathBuf, key: String, expected: Vec<usize>, got: Vec<usize> },

    #[error("`{}` is {model}, for {is}-pixel faces, but {config} says {says} pixels", path.display())]
    ResolutionConflict { path: PathBuf, model: &'static str, is: usize, config: String, says: usize },

    #[error("`{file}` from {repository} arrived damaged and was removed: {problem}")]
    DamagedDownload { repository: String, file: String, problem: String, remedy: String },

    #[error("cannot download `{file}` from {repository}")]
    Download {
        repository: String,
        file: String,
        advice: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },

    #[error("cannot download {model}: offline")]
    Offline { model: String },

    #[error("not enough disk space at `{}`: {needed} bytes needed, {free} free", path.display())]
    ModelDiskFull { path: PathBuf, needed: u64, free: u64 },

    #[error("InsightFace's models are for non-commercial research only, and their licence was not accepted")]
    LicenceNotAccepted,

    #[error("another process is downloading `{file}`")]
    DownloadBusy { file: String },

    #[error("{models}: not complete and intact")]
    ModelsNotIntact { models: String, first: &'static str },

    // The server.
    #[error("cannot use the database `{}`", path.display())]
    Database {
        path: PathBuf,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },

    #[error("cannot listen on {address}")]
    Listen {
        address: String,
        #[source]
        source: std::io::Error,
    },

    // The benchmark harness.
    #[error("`{}` is no record of `latentsync bench`: {problem}", path.display())]
    BenchRecord { path: PathBuf, problem: String },

    #[error("the peer cannot be measured: {problem}")]
    Peer { problem: String, remedy: Option<&'static str> },

    #[error("computation failed in {stage}")]
    Compute {
        stage: &'static str,
        #[source]
        source: candle_core::Error,
    },

    #[error(
        "the generated face for frame {frame} (of 25 a second) has values that are not finite: the networks overflowed"
    )]
    FaceNotFinite { frame: usize },
}

/// What takes less memory.
const MEMORY_HINT: &str = "close other programs, or take less: `--dtype bf16`, or `--model latentsync-1.5` with its \
    smaller faces; in place of a GPU, `--device cpu` has the machine's memory";

impl Error {
    /// Whether a device had no memory left for a computation, which then had no result: less at once may still fit.
    pub fn is_out_of_memory(&self) -> bool {
        let Error::Compute { source, .. } = self else { return false };
        // The driver's and cuBLAS's words. Their types are there only in builds that know CUDA.
        let message = source.to_string();
        ["CUDA_ERROR_OUT_OF_MEMORY", "CUBLAS_STATUS_ALLOC_FAILED"].iter().any(|word| message.contains(word))
    }

    /// The process's exit code: 2 usage, 3 input, 4 model, 5 device or memory, 130 interrupted.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Usage(_) | Error::InvalidOption { .. } | Error::Request { .. } => 2,
            Error::ReadFile { .. } | Error::WriteFile { .. } => 3,
            Error::Anchors { .. } | Error::VideoShorterThanAnnounced { .. } => 3,
            Error::Device { .. }
            | Error::Memory { .. }
            | Error::Compute { .. }
            | Error::FaceNotFinite { .. }
            | Error::FaceSearch { .. }
            | Error::ReferenceFaceSearch { .. } => 5,
            Error::FaceMissing { .. } | Error::NoReferenceFace { .. } => 3,
            Error::NotMedia { .. }
            | Error::NoVideoStream { .. }
            | Error::NoAudioStream { .. }
            | Error::NoFrames { .. }
            | Error::Picture { .. }
            | Error::HighDynamicRange { .. }
            | Error::OutputIsInput { .. }
            | Error::DiskFull { .. }
            | Error::NotEnoughDisk { .. }
            | Error::Fetch { .. }
            | Error::Encode { .. } => 3,
            Error::NoEncoder { .. } | Error::NoHardwareEncoder { .. } => 5,
            Error::NotResumable { .. } | Error::JournalVersion { .. } => 2,
            Error::OutputBusy { .. } => 3,
            Error::Audio { .. }
            | Error::EmptyAudio { .. }
            | Error::AudioSample { .. }
            | Error::AudioTruncated { .. } => 3,
            Error::Database { .. } => 3,
            Error::Listen { .. } => 2,
            Error::BenchRecord { .. } | Error::Peer { .. } => 3,
            Error::Interrupted => 130,
            // model
            Error::ModelNotPulled { .. }
            | Error::FaceModel(_)
            | Error::ModelIncomplete { .. }
            | Error::ReadModel { .. }
            | Error::WriteModel { .. }
            | Error::ModelFile { .. }
            | Error::ModelTruncated { .. }
            | Error::ModelCode { .. }
            | Error::MissingKey { .. }
            | Error::UnexpectedKeys { .. }
            | Error::KeyShape { .. }
            | Error::ResolutionConflict { .. }
            | Error::DamagedDownload { .. }
            | Error::Download { .. }
            | Error::Offline { .. }
            | Error::ModelDiskFull { .. }
            | Error::LicenceNotAccepted
            | Error::DownloadBusy { .. }
            | Error::ModelsNotIntact { .. } => 4,
        }
    }

    /// What the user can do about it, where there is something to say beyond the message.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Error::Device { .. } => {
                "`latentsync doctor` lists what this machine and this build can compute on"
            }
            Error::FaceNotFinite { .. } => "try `--dtype f32` or `--dtype bf16`: f16 ends at 65504",
            Error::Memory { .. } => MEMORY_HINT,
            Error::Compute { .. } if self.is_out_of_memory() => MEMORY_HINT,
            Error::NotMedia { .. } => {
                "give a video, audio or image file that FFmpeg can play; a recording that was \
                                       cut off may have lost its index"
            }
            Error::NoVideoStream { .. } => "the video must have pictures: is this an audio file?",
            Error::NoAudioStream { .. } => "the voice must have sound: is this a silent video?",
            Error::EmptyAudio { .. } => "the voice must have sound: is this recording empty?",
            Error::Audio { .. } => "if a player can play it, `ffmpeg -i FILE voice.wav` makes a WAV of it",
            Error::AudioSample { .. } => {
                "export the sound again, as 16-bit WAV: a filter on the way has failed"
            }
            Error::AudioTruncated { .. } => {
                "fetch the file again; `ffmpeg -i FILE voice.wav` keeps what there is of it"
            }
            Error::NoFrames { .. } => "the file is damaged from its start; try another copy",
            Error::Picture { .. } => "`ffmpeg -i FILE -pix_fmt yuv420p OUT.mp4` may make a usual video of it",
            Error::HighDynamicRange { .. } => {
                "convert it to standard dynamic range (BT.709) first; the model \
                                               knows no other"
            }
            Error::OutputIsInput { .. } => "write to another file",
            Error::Listen { .. } => "choose another `--host` or `--port`",
            Error::WriteFile { path, source } if source.kind() == std::io::ErrorKind::NotFound => {
                let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty())?;
                return Some(format!("`mkdir -p {}` creates its directory", parent.display()));
            }
            Error::WriteFile { source, .. } if source.kind() == std::io::ErrorKind::AlreadyExists => {
                "choose another directory, or move that file away"
            }
            Error::Fetch { problem, .. } => problem.hint(),
            Error::DiskFull { .. } | Error::NotEnoughDisk { .. } => {
                "free some space or choose an output on another disk"
            }
            Error::NoEncoder { .. } => {
                "install an FFmpeg that is built with it, as distributions' packages are"
            }
            Error::NoHardwareEncoder { .. } => {
                "`--encoder auto` takes software where there is no hardware for it"
            }
            Error::NotResumable { .. } => {
                "give the same inputs and settings as before, or start again without `--resume`"
            }
            Error::JournalVersion { .. } => {
                "start again without `--resume`, or use the version that was killed"
            }
            Error::OutputBusy { .. } => "wait for it to finish, or write to another file",
            Error::BenchRecord { .. } => "`latentsync bench --out FILE` writes one",
            Error::Peer { remedy, .. } => (*remedy)?,
            _ => return self.model_hint(),
        };
        Some(hint.to_string())
    }

    fn model_hint(&self) -> Option<String> {
        match self {
            Error::ModelNotPulled { model, .. } => Some(format!("run `{}`", pull_command(model))),
            Error::ModelIncomplete { remedy, .. }
            | Error::ModelTruncated { remedy, .. }
            | Error::DamagedDownload { remedy, .. } => Some(remedy.clone()),
            Error::ModelCode { .. } => Some(
                "weights need no code: take the file from its publisher, `latentsync models pull latentsync-1.6`"
                    .into(),
            ),
            Error::MissingKey { .. } | Error::UnexpectedKeys { .. } | Error::KeyShape { .. } => {
                Some("the file belongs to another network or configuration".into())
            }
            Error::ResolutionConflict { config, is, .. } => {
                Some(format!("set `resolution: {is}` in {config}, or take the other model's checkpoint"))
            }
            Error::Download { advice, .. } => Some(advice.clone()),
            Error::Offline { model } => Some(format!(
                "unset HF_HUB_OFFLINE and run `{}` while connected",
                pull_command(model)
            )),
            Error::ModelDiskFull { .. } => Some("free some space, or point HF_HOME at a larger disk".into()),
            Error::LicenceNotAccepted => Some(
                "add `--accept-insightface-license` if your use is allowed; the default face detector needs no licence"
                    .into(),
            ),
            Error::ModelsNotIntact { first, .. } => {
                Some(format!("`{}` replaces what is damaged", pull_command(first)))
            }
            Error::FaceMissing { .. } => Some(
                "`--on-missing-face pass` leaves such frames as they are, `hold` keeps the last place; `--face` chooses \
                 another person"
                    .into(),
            ),
            Error::NoReferenceFace { .. } => {
                Some("take a picture that shows the face from the front, at least 50 pixels wide".into())
            }
            Error::DownloadBusy { .. } => Some("wait for it to finish, then run the command again".into()),
            _ => None,
        }
    }
}

/// "`a`, `b` and 7 more".
fn first_of(keys: &[String], count: usize) -> String {
    let named = keys.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ");
    match count.saturating_sub(keys.len()) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

/// ": this; that", or nothing.
fn tried_list(tried: &str) -> String {
    if tried.is_empty() { String::new() } else { format!(": {tried}") }
}

/// An output that cannot be written, or has no room.
pub(crate) fn write_error(path: &std::path::Path, source: std::io::Error) -> Error {
    let path = path.to_path_buf();
    match source.kind() {
        std::io::ErrorKind::StorageFull => Error::DiskFull { path },
        _ => Error::WriteFile { path, source },
    }
}

/// Puts a stage's name to a failed computation.
pub(crate) fn compute(stage: &'static str) -> impl Fn(candle_core::Error) -> Error {
    move |source| Error::Compute { stage, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As cudarc prints it, and candle passes it on.
    #[test]
    fn a_full_gpu_is_told_from_other_failures() {
        let failed = |message: &str| compute("denoise_latents")(candle_core::Error::msg(message));
        let full = failed("DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")");
        assert!(full.is_out_of_memory());
        assert!(full.hint().is_some_and(|hint| hint.contains("--device cpu")), "{:?}", full.hint());
        let other =
            failed("DriverError(CUDA_ERROR_ILLEGAL_ADDRESS, \"an illegal memory access was encountered\")");
        assert!(!other.is_out_of_memory() && other.hint().is_none());
        assert!(!Error::Interrupted.is_out_of_memory());
    }
}
