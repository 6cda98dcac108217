//! A download on its way: what an earlier run left and what arrives now, in one file, hashed as it comes.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::pull::create_parent;
use super::{ManifestFile, OnProgress, Progress};
use crate::system::digest::{HashError, hash_into, hex};
use crate::weights::{Error, Result};

/// The bytes collected so far, and their hash.
pub(super) struct Partial {
    pub path: PathBuf,
    file: File,
    hasher: Sha256,
    /// Bytes so far.
    pub have: u64,
}

impl Partial {
    /// Opens what an earlier run left, if it can belong to `file`.
    pub fn open(path: &Path, file: &ManifestFile, on_progress: OnProgress<'_>) -> Result<Self> {
        create_parent(path)?;
        let opened = OpenOptions::new().create(true).truncate(false).read(true).append(true).open(path);
        let write_error = |source| Error::Write { path: path.to_owned(), source };
        let mut partial = Self {
            path: path.to_owned(),
            file: opened.map_err(write_error)?,
            hasher: Sha256::new(),
            have: 0,
        };
        if partial.file.metadata().map_err(write_error)?.len() > file.bytes {
            partial.restart()?;
            return Ok(partial);
        }
        let hashed = hash_into(&mut partial.hasher, &mut partial.file, |done| {
            on_progress(Progress { file: &file.path, done, total: file.bytes })
        });
        partial.have = hashed.map_err(|error| match error {
            HashError::Read(source) => write_error(source),
            HashError::Stopped(error) => error,
        })?;
        Ok(partial)
    }

    pub fn append(&mut self, bytes: &[u8], total: u64) -> Result<()> {
        self.file.write_all(bytes).map_err(|source| match source.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                Error::DiskFull { path: self.path.clone(), needed: total - self.have, free: 0 }
            }
            _ => self.write_error(source),
        })?;
        self.hasher.update(bytes);
        self.have += bytes.len() as u64;
        Ok(())
    }

    /// Back to the first byte.
    pub fn restart(&mut self) -> Result<()> {
        self.file.set_len(0).map_err(|source| self.write_error(source))?;
        self.hasher = Sha256::new();
        self.have = 0;
        Ok(())
    }

    pub fn write_error(&self, source: std::io::Error) -> Error {
        Error::Write { path: self.path.clone(), source }
    }

    /// Makes sure of the bytes and gives their hash.
    pub fn finish(&self) -> Result<String> {
        self.file.sync_all().map_err(|source| self.write_error(source))?;
        Ok(hex(&self.hasher.clone().finalize()))
    }
}
