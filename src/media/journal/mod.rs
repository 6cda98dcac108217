//! The journal of a job: a hidden file beside the output with everything that is encoded so far, so that a job that
//! was killed goes on from its last finished segment.
//!
//! It is a sequence of records: a head, then the packets of a segment and a mark that the segment is complete, and
//! so on. A record that is torn, or that no mark follows, does not count and is cut off. The file is locked by the job
//! that writes it. It goes when the job ends, however it ends, unless the job was to be resumable; `kill -9` leaves it
//! in any case.

mod record;

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufReader, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use ffmpeg_next::Packet;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result, write_error};
use crate::system::digest::hex;
use crate::system::paths::directory_of;
use crate::system::temp_outputs::Unfinished;
use record::{Kind, Reader, Segment};

/// What precedes the names of all files that are not outputs yet.
pub(crate) const HIDDEN: &str = ".latentsync-";
/// Longest name of an output that the journal's name repeats; file systems end at 255 bytes.
const LONGEST_NAME: usize = 200;

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

/// What to do with a journal that a killed job has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Resume {
    /// Nothing of it is used, and this job leaves none behind unless it is killed.
    #[default]
    No,
    /// Its segments are taken over. If this job fails or is cancelled, its journal stays for the next attempt.
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

/// A journal that is being written.
pub struct Journal {
    // Closed, and so unlocked, before the file is removed: see `Drop`.
    file: BufWriter<File>,
    path: PathBuf,
    stays: bool,
    _unfinished: Option<Unfinished>,
    finished: Segment,
    packets: u32,
}

impl Journal {
    /// Where the journal of the output `path` lies.
    pub fn path_of(output: &Path) -> PathBuf {
        let name = output.file_name().unwrap_or_default();
        let mut hidden = std::ffi::OsString::from(HIDDEN);
        match name.len() <= LONGEST_NAME {
            true => hidden.push(name),
            false => hidden.push(&hex(&Sha256::digest(name.as_encoded_bytes()))[..32]),
        }
        hidden.push(".resume");
        directory_of(output).join(hidden)
    }

    /// What a killed job has written down; `None` where there is no journal that can be read.
    pub fn peek(output: &Path) -> Option<JournalHead> {
        let file = open_existing(&Self::path_of(output)).ok()?;
        let mut reader = Reader::new(BufReader::new(&file), file.metadata().ok()?.len()).ok()?;
        match read_head(&mut reader)? {
            AnyHead::Current(stored) => Some(stored.head),
            AnyHead::OtherVersion(_) => None,
        }
    }

    /// Removes the journal of a job that will be begun anew in another way.
    pub(crate) fn discard(output: &Path) {
        // One that is locked is another job's.
        if let Ok(Some(_locked)) = lock(&Self::path_of(output)) {
            let _ = std::fs::remove_file(Self::path_of(output));
        }
    }

