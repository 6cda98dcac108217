//! Names for results: two jobs whose names are equal would compute the same.

use std::fmt::Display;
use std::fs::File;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::system::cancel::CancelToken;
use crate::system::digest::{HashError, hash_into, hex};
use crate::system::{Error, Result};

/// Collects what a result depends on.
pub struct Identity(Sha256);

impl Identity {
    /// `of`: what the result is. Results of other versions of this program are other results.
    pub fn new(of: &str) -> Self {
        Self(Sha256::new()).with("result", of).with("version", env!("CARGO_PKG_VERSION"))
    }

    /// Adds something by its text, which must say all that matters of it.
    pub fn with(mut self, name: &str, value: impl Display) -> Self {
        let value = value.to_string();
        // With their lengths, so that no two lists of values read alike.
        for text in [name, &value] {
            self.0.update((text.len() as u64).to_le_bytes());
            self.0.update(text);
        }
        self
    }

    /// Adds a file by its content.
    pub fn with_content(self, name: &str, path: &Path, cancel: &CancelToken) -> Result<Self> {
        let refuse = |source| Error::ReadFile { path: path.to_path_buf(), source };
        let mut file = File::open(path).map_err(refuse)?;
        let mut hasher = Sha256::new();
        hash_into(&mut hasher, &mut file, |_| cancel.check()).map_err(|error| match error {
            HashError::Read(source) => refuse(source),
            HashError::Stopped(error) => error,
        })?;
        Ok(self.with(name, hex(&hasher.finalize())))
    }

    /// 64 letters that a file can be named with.
    pub fn name(self) -> String {
        hex(&self.0.finalize())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_in_anything_has_another_name() {
        let name = |a: &str, b: &str| Identity::new("test").with("a", a).with("b", b).name();
        assert_eq!(name("x", "y"), name("x", "y"));
        assert_ne!(name("x", "y"), name("xb", "y"));
        assert_ne!(name("xb", ""), name("x", "b"));
        let file = tempfile::NamedTempFile::new().unwrap();
        let of_file = || {
            let identity = Identity::new("test").with_content("file", file.path(), &CancelToken::new());
            identity.unwrap().name()
        };
        let before = of_file();
        std::fs::write(file.path(), "more").unwrap();
        assert_ne!(of_file(), before);
    }
}
