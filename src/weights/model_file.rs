//! One file of a model: on the disk, or a part of the program.

use std::borrow::Cow;
use std::fs::{self, File};
use std::ops::Deref;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use sha2::{Digest, Sha256};

use super::{OnProgress, digest};
use crate::system::digest::hex;
use crate::weights::{Error, Result};

/// A file whose bytes are a part of the program.
#[derive(Debug)]
pub(super) struct BuiltIn {
    /// What messages call it.
    pub path: &'static str,
    pub bytes: &'static [u8],
}

#[derive(Debug, Clone)]
pub(super) enum ModelFile {
    OnDisk(PathBuf),
    #[cfg_attr(not(feature = "demo"), expect(dead_code, reason = "only the demo model is built in"))]
    BuiltIn(&'static BuiltIn),
}

impl ModelFile {
    /// Where it is, or what to call it.
    pub fn path(&self) -> &Path {
        match self {
            Self::OnDisk(path) => path,
            Self::BuiltIn(file) => Path::new(file.path),
        }
    }

    /// All of it: for small files.
    pub fn read(&self) -> Result<Cow<'static, [u8]>> {
        match self {
            Self::OnDisk(path) => fs::read(path).map(Cow::Owned).map_err(|source| read_error(path, source)),
            Self::BuiltIn(file) => Ok(Cow::Borrowed(file.bytes)),
        }
    }

    /// Its bytes, which are read when they are looked at.
    pub fn map(&self) -> Result<Bytes> {
        let path = match self {
            Self::OnDisk(path) => path,
            Self::BuiltIn(file) => return Ok(Bytes::BuiltIn(file.bytes)),
        };
        let file = File::open(path).map_err(|source| read_error(path, source))?;
        if file.metadata().map_err(|source| read_error(path, source))?.len() == 0 {
            // Nothing cannot be mapped.
            return Ok(Bytes::BuiltIn(&[]));
        }
        // SAFETY: the map is read-only. Should another process shorten the file meanwhile, reading faults;
        // every program that maps its weights accepts that.
        let map = unsafe { Mmap::map(&file) }.map_err(|source| read_error(path, source))?;
        Ok(Bytes::Mapped(map))
    }

    /// Its length in bytes.
    pub fn len(&self) -> Result<u64> {
        match self {
            Self::OnDisk(path) => {
                fs::metadata(path).map(|data| data.len()).map_err(|source| read_error(path, source))
            }
            Self::BuiltIn(file) => Ok(file.bytes.len() as u64),
        }
    }

    /// Words that change when its content does.
    pub fn stamp(&self) -> Result<String> {
        match self {
            Self::OnDisk(path) => digest::stamp(path),
            Self::BuiltIn(file) => Ok(format!("{} {:08x}", file.path, crc32fast::hash(file.bytes))),
        }
    }

    /// Hexadecimal; `name` is what the progress callback is told.
    pub fn sha256(&self, name: &str, on_progress: OnProgress<'_>) -> Result<String> {
        match self {
            Self::OnDisk(path) => digest::sha256(path, name, on_progress),
            Self::BuiltIn(file) => Ok(hex(&Sha256::digest(file.bytes))),
        }
    }
}

impl From<PathBuf> for ModelFile {
    fn from(path: PathBuf) -> Self {
        Self::OnDisk(path)
    }
}

fn read_error(path: &Path, source: std::io::Error) -> Error {
    Error::Read { path: path.to_owned(), source }
}

/// A file's bytes.
#[derive(Debug)]
pub(super) enum Bytes {
    Mapped(Mmap),
    BuiltIn(&'static [u8]),
}

impl Bytes {
    /// Tells the system that the pages of `start..start + len` are not needed in memory any more.
    pub fn release(&self, start: usize, len: usize) {
        #[cfg(unix)]
        if let Self::Mapped(map) = self
            && len > 0
        {
            // SAFETY: the mapping is shared, read-only and backed by the file, so dropped pages come back
            // with the same content on the next access. Advice may fail without harm.
            let _ = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, len) };
        }
        #[cfg(not(unix))]
        let _ = (start, len);
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::BuiltIn(bytes) => bytes,
        }
    }
}
