//! Errors of the benchmark harness.

use std::path::PathBuf;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Failure of a benchmark.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error(transparent)]
    Engine(crate::Error),

    #[error("`{}` is no record of `latentsync bench`: {problem}", path.display())]
    Record { path: PathBuf, problem: String },

    #[error("the peer cannot be measured: {problem}")]
    Peer { problem: String, cause: PeerCause },

    /// A condition that the program itself must prevent.
    #[error("{0}")]
    Internal(String),
}

/// Why the peer, the PyTorch script that is measured for comparison, failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerCause {
    /// The script is not where it was expected.
    NoScript,
    /// Python is not installed.
    NoPython,
    /// The script reported an error, or its process ended.
    Failed,
    Other,
}

impl<E: Into<crate::Error>> From<E> for Error {
    fn from(error: E) -> Self {
        Self::Engine(error.into())
    }
}
