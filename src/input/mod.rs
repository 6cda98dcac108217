//! What a job is given as video and voice: a file, a pipe, or a URL; and the local file that it becomes.
//!
//! A regular file is used where it lies. Whatever can be read only once is written to a temporary file first, within
//! [`FetchLimits`], never wholly in memory. The file goes with its [`LocalInput`].

use std::fmt;
use std::path::{Path, PathBuf};

use tempfile::TempPath;

use crate::system::cancel::CancelToken;
use crate::system::temp_outputs::Unfinished;

mod error;
mod address;
mod fetch;
mod local_path;
mod pipe;
mod problem;
mod spool;

pub use address::AddressPolicy;
pub use error::{Error, Result};
#[cfg(feature = "server")]
pub(crate) use fetch::client;
pub use local_path::{local_path, media_input};
pub use problem::FetchProblem;
pub use spool::{FetchLimits, Spool};

/// A video or a voice, as a user names it. What is printed of it has no password and no signature.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Input {
    /// A path; `-` is the standard input.
    File(PathBuf),
    /// An `http://` or `https://` address.
    Url(String),
}

impl Input {
    /// The path, where it is one.
    pub fn as_file(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Url(_) => None,
        }
    }
}

impl From<&str> for Input {
    /// An `http`, `https` or `file` URL, or else a path.
    fn from(text: &str) -> Self {
        let is =
            |scheme: &str| text.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme));
        if is("http://") || is("https://") {
            Self::Url(text.to_string())
        } else if is("file://") {
            // One that cannot be decoded stays as it is, to be named where it is not found.
            Self::File(local_path(text, Path::new("")).unwrap_or_else(|_| text.into()))
        } else {
            Self::File(text.into())
        }
    }
}

impl From<String> for Input {
    fn from(text: String) -> Self {
        Self::from(text.as_str())
    }
}

impl From<PathBuf> for Input {
    fn from(path: PathBuf) -> Self {
        Self::File(path)
    }
}

impl From<&Path> for Input {
    fn from(path: &Path) -> Self {
        Self::File(path.to_path_buf())
    }
}

impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) if path == Path::new("-") => f.write_str("the standard input"),
            Self::File(path) => path.display().fmt(f),
            Self::Url(url) => f.write_str(&without_secrets(url)),
        }
    }
}

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Url(url) => f.debug_tuple("Url").field(&without_secrets(url)).finish(),
        }
    }
}

/// A URL without user, password, query and fragment.
fn without_secrets(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let (authority, path) = rest.split_at(rest.find(['/', '\\']).unwrap_or(rest.len()));
    let host = authority.rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}{path}")
}

/// An input as a file on this machine, as long as this lives.
#[derive(Debug)]
pub struct LocalInput {
    input: Input,
    path: PathBuf,
    // The file goes before its name is taken off the list.
    _temporary: Option<(TempPath, Unfinished)>,
}

impl LocalInput {
    /// Makes a local file of an input; a regular file needs nothing. What is wrong with a path is left to be said by
    /// who reads it.
    ///
    /// # Errors
    /// [`Error::Fetch`], [`system::Error::Interrupted`](crate::system::Error::Interrupted) soon after the token is cancelled, [`system::Error::DiskFull`](crate::system::Error::DiskFull) and
    /// [`system::Error::WriteFile`](crate::system::Error::WriteFile) where the temporary file cannot be written, [`system::Error::ReadFile`](crate::system::Error::ReadFile).
    pub fn open(input: &Input, spool: &Spool, cancel: &CancelToken) -> Result<Self> {
        let spooled = match input {
            Input::Url(url) => Some(fetch::fetch(input, url, spool, cancel)?),
            Input::File(path) if pipe::is_read_once(path) => Some(pipe::read(input, path, spool, cancel)?),
            Input::File(_) => None,
        };
        let path = match (&spooled, input) {
            (Some((temporary, _)), _) => temporary.to_path_buf(),
            (None, Input::File(path)) => path.clone(),
            (None, Input::Url(_)) => PathBuf::new(),
        };
        Ok(Self { input: input.clone(), path, _temporary: spooled })
    }

    /// Where the file lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The input that it was made of.
    pub fn input(&self) -> &Input {
        &self.input
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_a_url_or_a_path() {
        for (text, want) in [
            ("clip.mp4", Input::File("clip.mp4".into())),
            ("-", Input::File("-".into())),
            ("a:b.mp4", Input::File("a:b.mp4".into())),
            ("file:///a%20b.mp4", Input::File("/a b.mp4".into())),
            ("https://host/a.mp4", Input::Url("https://host/a.mp4".into())),
            ("HTTP://host/a.mp4", Input::Url("HTTP://host/a.mp4".into())),
        ] {
            assert_eq!(Input::from(text), want);
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        for url in [
            "https://me:secret@host:8080/clip.mp4?X-Amz-Signature=secret#secret",
            "https://me:se@cret@host:8080/clip.mp4?secret",
        ] {
            let input = Input::from(url);
            assert_eq!(input.to_string(), "https://host:8080/clip.mp4");
            assert!(!format!("{input:?}").contains("cret"), "{input:?}");
        }
        assert_eq!(Input::from("http://host?secret").to_string(), "http://host");
    }
}
