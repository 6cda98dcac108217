//! Errors of finding, downloading, reading and converting model files.

use std::fmt;
use std::io;
use std::path::PathBuf;

use candle_core::DType;

use crate::system;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A model that is absent, incomplete or damaged, or a failed download. `model` is a package's name, as
/// [`Manifest::name`](super::Manifest::name) has it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("`{file}` of {model} is not in `{}`", cache.display())]
    NotPulled { model: String, file: String, cache: PathBuf },

    #[error("`{}` has no {part}: looked for {looked_for}", directory.display())]
    Incomplete { directory: PathBuf, part: MissingPart, looked_for: String },

    #[error("cannot read model file `{}`", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },

    #[error("cannot write model file `{}`", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },

    #[error("model file `{}`: {problem}", path.display())]
    File { path: PathBuf, problem: String },

    #[error("`{}` is truncated: {bytes} bytes, expected {expected}", path.display())]
    Truncated {
        path: PathBuf,
        bytes: u64,
        expected: String,
        /// The package that the file belongs to; `None` for a file outside the cache.
        model: Option<String>,
    },

    #[error("`{}` contains code ({name}) and was refused", path.display())]
    Code { path: PathBuf, name: String },

    #[error("`{}`: missing key `{key}`", path.display())]
    MissingKey { path: PathBuf, key: String },

    #[error("`{}`: unexpected key{} {}", path.display(), if *count == 1 { "" } else { "s" }, first_of(keys, *count))]
    UnexpectedKeys {
        path: PathBuf,
        /// The first few of them.
        keys: Vec<String>,
        count: usize,
    },

    #[error("`{}`: shape of `{key}`: expected {expected:?}, got {got:?}", path.display())]
    KeyShape { path: PathBuf, key: String, expected: Vec<usize>, got: Vec<usize> },

    #[error("`{}` is {model}, for {is}-pixel faces, but {config} says {says} pixels", path.display())]
    ResolutionConflict { path: PathBuf, model: &'static str, is: usize, config: String, says: usize },

    #[error("`{file}` from {repository} arrived damaged and was removed: {problem}")]
    DamagedDownload { repository: String, file: String, problem: String, model: String },

    #[error("cannot download `{file}` from {repository}")]
    Download {
        repository: String,
        file: String,
        cause: Box<DownloadCause>,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },

    #[error("cannot download {model}: offline")]
    Offline { model: String },

    #[error("not enough disk space at `{}`: {needed} bytes needed, {free} free", path.display())]
    DiskFull { path: PathBuf, needed: u64, free: u64 },

    #[error("InsightFace's models are for non-commercial research only, and their licence was not accepted")]
    LicenceNotAccepted,

    #[error("another process is downloading `{file}`")]
    DownloadBusy { file: String },

    #[error("`demo` is a part of the program: there is nothing to fetch or to check")]
    DemoIsBuiltIn,

    #[error("no model is called `{name}`; there are {known}")]
    UnknownPackage { name: String, known: String },

    #[error("manifest: {0}")]
    Manifest(serde_json::Error),

    #[error("this build has no demo model: it was made without the feature `demo`")]
    NoDemoModel,

    #[error("weights are not kept as {0:?}: bf16, f16 or f32")]
    StorageType(DType),

    #[error("`{}` exists already: name a new directory", path.display())]
    OutputExists { path: PathBuf },

    #[error(transparent)]
    System(#[from] system::Error),
}

/// The part that a model directory lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MissingPart {
    Unet,
    UnetConfig,
    Vae,
    VaeConfig,
    /// The Whisper that the published models use.
    Whisper,
    /// A Whisper of this many channels (`n_audio_state`), which no published model has.
    WhisperOfWidth(usize),
}

impl fmt::Display for MissingPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unet => "UNet",
            Self::UnetConfig => "UNet configuration",
            Self::Vae => "VAE",
            Self::VaeConfig => "VAE configuration",
            Self::Whisper | Self::WhisperOfWidth(_) => "Whisper",
        })
    }
}

/// Why a download failed, as far as the user can do something about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DownloadCause {
    /// The hub's address cannot be used.
    BadEndpoint,
    /// The hub denies access to the repository without a token that may read it.
    AccessDenied,
    /// The hub at `endpoint` has no such repository, revision or file.
    NotFound {
        endpoint: String,
    },
    RateLimited,
    /// The connection to `endpoint` failed. The next download of `model` continues where this one stopped.
    Connection {
        endpoint: String,
        model: String,
    },
}

/// "`a`, `b` and 7 more".
fn first_of(keys: &[String], count: usize) -> String {
    let named = keys.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ");
    match count.saturating_sub(keys.len()) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}
