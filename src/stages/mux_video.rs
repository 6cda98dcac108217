//! Stage 8: encodes the output pictures and muxes them with the voice.
//!
//! The output has the colour tags of the source. It is written to a temporary file in the same directory,
//! which is renamed when it is complete and removed otherwise. The pictures are encoded in segments; a
//! journal stores the complete segments, so a killed job can be resumed. The same pictures in the same
//! segments produce the same bytes, in one run or in several.

use std::io;
use std::path::{Path, PathBuf};

use ffmpeg_next::Rational;
use tempfile::NamedTempFile;

use super::decode_video::VideoInfo;
use crate::error::{InputRole, Result, in_input, write_error};
use crate::media::Error;
use crate::media::audio_track::Span;
use crate::media::encoder::{PictureFormat, VideoEncoder, encode_error};
use crate::media::init;
use crate::media::journal::{Journal, JournalOptions};
use crate::media::muxer::{Muxer, Streams};
use crate::media::picture::Picture;
use crate::options::{Container, Encoding, InvalidOption};
use crate::system;
use crate::system::paths::{directory_of, is_same_file};
use crate::system::temp_outputs::{TEMP_PREFIX, Unfinished};

pub use crate::media::audio_track::SoundEnd;
pub use crate::media::encoder::Effort;

/// Settings of an output.
#[derive(Debug, Clone, Copy)]
pub struct OutputVideo<'a> {
    /// Path of the output. An existing file is replaced when the new one is complete.
    pub path: &'a Path,
    /// The source video, which determines size, format and colours of the pictures.
    pub video: &'a VideoInfo,
    /// File with the voice.
    pub audio: &'a Path,
    /// Maximum number of pictures. The audio is long enough for all of them and ends with the last one
    /// written.
    pub frames: u64,
    /// Pictures per second, as a fraction.
    pub rate: (u32, u32),
    pub sound: SoundEnd,
    pub encoding: Encoding,
    pub effort: Effort,
    /// `None` for an output without journal.
    pub journal: Option<JournalOptions<'a>>,
}

/// Writer of an output. Dropping it removes the temporary file, but not the journal of a
/// [resumable](crate::media::journal::Resume::Yes) job; [`VideoWriter::finish`] completes the output.
pub struct VideoWriter {
    // Fields are dropped in this order: the muxer is closed before the file is removed.
    muxer: Muxer,
    file: NamedTempFile,
    _unfinished: Unfinished,
    journal: Option<Journal>,
    path: PathBuf,
    encoder: VideoEncoder,
    warning: Option<String>,
    frames: u64,
    /// Frames taken over from a killed job.
    resumed: u64,
    /// Frames in complete segments.
    ended: u64,
}

