//! Face cache: positions and VAE posteriors of a video's faces, for later jobs with the same video.
//!
//! There is one file per video, settings and model, named by their key. It is written to a temporary file and
//! renamed when it is complete. A file that is damaged or too short for a job is ignored, since its content
//! can be recomputed.

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
/// Size of the header: magic, number of frames, whether these are all frames of the video.
const HEADER: usize = 8 + 8 + 1;
/// Size of a record's header: frame number, length and checksum of the bytes.
const RECORD: usize = 3 * 4;
/// Maximum length of a record. Larger faces would not fit in memory.
const MAX_RECORD_BYTES: usize = 256 << 20;

/// The cache entry of a job.
#[derive(Debug, Clone)]
pub struct FaceCache {
    path: PathBuf,
    shape: FaceShape,
}

impl FaceCache {
    /// `name`: key of everything that the entry depends on. Creates the directory.
    pub fn new(directory: &Path, name: &str, shape: FaceShape) -> Result<Self> {
        fs::create_dir_all(directory)
            .map_err(|source| system::Error::WriteFile { path: directory.to_path_buf(), source })?;
        Ok(Self { path: directory.join(format!("{name}.faces")), shape })
    }

    /// Opens the entry if it has the first `frames` frames of the video, or all of them.
    pub fn find(&self, frames: usize) -> Option<CachedFaces> {
        match CachedFaces::open(&self.path, self.shape) {
            Ok(found) if found.complete || found.records.len() >= frames => Some(found),
            Ok(found) => {
                tracing::info!("the face cache has {} frames, {frames} are needed", found.records.len());
                None
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!("`{}` is ignored: {error}", self.path.display());
                None
            }
        }
    }

    /// Creates a new entry.
    pub fn begin(&self) -> Result<FaceCacheWriter> {
        FaceCacheWriter::create(&self.path)
    }
}

/// Reader of an entry with verified checksums.
pub struct CachedFaces {
    file: File,
    path: PathBuf,
    shape: FaceShape,
    complete: bool,
    /// Offset and length of each frame's bytes.
    records: Vec<(u64, usize)>,
}

impl CachedFaces {
    /// Reads and verifies the whole entry, so that a job does not fail on it later.
    fn open(path: &Path, shape: FaceShape) -> io::Result<Self> {
        let damaged = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_string());
        let mut file = BufReader::new(File::open(path)?);
        let mut header = [0; HEADER];
        file.read_exact(&mut header)?;
        let (magic, rest) = header.split_at(MAGIC.len());
        if magic != MAGIC {
            return Err(damaged("not an entry of this version"));
        }
        let frames = rest.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        if frames > file.get_ref().metadata()?.len() / RECORD as u64 {
            return Err(damaged("truncated"));
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
            if number as u64 >= frames || length > MAX_RECORD_BYTES {
                return Err(damaged("a record is out of range"));
            }
            bytes.resize(length, 0);
            file.read_exact(&mut bytes)?;
            if crc32fast::hash(&bytes) != checksum || FaceRecord::from_bytes(&bytes, shape).is_err() {
                return Err(damaged("wrong checksum"));
            }
            if records.len() <= number {
                records.resize(number + 1, None);
            }
            records[number] = Some((place + RECORD as u64, length));
            place += (RECORD + length) as u64;
        }
        let records: Option<Vec<_>> = records.into_iter().collect();
        let records = records.filter(|records| records.len() as u64 == frames);
        let records = records.ok_or_else(|| damaged("missing frames"))?;
        Ok(Self { file: file.into_inner(), path: path.to_path_buf(), shape, complete, records })
    }

    /// The face of source frame `number`; `Ok(None)` if it has none.
    pub fn face(&mut self, number: usize) -> Result<Option<FaceRecord>> {
        let mut read = || -> io::Result<Vec<u8>> {
            // `find` has checked that the entry has all frames that the job uses.
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

/// Writer of a new entry. Dropping it removes the temporary file.
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

    /// Adds source frame `number`. Each frame is added once, in any order.
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

    /// Marks that the entry has all frames of the video.
    pub fn complete(self) -> Self {
        Self { complete: true, ..self }
    }

    /// Renames the temporary file, replacing an older entry.
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
