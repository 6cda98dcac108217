//! What was found out about a video's faces, kept for the next voice: where they are and what the VAE says of them.
//!
//! One file per video, settings and model, named by all three. It appears when it is complete. A file that is damaged
//! or too short for a job is as good as none: everything in it can be computed again.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::face::Result;
use crate::face::record::{FaceRecord, FaceShape};
use crate::system;
use crate::system::temp_outputs::{TEMP_PREFIX, Unfinished};
use crate::system::write_error;

const MAGIC: &[u8; 8] = b"LSFACES1";
/// Magic, number of frames, whether they are all of the video.
const HEADER: usize = 8 + 8 + 1;
/// Frame's number, length and checksum of its bytes.
const RECORD: usize = 3 * 4;
/// No face's record is longer: a job with larger faces would not get so far.
const LONGEST: usize = 256 << 20;

/// Where entries are, and the one that a job would use.
#[derive(Debug, Clone)]
pub struct FaceCache {
    path: PathBuf,
    shape: FaceShape,
}

impl FaceCache {
    /// `name`: of everything that the entry depends on. The directory is created.
    pub fn new(directory: &Path, name: &str, shape: FaceShape) -> Result<Self> {
        fs::create_dir_all(directory)
            .map_err(|source| system::Error::WriteFile { path: directory.to_path_buf(), source })?;
        Ok(Self { path: directory.join(format!("{name}.faces")), shape })
    }

    /// The entry, if there is one that has the first `frames` frames of the video, or all it has.
    pub fn find(&self, frames: usize) -> Option<CachedFaces> {
        match CachedFaces::open(&self.path, self.shape) {
            Ok(found) if found.complete || found.records.len() >= frames => Some(found),
            Ok(found) => {
                tracing::info!("the cache knows {} frames, {frames} are needed", found.records.len());
                None
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!("`{}` is ignored: {error}", self.path.display());
                None
            }
        }
    }

    /// Starts a new entry.
    pub fn begin(&self) -> Result<FaceCacheWriter> {
        FaceCacheWriter::create(&self.path)
    }
}

/// An entry that is being read, its checksums proven.
pub struct CachedFaces {
    file: File,
    path: PathBuf,
    shape: FaceShape,
    complete: bool,
    /// Place and length of each frame's bytes.
    records: Vec<(u64, usize)>,
}

impl CachedFaces {
    /// Reads all of it once: what a job starts with must not fail in its middle.
    fn open(path: &Path, shape: FaceShape) -> io::Result<Self> {
        let damaged = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_string());
        let mut file = BufReader::new(File::open(path)?);
        let mut header = [0; HEADER];
        file.read_exact(&mut header)?;
        let (magic, rest) = header.split_at(MAGIC.len());
        if magic != MAGIC {
            return Err(damaged("it is not an entry of this version"));
        }
        let frames = rest.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        if frames > file.get_ref().metadata()?.len() / RECORD as u64 {
            return Err(damaged("it is cut short"));
        }
        let complete = rest.last() == Some(&1);
        let mut records: Vec<Option<(u64, usize)>> = Vec::new();
        let mut place = HEADER as u64;
        let mut bytes = Vec::new();
        for _ in 0..frames {
            let mut words = [0; RECORD];
            file.read_exact(&mut words)?;
            let (words, _) = words.as_chunks::<4>();
            let [number, length, checksum] = [0, 1, 2].map(|i| u32::from_le_bytes(words[i]));
            let (number, length) = (number as usize, length as usize);
            if number as u64 >= frames || length > LONGEST {
                return Err(damaged("a record is out of range"));
            }
            bytes.resize(length, 0);
            file.read_exact(&mut bytes)?;
            if crc32fast::hash(&bytes) != checksum || FaceRecord::from_bytes(&bytes, shape).is_err() {
                return Err(damaged("a checksum is wrong"));
            }
            if records.len() <= number {
                records.resize(number + 1, None);
            }
            records[number] = Some((place + RECORD as u64, length));
            place += (RECORD + length) as u64;
        }
        let records: Option<Vec<_>> = records.into_iter().collect();
        let records = records.filter(|records| records.len() as u64 == frames);
        let records = records.ok_or_else(|| damaged("frames are missing"))?;
        Ok(Self { file: file.into_inner(), path: path.to_path_buf(), shape, complete, records })
    }

    /// What is known of source frame `number`. `Ok(None)`: it has no face.
    pub fn face(&mut self, number: usize) -> Result<Option<FaceRecord>> {
        let mut read = || -> io::Result<Vec<u8>> {
            // A video has no more frames than its complete entry, and no job reads beyond what it asked for.
            let &(place, length) = self.records.get(number).ok_or(io::ErrorKind::UnexpectedEof)?;
            self.file.seek(SeekFrom::Start(place))?;
            let mut bytes = vec![0; length];
            self.file.read_exact(&mut bytes)?;
            Ok(bytes)
        };
        let bytes = read().map_err(|source| system::Error::ReadFile { path: self.path.clone(), source })?;
        FaceRecord::from_bytes(&bytes, self.shape)
    }

    pub fn len(&self) -> usize {
        self.records.len()
    }
}

/// An entry that is being written. Dropping it leaves nothing behind.
pub struct FaceCacheWriter {
    file: BufWriter<NamedTempFile>,
    _unfinished: Unfinished,
    path: PathBuf,
    frames: u64,
    complete: bool,
    buffer: Vec<u8>,
}

impl FaceCacheWriter {
    fn create(path: &Path) -> Result<Self> {
        let failed = |source| system::Error::WriteFile { path: path.to_path_buf(), source };
        let directory = path.parent().unwrap_or(Path::new("."));
        let file = tempfile::Builder::new().prefix(TEMP_PREFIX).tempfile_in(directory).map_err(failed)?;
        let unfinished = Unfinished::new(file.path())?;
        let mut file = BufWriter::new(file);
        file.write_all(&[0; HEADER]).map_err(failed)?;
        Ok(Self {
            file,
            _unfinished: unfinished,
            path: path.to_path_buf(),
            frames: 0,
            complete: false,
            buffer: Vec::new(),
        })
    }

    /// Adds source frame `number`; each is added once, in any order.
    pub fn push(&mut self, number: usize, face: Option<&FaceRecord>) -> Result<()> {
        self.buffer.clear();
        if let Some(face) = face {
            face.write_to(&mut self.buffer)?;
        }
        let Self { file, buffer, .. } = self;
        let words = [number as u32, buffer.len() as u32, crc32fast::hash(buffer)];
        let written =
            file.write_all(words.map(u32::to_le_bytes).as_flattened()).and_then(|()| file.write_all(buffer));
        self.frames += 1;
        Ok(written.map_err(|source| write_error(&self.path, source))?)
    }

    /// It has all frames of the video.
    pub fn complete(self) -> Self {
        Self { complete: true, ..self }
    }

    /// Puts the entry in its place.
    pub fn finish(self) -> Result<()> {
        let Self { file, path, frames, complete, .. } = self;
        let finish = || {
            let mut file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
            file.seek(SeekFrom::Start(0))?;
            file.write_all(MAGIC)?;
            file.write_all(&frames.to_le_bytes())?;
            file.write_all(&[u8::from(complete)])?;
            file.persist(&path).map(drop).map_err(|error| error.error)
        };
        Ok(finish().map_err(|source| write_error(&path, source))?)
    }
}
