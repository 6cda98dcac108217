//! Errors of reading and writing media files.

use std::path::PathBuf;

use crate::options::VideoCodec;
use crate::system;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A file that FFmpeg cannot read, an output that it cannot write, or an encoder that is missing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
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

    #[error(
        "not enough space at `{}`: frames that are shown again need {}, {} are free",
        path.display(), bytesize::ByteSize(*needed), bytesize::ByteSize(*free)
    )]
    NotEnoughDisk { path: PathBuf, needed: u64, free: u64 },

    #[error("FFmpeg has no encoder `{name}`")]
    NoEncoder { name: &'static str },

    /// `path` is the output.
    #[error("cannot encode `{}`: {reason}", path.display())]
    Encode { path: PathBuf, reason: String },

    /// The sound of the input `path` cannot be decoded and encoded for the output.
    #[error("cannot encode `{}`: its sound{reason}", path.display())]
    EncodeSound { path: PathBuf, reason: String },

    #[error("no hardware encoder for {codec} could be used{}", tried_list(tried))]
    NoHardwareEncoder { codec: VideoCodec, tried: String },

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

    #[error(transparent)]
    System(#[from] system::Error),
}

/// ": this; that", or an empty string.
fn tried_list(tried: &str) -> String {
    if tried.is_empty() { String::new() } else { format!(": {tried}") }
}
