//! Errors of fetching an input.

use super::FetchProblem;
use crate::system;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Failure to make a local file of an input.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("cannot fetch {input}: {problem}")]
    Fetch {
        /// The input without passwords and signatures.
        input: String,
        problem: FetchProblem,
    },

    #[error(transparent)]
    System(#[from] system::Error),
}
