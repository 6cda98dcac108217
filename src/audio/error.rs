//! Errors of reading the voice.

use std::path::PathBuf;

#[cfg(feature = "media")]
use crate::media;
use crate::system;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A file whose sound cannot be read or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("cannot read the sound of `{}`: {reason}", path.display())]
    Unreadable { path: PathBuf, reason: String },

    #[error("`{}` has an audio stream without a single sample", path.display())]
    Empty { path: PathBuf },

    #[error("`{}` has a sample of {value} at second {second:.3}", path.display())]
    Sample { path: PathBuf, second: f64, value: f32 },

    #[error("`{}` is cut short: {got:.2} s of sound, its header promises {expected:.2} s", path.display())]
    Truncated { path: PathBuf, got: f64, expected: f64 },

    /// Builds without FFmpeg read plain WAV only.
    #[error(
        "`{}` is not a media file that can be read: not a plain WAV file, and this build has no FFmpeg (feature \
         `media`) to read other formats",
        path.display()
    )]
    NotWav { path: PathBuf },

    #[cfg(feature = "media")]
    #[error(transparent)]
    Media(media::Error),

    #[error(transparent)]
    System(#[from] system::Error),
}

#[cfg(feature = "media")]
impl From<media::Error> for Error {
    fn from(error: media::Error) -> Self {
        match error {
            media::Error::System(error) => Self::System(error),
            error => Self::Media(error),
        }
    }
}
