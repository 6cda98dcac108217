//! Everything that can go wrong, one variant per thing a user can act on.

use std::path::PathBuf;

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
    InvalidOption {
        option: &'static str,
        value: String,
        expected: String,
    },

    #[error("{mode} is not implemented yet")]
    UnsupportedMode { mode: &'static str },

    #[error("device `{device}` cannot be used")]
    Device {
        device: String,
        #[source]
        source: candle_core::Error,
    },

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

    #[error("interrupted")]
    Interrupted,

    #[error("computation failed in {stage}")]
    Compute {
        stage: &'static str,
        #[source]
        source: candle_core::Error,
    },
}

impl Error {
    /// The process's exit code: 2 usage, 3 input, 4 model, 5 device or memory, 130 interrupted.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Usage(_) | Error::InvalidOption { .. } | Error::UnsupportedMode { .. } => 2,
            Error::ReadFile { .. } | Error::WriteFile { .. } => 3,
            Error::Device { .. } | Error::Compute { .. } => 5,
            Error::Interrupted => 130,
        }
    }

    /// What the user can do about it, where there is something to say beyond the message.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Device { .. } => {
                Some("`latentsync doctor` lists what this machine and this build can compute on".to_string())
            }
            Error::UnsupportedMode { .. } => Some(
                "use `--loop-mode pingpong` or `loop`, or a voice and a video of equal length".to_string(),
            ),
            _ => None,
        }
    }
}
