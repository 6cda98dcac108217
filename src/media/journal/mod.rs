//! The journal of a job: a hidden file beside the output with the encoded packets, so that a killed job can
//! be resumed after its last complete segment.
//!
//! It is a sequence of records: a head, then for each segment its packets and an end-of-segment record.
//! Incomplete records and records without a following end of segment are truncated. The file is locked by the
//! job that writes it. It is removed when the job ends, unless the job is resumable and fails; `kill -9`
//! always leaves it.

mod record;

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufReader, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use ffmpeg_next::Packet;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::media::{Error, Result};
use crate::system;
use crate::system::digest::hex;
use crate::system::paths::directory_of;
use crate::system::temp_outputs::{TEMP_PREFIX, Unfinished};
use crate::system::write_error;
use record::{Kind, Reader, Segment};

/// Maximum length in bytes of an output's name that is included in the journal's name; file systems allow
/// 255.
const MAX_NAME_BYTES: usize = 200;

/// Version of the head and of the records that follow it. Version 1 had no version field.
const JOURNAL_VERSION: u32 = 2;

/// Identification of the job that writes a journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalHead {
    /// Key of inputs and settings: jobs with equal keys produce equal outputs.
    pub key: String,
    pub seed: u64,
    /// Length of the video in frames, if the file declares a wrong one.
    pub source_frames: Option<usize>,
}

/// Use of the journal of a killed job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Resume {
    /// The journal is replaced. This job's journal remains only if the job is killed.
    #[default]
    No,
    /// The segments of the journal are used. This job's journal remains if the job fails or is cancelled.
    Yes,
}

/// How a job uses the journal.
#[derive(Debug, Clone, Copy)]
pub struct JournalOptions<'a> {
    pub head: &'a JournalHead,
    pub resume: Resume,
}

/// The head record of a journal.
#[derive(Serialize, Deserialize)]
struct StoredHead {
    version: u32,
    #[serde(flatten)]
    head: JournalHead,
    /// Digest of the parameters of the packets' stream.
    stream: String,
}

/// The head record of a journal of any version.
enum AnyHead {
    Current(StoredHead),
    OtherVersion(u32),
}

/// Writer of a journal.
pub struct Journal {
    // See `Drop` for the removal of the file.
    file: BufWriter<File>,
    path: PathBuf,
    is_resumable: bool,
    _unfinished: Option<Unfinished>,
    finished: Segment,
    packets: u32,
}

impl Journal {
    /// Path of the journal for an output.
    pub fn path_of(output: &Path) -> PathBuf {
        let name = output.file_name().unwrap_or_default();
        let mut hidden = std::ffi::OsString::from(TEMP_PREFIX);
        match name.len() <= MAX_NAME_BYTES {
            true => hidden.push(name),
            false => hidden.push(&hex(&Sha256::digest(name.as_encoded_bytes()))[..32]),
        }
        hidden.push(".resume");
        directory_of(output).join(hidden)
    }

    /// Head of the journal of a killed job; `None` if there is no readable journal of the current version.
    pub fn peek(output: &Path) -> Option<JournalHead> {
        let file = open_existing(&Self::path_of(output)).ok()?;
        let mut reader = Reader::new(BufReader::new(&file), file.metadata().ok()?.len()).ok()?;
        match read_head(&mut reader)? {
            AnyHead::Current(stored) => Some(stored.head),
            AnyHead::OtherVersion(_) => None,
        }
    }

    /// Removes the journal of a job that starts again with other parameters.
    pub(crate) fn discard(output: &Path) {
        // A locked journal belongs to another job.
        if let Ok(Some(_locked)) = lock(&Self::path_of(output)) {
            let _ = std::fs::remove_file(Self::path_of(output));
        }
    }

