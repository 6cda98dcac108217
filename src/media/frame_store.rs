//! Pictures on disk for reuse, so that the memory of a looped video does not grow with its length.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::media::picture::{Picture, PictureLayout};
use crate::media::{Error, Result};
use crate::system;
use crate::system::machine::free_space;
use crate::system::write_error;

/// Source frames by number, each with extra bytes of the caller.
///
/// The data is in an unnamed temporary file, which disappears with the store, even if the process is killed.
/// The index has 32 bytes per frame in memory.
pub struct FrameStore {
    directory: PathBuf,
    file: File,
    /// End of the last record.
    end: u64,
    records: Vec<Option<StoredFrame>>,
    /// Distinct picture layouts, usually one.
    layouts: Vec<PictureLayout>,
    buffer: Vec<u8>,
}

/// Location of a frame: its samples, then the extra bytes.
#[derive(Clone, Copy)]
struct StoredFrame {
    offset: u64,
    samples: u32,
    extra: u32,
    layout: u32,
}

impl FrameStore {
    /// Creates a store with its file in `directory`. The directory of the output is preferable to the
    /// system's temporary directory, which is often in memory.
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

    /// Stores frame `index` with the bytes `extra`, replacing an earlier frame of that number.
    ///
    /// # Errors
    /// [`system::Error::DiskFull`], [`system::Error::WriteFile`] with the directory.
    pub fn put(&mut self, index: usize, picture: &Picture, extra: &[u8]) -> Result<()> {
        Ok(self.append(index, picture, extra).map_err(|e| write_error(&self.directory, e))?)
    }

    /// Frame `index` and its extra bytes; `None` if it is not stored.
    pub fn get(&mut self, index: usize) -> Result<Option<(Picture, Vec<u8>)>> {
        Ok(self
            .read(index)
            .map_err(|source| system::Error::ReadFile { path: self.directory.clone(), source })?)
    }

    /// One more than the highest stored number.
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
        let record = StoredFrame {
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

/// Checks that `directory` has free space for `frames` frames of `bytes` bytes, if the system reports it: a
/// job that would fail after hours should not start.
///
/// # Errors
/// [`Error::NotEnoughDisk`].
pub fn check_space(directory: &Path, frames: usize, bytes: usize) -> Result<()> {
    let needed = frames as u64 * bytes as u64;
    match free_space(directory) {
        Some(free) if free < needed => {
            Err(Error::NotEnoughDisk { path: directory.to_path_buf(), needed, free })
        }
        _ => Ok(()),
    }
}
