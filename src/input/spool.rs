//! The temporary file that an input is written to, and how much of it is taken.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tempfile::{NamedTempFile, TempPath};

use super::problem::FetchProblem;
use crate::input::{Error, Result};
use crate::system;
use crate::system::temp_outputs::Unfinished;

/// Bytes at the start by which a web page is known.
const SNIFFED: usize = 512;

/// How much is taken from outside, and how long it is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchLimits {
    pub max_bytes: u64,
    /// For all of it.
    pub total: Duration,
    /// For a connection to be made.
    pub connect: Duration,
    /// Without a byte.
    pub stall: Duration,
    pub max_redirects: usize,
}

impl Default for FetchLimits {
    fn default() -> Self {
        Self {
            max_bytes: 4 << 30,
            total: Duration::from_secs(600),
            connect: Duration::from_secs(15),
            stall: Duration::from_secs(30),
            max_redirects: 5,
        }
    }
}

/// Where temporary files go, and what may be fetched into them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spool {
    /// The output's, say: it has room for a video.
    pub directory: PathBuf,
    pub limits: FetchLimits,
    pub addresses: super::AddressPolicy,
}

impl Spool {
    /// With the default limits, from anywhere.
    pub fn in_directory(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            limits: FetchLimits::default(),
            addresses: super::AddressPolicy::default(),
        }
    }
}

/// A file that is being filled.
pub(super) struct SpoolFile {
    file: NamedTempFile,
    unfinished: Unfinished,
    directory: PathBuf,
    limits: FetchLimits,
    started: Instant,
    /// When the latest bytes came.
    heard: Instant,
    bytes: u64,
    /// The first bytes, until they suffice to tell what this is.
    start: Vec<u8>,
    /// The server calls it a web page.
    pub called_html: bool,
}

impl SpoolFile {
    /// `extension` helps FFmpeg to tell some formats.
    pub(super) fn create(spool: &Spool, extension: Option<&str>) -> Result<Self> {
        let suffix = extension.map(|extension| format!(".{extension}")).unwrap_or_default();
        let file = tempfile::Builder::new()
            .prefix(".latentsync-input-")
            .suffix(&suffix)
            .tempfile_in(&spool.directory)
            .map_err(|e| spool_error(&spool.directory, e))?;
        let unfinished = Unfinished::new(file.path())?;
        let now = Instant::now();
        Ok(Self {
            file,
            unfinished,
            directory: spool.directory.clone(),
            limits: spool.limits,
            started: now,
            heard: now,
            bytes: 0,
            start: Vec::new(),
            called_html: false,
        })
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Is there still time?
    pub(super) fn check_time(&self) -> Result<(), FetchProblem> {
        if self.started.elapsed() > self.limits.total {
            Err(FetchProblem::TooSlow(self.limits.total))
        } else if self.heard.elapsed() > self.limits.stall {
            Err(FetchProblem::Stalled(self.limits.stall))
        } else {
            Ok(())
        }
    }

    /// May so many bytes come?
    pub(super) fn check_announced(&self, bytes: u64) -> Result<(), FetchProblem> {
        let limit = self.limits.max_bytes;
        if bytes > limit { Err(FetchProblem::TooLarge { announced: Some(bytes), limit }) } else { Ok(()) }
    }

    /// Appends what came; the outer error is this machine's, the inner the input's.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<Result<(), FetchProblem>> {
        self.heard = Instant::now();
        self.bytes += bytes.len() as u64;
        if self.bytes > self.limits.max_bytes {
            return Ok(Err(FetchProblem::TooLarge { announced: None, limit: self.limits.max_bytes }));
        }
        if self.start.len() < SNIFFED {
            self.start.extend(bytes.iter().take(SNIFFED - self.start.len()));
            if self.start.len() == SNIFFED
                && let Err(problem) = self.sniff()
            {
                return Ok(Err(problem));
            }
        }
        self.file.write_all(bytes).map_err(|e| spool_error(&self.directory, e))?;
        Ok(Ok(()))
    }

    /// The complete file.
    pub(super) fn finish(self) -> Result<Result<(TempPath, Unfinished), FetchProblem>> {
        if self.bytes < SNIFFED as u64
            && let Err(problem) = self.sniff()
        {
            return Ok(Err(problem));
        }
        Ok(Ok((self.file.into_temp_path(), self.unfinished)))
    }

    /// A web page or a playlist is known by its first bytes. A playlist would be looked for beside the temporary
    /// file, and may name other files of this machine.
    fn sniff(&self) -> Result<(), FetchProblem> {
        let start = self.start.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&self.start).trim_ascii_start();
        let lower = String::from_utf8_lossy(start).to_ascii_lowercase();
        let page = ["<!doctype html", "<html", "<head", "<body", "<title", "<script"];
        let text = lower.starts_with('<') && !start.contains(&0);
        if page.iter().any(|tag| lower.starts_with(tag)) || (self.called_html && text) {
            Err(FetchProblem::WebPage)
        } else if lower.starts_with("#extm3u")
            || lower.starts_with("ffconcat")
            || (text && lower.contains("<mpd"))
        {
            Err(FetchProblem::Playlist)
        } else {
            Ok(())
        }
    }
}

fn spool_error(directory: &Path, source: io::Error) -> Error {
    let path = directory.to_path_buf();
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => system::Error::DiskFull { path }.into(),
        _ => system::Error::WriteFile { path, source }.into(),
    }
}
