//! Errors of finding and tracking a face.

use std::path::PathBuf;

use crate::{system, weights};

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A face that is absent, anchors that cannot be used, or a failed detector.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("cannot use the anchors in `{}`: {reason}", path.display())]
    Anchors { path: PathBuf, reason: String },

    #[error(transparent)]
    Model(#[from] models::face::FaceModelError),

    #[error("no face in frame {frame} of the video, at {seconds:.2} s")]
    Missing { frame: usize, seconds: f64 },

    #[error("no face in the reference picture `{}`", path.display())]
    NoReferenceFace { path: PathBuf },

    #[error("the search for a face failed in `{}`", path.display())]
    ReferenceSearch {
        path: PathBuf,
        #[source]
        source: Box<candle_core::Error>,
    },

    #[error("the search for a face failed in frame {frame}")]
    Search {
        frame: usize,
        #[source]
        source: Box<candle_core::Error>,
    },

    #[error(transparent)]
    Weights(weights::Error),

    #[error(transparent)]
    System(#[from] system::Error),
}

impl From<weights::Error> for Error {
    fn from(error: weights::Error) -> Self {
        match error {
            weights::Error::System(error) => Self::System(error),
            error => Self::Weights(error),
        }
    }
}
