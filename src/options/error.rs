//! The error of an option whose value cannot be used.

use std::path::PathBuf;

pub type Result<T, E = InvalidOption> = std::result::Result<T, E>;

/// An option's value that is out of range, unknown, or does not fit another option.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidOption {
    #[error("{option} is {value}: it must be {expected}")]
    Value { option: &'static str, value: String, expected: String },

    #[error(
        "the extension of `{}` means none of the containers mp4, mov and mkv: use another, or choose a container",
        path.display()
    )]
    Extension { path: PathBuf },
}
