//! Stage 8: pictures and the voice in, a video file out.
//!
//! The colours are tagged as in the source. The file appears under its name when it is complete, and not before:
//! until then it has a name of its own in the same directory, which goes when the writer does. The pictures are
//! encoded in segments, and a journal keeps those that are finished, so that a job that was killed can go on. The same
//! pictures, divided into the same segments, give the same bytes, in one run or in several.

use std::io;
use std::path::{Path, PathBuf};

use ffmpeg_next::Rational;
use tempfile::NamedTempFile;

use super::decode_video::VideoInfo;
use crate::error::{Error, Result, write_error};
use crate::media::audio_track::Span;
use crate::media::encoder::{Pictures, VideoEncoder, encode_error};
use crate::media::init;
use crate::media::journal::{HIDDEN, Journal, JournalOptions};
use crate::media::muxer::{Muxer, Streams};
use crate::media::picture::Picture;
use crate::options::{Container, Encoding};
use crate::system::paths::directory_of;
use crate::system::paths::is_same_file;
use crate::system::temp_outputs::Unfinished;

pub use crate::media::audio_track::SoundEnd;
pub use crate::media::encoder::Effort;

/// What is to be written.
#[derive(Debug, Clone, Copy)]
pub struct OutputVideo<'a> {
    /// Where. An existing file is replaced when the new one is complete.
    pub path: &'a Path,
    /// The source: size, format and colour of the pictures.
    pub video: &'a VideoInfo,
    /// A file with the voice.
    pub audio: &'a Path,
    /// How many pictures there will be, at most: the sound suffices for them, and ends with the last that comes.
    pub frames: u64,
    /// Pictures a second, as a fraction.
    pub rate: (u32, u32),
    pub sound: SoundEnd,
    pub encoding: Encoding,
    pub effort: Effort,
    /// None where the job is not to be resumable at all.
    pub journal: Option<JournalOptions<'a>>,
}

/// An output that is being written. Dropping it leaves nothing behind, but for the journal of a job that is to be
/// [resumable](crate::media::journal::Resume::Yes); [`VideoWriter::finish`] keeps it.
pub struct VideoWriter {
    // Closed before the file is removed: fields are dropped in this order.
    muxer: Muxer,
    file: NamedTempFile,
    _unfinished: Unfinished,
    journal: Option<Journal>,
    path: PathBuf,
    encoder: VideoEncoder,
    warning: Option<String>,
    frames: u64,
    /// Of these, those in segments of a job before this one.
    resumed: u64,
    /// Of these, those in segments that are finished.
    ended: u64,
}

impl VideoWriter {
    /// Opens the voice and the encoder, starts a file beside `output.path`, and writes into it what a killed job has
    /// finished, if it is to be resumed.
    ///
    /// # Errors
    /// [`Error::OutputIsInput`], [`Error::WriteFile`] where the directory is missing or not writable, [`Error::DiskFull`],
    /// [`Error::Usage`] and [`Error::InvalidOption`] where `output.encoding` does not suit itself or the path,
    /// [`Error::NoAudioStream`] and what else opening the voice can give, [`Error::NoEncoder`],
    /// [`Error::NoHardwareEncoder`], [`Error::NotResumable`], [`Error::OutputBusy`].
    pub fn create(output: &OutputVideo) -> Result<Self> {
        init();
        let path = output.path.to_path_buf();
        check_target(&path, &[&output.video.path, output.audio])?;
        output.encoding.validate()?;
        let container = output.encoding.container_for(&path)?;
        let frame_time = frame_time(output.rate)?;
        let VideoInfo { width, height, format, colour, coding, .. } = *output.video;
        let pictures = Pictures { width, height, format, colour, coding, frame_time };
        let file = temporary_beside(&path, container).map_err(|e| write_error(&path, e))?;
        let unfinished = Unfinished::new(file.path())?;
        let (mut encoder, warning) = VideoEncoder::open(pictures, &output.encoding, output.effort, &path)?;
        if let Some(warning) = &warning {
            tracing::warn!("{warning}");
        }
        let sound = Span { frames: output.frames, frame_time, end: output.sound };
        let streams = Streams { container, video: encoder.parameters(), audio: output.audio, sound };
        let mut muxer = Muxer::create(file.path(), &path, &streams)?;
        let stream = format!("{container} {}", encoder.fingerprint());
        let mut journal = match output.journal {
            Some(options) => Journal::open(&path, options, &stream, file.path())?,
            None => None,
        };
        let mut resumed = 0;
        if let Some(journal) = &mut journal {
            journal.replay(&mut |packet| muxer.write_video(packet))?;
            resumed = journal.frames();
            encoder.go_on_after(resumed);
        }
        Ok(Self {
            muxer,
            file,
            _unfinished: unfinished,
            journal,
            path,
            encoder,
            warning,
            frames: resumed,
            resumed,
            ended: resumed,
        })
    }

