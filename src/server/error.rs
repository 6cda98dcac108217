//! Errors of the server itself. What a client is told is in `problem.rs`.

use std::io;
use std::path::PathBuf;

use crate::input;
use crate::system;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Failure of the server or of its storage, or the engine's.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error(transparent)]
    Engine(crate::Error),

    #[error("cannot use the database `{}`", path.display())]
    Database {
        path: PathBuf,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },

    #[error("cannot listen on {address}")]
    Listen {
        address: String,
        #[source]
        source: io::Error,
    },

    #[error("`{}` is neither empty nor a server's data directory", path.display())]
    NotADataDir { path: PathBuf },

    #[error("another server is using `{}`", path.display())]
    DataDirInUse { path: PathBuf },

    #[error("`{}` is of a newer version of this program", path.display())]
    NewerDatabase { path: PathBuf },

    /// A fault of the program or of its surroundings that no option causes.
    #[error("{0}")]
    Internal(String),
}

impl Error {
    pub fn is_interrupted(&self) -> bool {
        matches!(self, Self::Engine(error) if error.is_interrupted())
    }

    /// Whether the disk is full. The same work may succeed once there is space.
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::Engine(error) if error.is_disk_full())
    }

    /// Whether an input could not be fetched or read, as opposed to having the wrong content.
    pub(super) fn is_fetching(&self) -> bool {
        let Self::Engine(error) = self else { return false };
        matches!(
            error.without_role(),
            crate::Error::Input(input::Error::Fetch { .. })
                | crate::Error::System(system::Error::ReadFile { .. })
        )
    }
}

impl<E: Into<crate::Error>> From<E> for Error {
    fn from(error: E) -> Self {
        Self::Engine(error.into())
    }
}