impl VideoWriter {
    /// Opens the voice and the encoder and creates a temporary file beside `output.path`. If a killed job is
    /// resumed, writes its segments.
    ///
    /// # Errors
    /// [`Error::OutputIsInput`], [`WriteFile`](system::Error::WriteFile) if the directory is missing or not
    /// writable, [`DiskFull`](system::Error::DiskFull), [`InvalidOption`] if `output.encoding` is invalid or
    /// does not suit the path, [`Error::NoAudioStream`] and other errors of opening the voice,
    /// [`Error::NoEncoder`], [`Error::NoHardwareEncoder`], [`Error::NotResumable`],
    /// [`Error::JournalVersion`], [`Error::OutputBusy`].
    pub fn create(output: &OutputVideo) -> Result<Self> {
        init();
        let path = output.path.to_path_buf();
        check_target(&path, &[&output.video.path, output.audio])?;
        output.encoding.validate()?;
        let container = output.encoding.container_for(&path)?;
        let frame_time = frame_time(output.rate)?;
        let VideoInfo { width, height, format, colour, coding, .. } = *output.video;
        let pictures = PictureFormat { width, height, format, colour, coding, frame_time };
        let file = temporary_beside(&path, container).map_err(|e| write_error(&path, e))?;
        let unfinished = Unfinished::new(file.path())?;
        let (mut encoder, warning) = VideoEncoder::open(pictures, &output.encoding, output.effort, &path)?;
        if let Some(warning) = &warning {
            tracing::warn!("{warning}");
        }
        let sound = Span { frames: output.frames, frame_time, end: output.sound };
        let streams = Streams { container, video: encoder.parameters(), audio: output.audio, sound };
        let mut muxer = Muxer::create(file.path(), &path, &streams).map_err(in_input(InputRole::Voice))?;
        let stream = format!("{container} {}", encoder.fingerprint());
        let mut journal = match output.journal {
            Some(options) => Journal::open(&path, options, &stream, file.path())?,
            None => None,
        };
        let mut resumed = 0;
        if let Some(journal) = &mut journal {
            journal.replay(&mut |packet| muxer.write_video(packet))?;
            resumed = journal.frames();
            encoder.resume_after(resumed);
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

    /// Number of pictures taken over from a killed job. The caller pushes the pictures after them.
    pub fn resumed_frames(&self) -> u64 {
        self.resumed
    }

    /// FFmpeg's name for the encoder.
    pub fn encoder(&self) -> &'static str {
        self.encoder.name()
    }

    /// A warning for the user, for example that no hardware encoder could be opened.
    pub fn warning(&self) -> Option<&str> {
        self.warning.as_deref()
    }

    /// Encodes the next picture and writes the packets that are ready, with their audio.
    pub fn push(&mut self, picture: &Picture) -> Result<()> {
        self.encoder.push(picture).map_err(|e| encode_error(&self.path, e))?;
        self.frames += 1;
        self.write_ready(&|| false)
    }

    /// Ends the segment. If the process is killed after this call, a resumed job continues after these
    /// pictures.
    pub fn end_segment(&mut self) -> Result<()> {
        self.end_segment_unless(&|| false)
    }

    /// Number of pictures so far, including those of a killed job.
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// Writes the remaining packets and renames the temporary file.
    ///
    /// # Errors
    /// [`Interrupted`](system::Error::Interrupted) soon after `cancelled` returns true;
    /// [`DiskFull`](system::Error::DiskFull), [`WriteFile`](system::Error::WriteFile), [`Error::Encode`].
    pub fn finish(mut self, cancelled: &dyn Fn() -> bool) -> Result<PathBuf> {
        self.end_segment_unless(cancelled)?;
        let Self { muxer, file, path, journal, frames, .. } = self;
        muxer.finish(frames, cancelled).map_err(in_input(InputRole::Voice))?;
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
            Some(journal) => Ok(journal.end_segment(self.frames)?),
            None => Ok(()),
        }
    }

    /// Writes the finished packets of the video encoder and the audio up to them.
    fn write_ready(&mut self, cancelled: &dyn Fn() -> bool) -> Result<()> {
        while let Some(packet) = self.encoder.next_packet().map_err(|e| encode_error(&self.path, e))? {
            if cancelled() {
                return Err(system::Error::Interrupted.into());
            }
            if let Some(journal) = &mut self.journal {
                journal.append(&packet)?;
            }
            self.muxer.write_video(packet).map_err(in_input(InputRole::Voice))?;
        }
        Ok(())
    }
}

/// Seconds per picture for a number of pictures per second.
fn frame_time((numerator, denominator): (u32, u32)) -> Result<Rational> {
    let terms = (i32::try_from(denominator), i32::try_from(numerator));
    match terms {
        (Ok(seconds @ 1..), Ok(frames @ 1..)) => Ok(Rational::new(seconds, frames)),
        _ => Err(InvalidOption::Value {
            option: "fps",
            value: format!("{numerator}/{denominator}"),
            expected: "a positive rate".into(),
        }
        .into()),
    }
}

/// Checks that the output path is free or a regular file, and is not an input.
fn check_target(path: &Path, inputs: &[&Path]) -> Result<()> {
    let Ok(target) = std::fs::metadata(path) else {
        return Ok(());
    };
    if !target.is_file() {
        let source = io::Error::new(io::ErrorKind::InvalidInput, "it exists and is not a regular file");
        return Err(system::Error::WriteFile { path: path.to_path_buf(), source }.into());
    }
    if inputs.iter().any(|input| is_same_file(path, input)) {
        return Err(Error::OutputIsInput { path: path.to_path_buf() }.into());
    }
    Ok(())
}

/// A temporary file with a unique name and the default permissions of new files.
fn temporary_beside(path: &Path, container: Container) -> io::Result<NamedTempFile> {
    let suffix = format!(".{container}");
    let mut builder = tempfile::Builder::new();
    builder.prefix(TEMP_PREFIX).suffix(&suffix);
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(directory_of(path))
}