    /// How many pictures a killed job has left, whole segments: the first that is to be pushed comes after them.
    pub fn resumed_frames(&self) -> u64 {
        self.resumed
    }

    /// FFmpeg's name of the encoder.
    pub fn encoder(&self) -> &'static str {
        self.encoder.name()
    }

    /// What the user should know, though the output is written: no hardware could be used, say.
    pub fn warning(&self) -> Option<&str> {
        self.warning.as_deref()
    }

    /// Encodes the next picture and writes what is ready, sound included.
    pub fn push(&mut self, picture: &Picture) -> Result<()> {
        self.encoder.push(picture).map_err(|e| encode_error(&self.path, e))?;
        self.frames += 1;
        self.write_ready(&|| false)
    }

    /// Ends the segment: nothing after it depends on what came before. If the process is killed from here on,
    /// the pictures so far need not be made again.
    pub fn end_segment(&mut self) -> Result<()> {
        self.end_segment_unless(&|| false)
    }

    /// Number of pictures so far, those of a killed job included.
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// Writes the rest and gives the file its name.
    ///
    /// # Errors
    /// [`Error::Interrupted`] soon after `cancelled` says so, [`Error::DiskFull`], [`Error::WriteFile`], [`Error::Encode`].
    pub fn finish(mut self, cancelled: &dyn Fn() -> bool) -> Result<PathBuf> {
        self.end_segment_unless(cancelled)?;
        let Self { muxer, file, path, journal, frames, .. } = self;
        muxer.finish(frames, cancelled)?;
        file.persist(&path).map_err(|e| write_error(&path, e.error))?;
        if let Some(journal) = journal {
            journal.done();
        }
        Ok(path)
    }

    fn end_segment_unless(&mut self, cancelled: &dyn Fn() -> bool) -> Result<()> {
        if self.frames == self.ended {
            return Ok(());
        }
        self.encoder.end_segment().map_err(|e| encode_error(&self.path, e))?;
        self.write_ready(cancelled)?;
        self.ended = self.frames;
        match &mut self.journal {
            Some(journal) => journal.end_segment(self.frames),
            None => Ok(()),
        }
    }

    /// Everything that the video encoder has finished, and the sound up to there.
    fn write_ready(&mut self, cancelled: &dyn Fn() -> bool) -> Result<()> {
        while let Some(packet) = self.encoder.next_packet().map_err(|e| encode_error(&self.path, e))? {
            if cancelled() {
                return Err(Error::Interrupted);
            }
            if let Some(journal) = &mut self.journal {
                journal.append(&packet)?;
            }
            self.muxer.write_video(packet)?;
        }
        Ok(())
    }
}

/// Seconds from one picture to the next, of pictures a second.
fn frame_time((numerator, denominator): (u32, u32)) -> Result<Rational> {
    let terms = (i32::try_from(denominator), i32::try_from(numerator));
    match terms {
        (Ok(seconds @ 1..), Ok(frames @ 1..)) => Ok(Rational::new(seconds, frames)),
        _ => Err(Error::InvalidOption {
            option: "fps",
            value: format!("{numerator}/{denominator}"),
            expected: "a positive rate".into(),
        }),
    }
}

/// The target must be a file or nothing yet, and none of the inputs.
fn check_target(path: &Path, inputs: &[&Path]) -> Result<()> {
    let Ok(target) = std::fs::metadata(path) else {
        return Ok(());
    };
    if !target.is_file() {
        let source = io::Error::new(io::ErrorKind::InvalidInput, "it exists and is not a regular file");
        return Err(Error::WriteFile { path: path.to_path_buf(), source });
    }
    if inputs.iter().any(|input| is_same_file(path, input)) {
        return Err(Error::OutputIsInput { path: path.to_path_buf() });
    }
    Ok(())
}

/// A new file that no other job has, with the permissions of an ordinary one.
fn temporary_beside(path: &Path, container: Container) -> io::Result<NamedTempFile> {
    let suffix = format!(".{container}");
    let mut builder = tempfile::Builder::new();
    builder.prefix(HIDDEN).suffix(&suffix);
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(directory_of(path))
}
