//! Why one attempt at a job ended early.

use crate::error::Error;

/// An error, or the discovery that the video is shorter than its file announces, after which the job starts again with
/// the length that was found.
pub(super) enum RunError {
    VideoShorter {
        /// Frames that the video has.
        frames: usize,
    },
    Failed(Error),
}

impl<E: Into<Error>> From<E> for RunError {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl RunError {
    /// The error of an attempt that was given the length found by the one before.
    pub fn into_error(self) -> Error {
        match self {
            Self::Failed(error) => error,
            Self::VideoShorter { frames } => Error::Internal(format!(
                "the video ended after {frames} frames, fewer than it had when it was read before"
            )),
        }
    }
}