    /// Starts the journal of a job, or takes over that of a killed one. `stream` describes the stream that the
    /// packets belong to; `temporary` is the file that this job writes to.
    ///
    /// `None` where another job that is writing the same output has one.
    ///
    /// # Errors
    /// Of a job that is to go on: [`Error::OutputBusy`] where another job is writing the output,
    /// [`Error::NotResumable`] where the journal is of a job with other settings, [`Error::JournalVersion`] where it has
    /// another version. Of every job:
    /// [`Error::WriteFile`], [`Error::DiskFull`].
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
        let stays = resume == Resume::Yes;
        let stream = hex(&Sha256::digest(stream));
        let left = Left::read(&file).map_err(failed)?;
        let continued = match left.head {
            Some(AnyHead::OtherVersion(found)) if stays => {
                let expected = JOURNAL_VERSION;
                return Err(Error::JournalVersion { path: output.to_path_buf(), found, expected });
            }
            // A journal without a complete segment is not used, so its settings need not agree.
            Some(AnyHead::Current(stored)) if stays && left.finished.segment.frames > 0 => {
                if stored.head.key != head.key || stored.head.seed != head.seed {
                    return Err(Error::NotResumable {
                        path: output.to_path_buf(),
                        what: "its settings or inputs",
                    });
                }
                if stored.stream != stream {
                    return Err(Error::NotResumable { path: output.to_path_buf(), what: "its encoder" });
                }
                true
            }
            _ => false,
        };
        for name in left.temporaries {
            remove_temporary(directory_of(output), &name);
        }
        let mut journal = Self {
            file: BufWriter::new(file),
            _unfinished: if stays { None } else { Some(Unfinished::new(&path)?) },
            path,
            stays,
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
        } else if stays {
            tracing::info!("no journal of `{}` to go on from, starting from the beginning", output.display());
        }
        Ok(Some(journal))
    }

    /// Writes the head, or cuts the file behind what was finished, and puts down this job's temporary file.
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

    /// Frames in the segments that were taken over, and that this job has finished since.
    pub(crate) fn frames(&self) -> u64 {
        self.finished.frames
    }

    /// The packets of the segments that were taken over, one at a time.
    pub(crate) fn replay(&mut self, write: &mut dyn FnMut(Packet) -> Result<()>) -> Result<()> {
        let unreadable = |source| Error::ReadFile { path: self.path.clone(), source };
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
            return Err(unreadable(io::ErrorKind::UnexpectedEof.into()));
        }
        file.seek(SeekFrom::Start(end)).map(|_| ()).map_err(unreadable)
    }

    /// Adds a packet of the segment that is being encoded.
    pub(crate) fn append(&mut self, packet: &Packet) -> Result<()> {
        self.packets += 1;
        let (head, data) = record::of_packet(packet);
        record::write(&mut self.file, Kind::Packet, &[&head, data]).map_err(|e| write_error(&self.path, e))
    }

    /// Marks the packets so far as complete: the first `frames` frames of the output.
    pub(crate) fn end_segment(&mut self, frames: u64) -> Result<()> {
        let packets = self.finished.packets + u64::from(std::mem::take(&mut self.packets));
        self.finished = Segment { number: self.finished.number + 1, frames, packets };
        let written = record::write(&mut self.file, Kind::Segment, &[&self.finished.to_bytes()]);
        written.and_then(|()| self.sync()).map_err(|e| write_error(&self.path, e))
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.flush()?;
        self.file.get_ref().sync_data()
    }

    /// The output is complete and needs no journal.
    pub(crate) fn done(mut self) {
        self.stays = false;
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        if !self.stays || self.finished.frames == 0 {
            // Where it cannot be removed, it is a stale journal, which the next job replaces.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// What a job before this one has left in the file.
#[derive(Default)]
struct Left {
    head: Option<AnyHead>,
    temporaries: Vec<String>,
    finished: Finished,
}

#[derive(Clone, Copy, Default)]
struct Finished {
    segment: Segment,
    /// Length of the file up to there.
    end: u64,
}

impl Left {
    /// Everything up to the last complete segment. Errors are those of the disk; nonsense in the file ends it.
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

/// Removes what a killed job was writing to. The name was read from a file: it must be one of ours, and lead nowhere.
fn remove_temporary(directory: &Path, name: &str) {
    let ours = name.starts_with(HIDDEN) && !name.ends_with(".resume") && !name.contains(['/', '\\']);
    let path = directory.join(name);
    if ours && std::fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_file()) {
        tracing::info!("removing `{}` of a killed job", path.display());
        let _ = std::fs::remove_file(path);
    }
}

/// The file of that name, new or not, locked; `None` where another job holds it.
fn lock(path: &Path) -> io::Result<Option<File>> {
    loop {
        let file = options().create(true).write(true).truncate(false).open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
        }
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            // A file system without locks: two jobs with one output are then the user's to avoid.
            Err(TryLockError::Error(error)) => tracing::debug!("`{}`: {error}", path.display()),
        }
        // Its former owner may have removed it between the two lines above.
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

/// Elsewhere a file that is open cannot be removed.
#[cfg(not(unix))]
fn is_still(_: &File, _: &Path) -> bool {
    true
}

fn open_existing(path: &Path) -> io::Result<File> {
    options().open(path)
}

/// For a file of a foreseeable name in a directory that may be anyone's: no link to another file is followed, and
/// no pipe waited for.
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
