//! Errors of reading a request from a file.

use std::path::PathBuf;

use super::FieldError;
use crate::system;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Failure to read a request's file, or a field of it that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("request `{}` is refused", path.display())]
    Refused {
        path: PathBuf,
        #[source]
        source: FieldError,
    },

    #[error(transparent)]
    System(#[from] system::Error),
}