    /// Creates the journal of a job or continues that of a killed one. `stream`: description of the packets'
    /// stream; `temporary`: temporary file of this job's output.
    ///
    /// `None` if another job is writing the same output and this one is not resumable.
    ///
    /// # Errors
    /// Of a job that is to go on: [`Error::OutputBusy`] where another job is writing the output,
    /// [`Error::NotResumable`] where the journal is of a job with other settings, [`Error::JournalVersion`]
    /// where it has another version. Of every job: [`system::Error::WriteFile`],
    /// [`system::Error::DiskFull`].
    pub(crate) fn open(
        output: &Path,
        options: JournalOptions,
        stream: &str,
        temporary: &Path,
    ) -> Result<Option<Self>> {
        let path = Self::path_of(output);
        let failed = |e: io::Error| write_error(&path, e);
        let JournalOptions { head, resume } = options;
        let Some(file) = lock(&path).map_err(failed)? else {
            return match resume {
                Resume::Yes => Err(Error::OutputBusy { path: output.to_path_buf() }),
                Resume::No => Ok(None),
            };
        };
        let is_resumable = resume == Resume::Yes;
        let stream = hex(&Sha256::digest(stream));
        let left = Left::read(&file).map_err(failed)?;
        let continued = is_resumable && left.can_continue(output, head, &stream)?;
        for name in left.temporaries {
            remove_temporary(directory_of(output), &name);
        }
        let mut journal = Self {
            file: BufWriter::new(file),
            _unfinished: if is_resumable { None } else { Some(Unfinished::new(&path)?) },
            path,
            is_resumable,
            finished: Segment::default(),
            packets: 0,
        };
        journal
            .begin(
                StoredHead { version: JOURNAL_VERSION, head: head.clone(), stream },
                continued.then_some(left.finished),
                temporary,
            )
            .map_err(|e| write_error(&journal.path, e))?;
        if continued {
            journal.finished = left.finished.segment;
        } else if is_resumable {
            tracing::info!("no journal of `{}` to resume, starting from the beginning", output.display());
        }
        Ok(Some(journal))
    }

    /// Writes the head, or truncates the file after the last complete segment, and records the temporary file
    /// of this job.
    fn begin(&mut self, head: StoredHead, finished: Option<Finished>, temporary: &Path) -> io::Result<()> {
        let file = self.file.get_mut();
        let end = finished.map_or(0, |finished| finished.end);
        file.set_len(end)?;
        file.seek(SeekFrom::Start(end))?;
        if finished.is_none() {
            self.file.write_all(record::MAGIC)?;
            record::write(&mut self.file, Kind::Head, &[&serde_json::to_vec(&head)?])?;
        }
        let name = temporary.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        record::write(&mut self.file, Kind::Temporary, &[name.as_bytes()])?;
        self.sync()
    }

    /// Frames in complete segments, including those of a killed job.
    pub(crate) fn frames(&self) -> u64 {
        self.finished.frames
    }

    /// Passes the packets of the killed job's segments to `write`.
    pub(crate) fn replay(&mut self, write: &mut dyn FnMut(Packet) -> Result<()>) -> Result<()> {
        let unreadable = |source| system::Error::ReadFile { path: self.path.clone(), source };
        let mut file = self.file.get_ref();
        let end = file.stream_position().map_err(unreadable)?;
        file.seek(SeekFrom::Start(0)).map_err(unreadable)?;
        let mut reader = Reader::new(BufReader::new(file), end).map_err(unreadable)?;
        let mut packets = 0;
        while let Some((kind, payload)) = reader.next().map_err(unreadable)? {
            if kind == Kind::Packet {
                write(
                    record::to_packet(payload)
                        .ok_or_else(|| unreadable(io::ErrorKind::InvalidData.into()))?,
                )?;
                packets += 1;
            }
        }
        drop(reader);
        if packets != self.finished.packets {
            return Err(unreadable(io::ErrorKind::UnexpectedEof.into()).into());
        }
        file.seek(SeekFrom::Start(end)).map_err(unreadable)?;
        Ok(())
    }

    /// Appends a packet of the current segment.
    pub(crate) fn append(&mut self, packet: &Packet) -> Result<()> {
        self.packets += 1;
        let (head, data) = record::of_packet(packet);
        record::write(&mut self.file, Kind::Packet, &[&head, data])
            .map_err(|e| write_error(&self.path, e))?;
        Ok(())
    }

    /// Appends an end-of-segment record: the packets so far contain the first `frames` frames of the output.
    pub(crate) fn end_segment(&mut self, frames: u64) -> Result<()> {
        let packets = self.finished.packets + u64::from(std::mem::take(&mut self.packets));
        self.finished = Segment { number: self.finished.number + 1, frames, packets };
        let written = record::write(&mut self.file, Kind::Segment, &[&self.finished.to_bytes()]);
        written.and_then(|()| self.sync()).map_err(|e| write_error(&self.path, e))?;
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.flush()?;
        self.file.get_ref().sync_data()
    }

