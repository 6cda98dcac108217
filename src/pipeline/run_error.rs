//! Error of one attempt at a job.

use crate::error::Error;

/// An error, or the discovery that the video is shorter than its file declares, after which the job starts
/// again with the actual length.
pub(super) enum RunError {
    VideoShorter {
        /// Actual number of frames.
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
    /// The error of the second attempt, which has started with the actual length.
    pub fn into_error(self) -> Error {
        match self {
            Self::Failed(error) => error,
            Self::VideoShorter { frames } => Error::Internal(format!(
                "the video ended after {frames} frames, fewer than in the previous attempt"
            )),
        }
    }
}
