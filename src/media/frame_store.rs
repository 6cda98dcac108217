//! Pictures that are needed again, on disk: a video that is looped costs no memory for its length.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::media::picture::{Picture, PictureLayout};
use crate::media::{Error, Result};
use crate::system;
use crate::system::machine::free_space;
use crate::system::write_error;

/// Source frames by number, each with a few bytes of the caller's.
///
/// They lie in an unnamed temporary file, which is gone with the store, also when the process is killed. In memory
/// there are 32 bytes a frame.
pub struct FrameStore {
    directory: PathBuf,
    file: File,
    /// Where the next record goes.
    end: u64,
    records: Vec<Option<Record>>,
    /// The layouts that occur: one, as a rule.
    layouts: Vec<PictureLayout>,
    buffer: Vec<u8>,
}

/// Samples, then the caller's bytes.
#[derive(Clone, Copy)]
struct Record {
    offset: u64,
    samples: u32,
    extra: u32,
    layout: u32,
}

impl FrameStore {
    /// A store whose file is in `directory`: the output's, which has room for a video, rather than the system's
    /// temporary one, which often lies in memory.
    pub fn create(directory: &Path) -> Result<Self> {
        let file = tempfile::tempfile_in(directory).map_err(|e| write_error(directory, e))?;
        Ok(Self {
            directory: directory.to_path_buf(),
            file,
            end: 0,
            records: Vec::new(),
            layouts: Vec::new(),
            buffer: Vec::new(),
        })
    }

    /// Stores frame `index` and `extra` with it; what was stored under that number before is forgotten.
    ///
    /// # Errors
    /// [`system::Error::DiskFull`], [`system::Error::WriteFile`] with the directory.
    pub fn put(&mut self, index: usize, picture: &Picture, extra: &[u8]) -> Result<()> {
        Ok(self.append(index, picture, extra).map_err(|e| write_error(&self.directory, e))?)
    }

    /// Frame `index` and its bytes; `None` where there is none.
    pub fn get(&mut self, index: usize) -> Result<Option<(Picture, Vec<u8>)>> {
        Ok(self
            .read(index)
            .map_err(|source| system::Error::ReadFile { path: self.directory.clone(), source })?)
    }

    /// One more than the highest number stored.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn append(&mut self, index: usize, picture: &Picture, extra: &[u8]) -> io::Result<()> {
        let layout = picture.layout();
        let known = self.layouts.iter().position(|&known| known == layout);
        let layout = known.unwrap_or_else(|| {
            self.layouts.push(layout);
            self.layouts.len() - 1
        });
        self.buffer.clear();
        picture.write_samples(&mut self.buffer);
        let too_large = |_| io::Error::new(io::ErrorKind::InvalidInput, "a frame of more than 4 GiB");
        let record = Record {
            offset: self.end,
            samples: u32::try_from(self.buffer.len()).map_err(too_large)?,
            extra: u32::try_from(extra.len()).map_err(too_large)?,
            layout: layout as u32,
        };
        self.file.seek(SeekFrom::Start(self.end))?;
        self.file.write_all(&self.buffer)?;
        self.file.write_all(extra)?;
        self.end += u64::from(record.samples) + u64::from(record.extra);
        if self.records.len() <= index {
            self.records.resize(index + 1, None);
        }
        self.records[index] = Some(record);
        Ok(())
    }

    fn read(&mut self, index: usize) -> io::Result<Option<(Picture, Vec<u8>)>> {
        let Some(record) = self.records.get(index).copied().flatten() else {
            return Ok(None);
        };
        self.file.seek(SeekFrom::Start(record.offset))?;
        self.buffer.resize(record.samples as usize, 0);
        self.file.read_exact(&mut self.buffer)?;
        let mut extra = vec![0; record.extra as usize];
        self.file.read_exact(&mut extra)?;
        let picture = Picture::from_samples(self.layouts[record.layout as usize], &self.buffer)
            .ok_or_else(|| io::Error::other("not enough memory for a frame"))?;
        Ok(Some((picture, extra)))
    }
}

/// Whether `directory` has room for `frames` frames of `bytes` each, where the system tells.
///
/// # Errors
/// [`Error::NotEnoughDisk`]: a job that would fail after hours is better not begun.
pub fn check_space(directory: &Path, frames: usize, bytes: usize) -> Result<()> {
    let needed = frames as u64 * bytes as u64;
    match free_space(directory) {
        Some(free) if free < needed => {
            Err(Error::NotEnoughDisk { path: directory.to_path_buf(), needed, free })
        }
        _ => Ok(()),
    }
}