    /// Removes the journal after the output has been completed.
    pub(crate) fn done(mut self) {
        self.is_resumable = false;
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        if !self.is_resumable || self.finished.frames == 0 {
            // A journal that cannot be removed is replaced by the next job.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Content of an existing journal.
#[derive(Default)]
struct Left {
    head: Option<AnyHead>,
    temporaries: Vec<String>,
    finished: Finished,
}

#[derive(Clone, Copy, Default)]
struct Finished {
    segment: Segment,
    /// Length of the file up to the end of the segment.
    end: u64,
}

impl Left {
    /// Reads up to the last complete segment. Invalid data ends the journal; only I/O errors are returned.
    fn read(file: &File) -> io::Result<Self> {
        let mut left = Self::default();
        let length = file.metadata()?.len();
        let Ok(mut reader) = Reader::new(BufReader::new(file), length) else { return Ok(left) };
        left.head = read_head(&mut reader);
        if left.head.is_none() {
            return Ok(left);
        }
        left.finished.end = reader.position();
        let mut packets = left.finished.segment.packets;
        while let Some((kind, payload)) = reader.next()? {
            match kind {
                Kind::Packet => packets += 1,
                Kind::Temporary => {
                    left.temporaries.extend(String::from_utf8(payload.to_vec()));
                    if packets == left.finished.segment.packets {
                        left.finished.end = reader.position();
                    }
                }
                Kind::Segment => match Segment::from_bytes(payload) {
                    Some(segment)
                        if segment.follows(&left.finished.segment) && segment.packets == packets =>
                    {
                        left.finished = Finished { segment, end: reader.position() };
                    }
                    _ => break,
                },
                Kind::Head => break,
            }
        }
        Ok(left)
    }
}

impl Left {
    /// Whether a job with this head and stream can continue the journal of `output`.
    fn can_continue(&self, output: &Path, head: &JournalHead, stream: &str) -> Result<bool> {
        let refuse = |what| Err(Error::NotResumable { path: output.to_path_buf(), what });
        match &self.head {
            Some(AnyHead::OtherVersion(found)) => {
                let (found, expected) = (*found, JOURNAL_VERSION);
                Err(Error::JournalVersion { path: output.to_path_buf(), found, expected })
            }
            // A journal without a complete segment is not used, so its settings need not agree.
            Some(AnyHead::Current(_)) if self.finished.segment.frames == 0 => Ok(false),
            Some(AnyHead::Current(stored)) => {
                if stored.head.key != head.key || stored.head.seed != head.seed {
                    return refuse("its settings or inputs");
                }
                if stored.stream != stream {
                    return refuse("its encoder");
                }
                Ok(true)
            }
            None => Ok(false),
        }
    }
}

fn read_head<R: io::BufRead>(reader: &mut Reader<R>) -> Option<AnyHead> {
    #[derive(Deserialize)]
    struct Version {
        #[serde(default = "version_1")]
        version: u32,
    }
    fn version_1() -> u32 {
        1
    }
    let (Kind::Head, payload) = reader.next().ok()?? else { return None };
    match serde_json::from_slice(payload).ok()? {
        Version { version: JOURNAL_VERSION } => serde_json::from_slice(payload).ok().map(AnyHead::Current),
        Version { version } => Some(AnyHead::OtherVersion(version)),
    }
}

/// Removes the temporary file of a killed job. The name was read from a file, so it must have the prefix of
/// temporary files and no path separators.
fn remove_temporary(directory: &Path, name: &str) {
    let ours = name.starts_with(TEMP_PREFIX) && !name.ends_with(".resume") && !name.contains(['/', '\\']);
    let path = directory.join(name);
    if ours && std::fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_file()) {
        tracing::info!("removing `{}`, left by a killed job", path.display());
        let _ = std::fs::remove_file(path);
    }
}

/// Opens or creates a file and locks it; `None` if another job holds the lock.
fn lock(path: &Path) -> io::Result<Option<File>> {
    loop {
        let file = options().create(true).write(true).truncate(false).open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            // The file system does not support locks: the user must not run two jobs with the same output.
            Err(TryLockError::Error(error)) => tracing::debug!("`{}`: {error}", path.display()),
        }
        // Another job may have removed the file between opening and locking.
        if is_still(&file, path) {
            return Ok(Some(file));
        }
    }
}

#[cfg(unix)]
fn is_still(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let named = std::fs::symlink_metadata(path).map(|m| (m.dev(), m.ino()));
    let open = file.metadata().map(|m| (m.dev(), m.ino()));
    matches!((named, open), (Ok(named), Ok(open)) if named == open)
}

/// On other systems an open file cannot be removed.
#[cfg(not(unix))]
fn is_still(_: &File, _: &Path) -> bool {
    true
}

fn open_existing(path: &Path) -> io::Result<File> {
    options().open(path)
}

/// Options for a file with a predictable name in a directory that may be writable by others: symbolic links
/// are not followed, and opening a pipe does not block.
fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    {
        use rustix::fs::OFlags;
        use std::os::unix::fs::OpenOptionsExt;
        options.custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32);
    }
    options
}
