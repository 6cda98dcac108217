//! Errors of loading a face model.

use std::path::PathBuf;

/// A face model file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FaceModelError {
    #[error("cannot read face model `{}`", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// The file is malformed.
    #[error("face model `{}` is damaged at byte {offset}: {what}", path.display())]
    Damaged { path: PathBuf, offset: u64, what: String },
    /// The file is intact, but not the model that this detector needs.
    #[error("face model `{}` is not the expected one: {what}", path.display())]
    Unexpected { path: PathBuf, what: String },
}
