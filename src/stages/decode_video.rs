//! Stage 1: a video file in, pictures at 25 frames a second out, upright and with square pixels, one at a time.
//!
//! A video that is like that already passes through untouched, in the decoder's own planes. Damage is skipped and
//! counted. High dynamic range is refused: shown as if it were not, its colours would be wrong.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ffmpeg_next::{ffi, frame, media};

use crate::error::{Error, Result};
use crate::media::colour::{Coding, ColourMode, ColourTags};
use crate::media::picture::Picture;
use crate::media::prepare::Preparer;
use crate::media::retime::{Retimer, Timeline};
use crate::media::source::{DecodedSource, Source};

/// Reading a file's timestamps ahead of decoding stops after this time.
const SCAN_LIMIT: Duration = Duration::from_millis(400);

/// How a video is read.
#[derive(Debug, Clone, Copy, Default)]
pub struct VideoOptions {
    pub colour: ColourMode,
}

/// How many output frames a video has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameCount {
    pub frames: u64,
    /// Every timestamp was read and they make one time line. Otherwise (a very long or broken file) the count is
    /// what the container claims. Frames at the end that turn out to be undecodable are counted in either case.
    pub exact: bool,
}

/// What is known of a video once its first frame is decoded.
#[derive(Debug, Clone)]
pub struct VideoInfo {
    pub path: PathBuf,
    /// Of the pictures: upright, with square pixels.
    pub width: usize,
    pub height: usize,
    /// Frames a second in the file, 0 where it has no rate.
    pub frame_rate: f64,
    pub duration_seconds: f64,
    /// At 25 frames a second.
    pub count: FrameCount,
    /// As tagged in the file; what the output repeats.
    pub colour: ColourTags,
    /// As the samples are read: the tags with the gaps filled.
    pub coding: Coding,
    /// FFmpeg's name of the codec.
    pub codec: &'static str,
}

/// A video that is being decoded.
pub struct VideoReader {
    source: DecodedSource,
    preparer: Preparer,
    timeline: Timeline,
    retimer: Retimer<frame::Video>,
    /// Decoded while opening, not yet retimed.
    first: Option<frame::Video>,
    /// The picture that goes out next, and for how many frames more.
    current: Option<(Picture, u64)>,
    /// Output frames that were converted so far.
    converted: u64,
    info: VideoInfo,
}

impl VideoReader {
    /// Opens a video or a still image (a video of one frame) and decodes its first frame.
    ///
    /// # Errors
    /// [`Error::ReadFile`], [`Error::NotMedia`], [`Error::NoVideoStream`], [`Error::NoFrames`] where nothing can be
    /// decoded, [`Error::HighDynamicRange`].
    pub fn open(path: impl AsRef<Path>, options: VideoOptions) -> Result<Self> {
        let path = path.as_ref();
        let mut source = DecodedSource::open(path, media::Type::Video)?;
        let Some(first) = source.next_frame().map(frame::Video::from) else {
            return Err(Error::NoFrames { path: path.to_path_buf(), damaged: source.damaged });
        };
        let matrix = source.source.display_matrix();
        let preparer = Preparer::new(&first, matrix.as_deref(), options.colour);
        if let Some(transfer) = preparer.tags().high_dynamic_range() {
            return Err(Error::HighDynamicRange { path: path.to_path_buf(), transfer });
        }
        let info = describe(&source.source, &preparer)?;
        let timeline = timeline_of(&source.source);
        let retimer = Retimer::default();
        Ok(Self {
            source,
            preparer,
            timeline,
            retimer,
            first: Some(first),
            current: None,
            converted: 0,
            info,
        })
    }

    pub fn info(&self) -> &VideoInfo {
        &self.info
    }

    /// Packets that were skipped and frames that the decoder patched up, so far.
    pub fn damaged(&self) -> u64 {
        self.source.damaged
    }

    /// The next picture; `None` after the last. Pictures that repeat a source frame share its memory.
    #[expect(clippy::should_implement_trait, reason = "it can fail, and reads as what it is")]
    pub fn next(&mut self) -> Result<Option<Picture>> {
        loop {
            match self.current.take() {
                Some((picture, 1)) => return Ok(Some(picture)),
                Some((picture, more)) => {
                    self.current = Some((picture.clone(), more - 1));
                    return Ok(Some(picture));
                }
                None => {}
            }
            let decoded = self.first.take().or_else(|| self.source.next_frame().map(frame::Video::from));
            let shown = match decoded {
                Some(frame) => {
                    let time = self.timeline.time(frame.timestamp(), frame.packet().duration);
                    self.retimer.push(self.timeline.slot(time), frame)
                }
                None => match self.retimer.finish(self.timeline.slot(self.timeline.end())) {
                    None => return Ok(None),
                    last => last,
                },
            };
            if let Some((frame, count)) = shown {
                let picture = self.preparer.prepare(&frame).map_err(|e| Error::Picture {
                    path: self.info.path.clone(),
                    frame: self.converted,
                    reason: format!("{:?}: {e}", frame.format()),
                })?;
                self.converted += count;
                self.current = Some((picture, count));
            }
        }
    }
}

fn describe(source: &Source, preparer: &Preparer) -> Result<VideoInfo> {
    let (width, height) = preparer.size();
    let scan = Scan::read(&source.path)?;
    Ok(VideoInfo {
        path: source.path.clone(),
        width,
        height,
        frame_rate: source.frame_rate(),
        duration_seconds: scan.seconds,
        count: FrameCount { frames: scan.frames, exact: scan.exact },
        colour: preparer.tags(),
        coding: preparer.coding(),
        codec: source.stream().parameters().id().name(),
    })
}

fn timeline_of(source: &Source) -> Timeline {
    // SAFETY: the context is valid, and so is its format, FFmpeg's constant.
    let flags = unsafe { (*(*source.input().as_ptr()).iformat).flags };
    let jumps_ahead = flags & ffi::AVFMT_TS_DISCONT != 0;
    Timeline::new(source.stream().time_base(), source.frame_rate(), jumps_ahead)
}

/// A look at a video's timestamps without decoding it.
struct Scan {
    frames: u64,
    seconds: f64,
    exact: bool,
}

impl Scan {
    /// Opens the file a second time, so that the reader's own place in it is kept.
    fn read(path: &Path) -> Result<Self> {
        let started = Instant::now();
        let mut source = Source::open(path, media::Type::Video)?;
        let mut timeline = timeline_of(&source);
        let (mut damaged, mut seen_key) = (0, false);
        let mut complete = true;
        while let Some(packet) = source.next_packet(&mut damaged) {
            // What precedes the first key frame cannot be decoded; some packets only prepare the decoder.
            seen_key |= packet.is_key();
            // SAFETY: reads a plain field.
            let flags = unsafe { (*ffmpeg_next::packet::Ref::as_ptr(&packet)).flags };
            if seen_key && flags & ffi::AV_PKT_FLAG_DISCARD == 0 {
                timeline.time(packet.pts().or(packet.dts()), packet.duration());
            }
            if started.elapsed() > SCAN_LIMIT {
                complete = false;
                break;
            }
        }
        let mut end = timeline.end();
        if !complete {
            let claimed = Self::claimed_seconds(&source) / timeline.seconds(1);
            end = end.max(claimed as i64);
        }
        Ok(Self {
            frames: u64::try_from(timeline.slot(end)).unwrap_or(0).max(1),
            seconds: timeline.seconds(end),
            exact: complete && !timeline.broken() && damaged == 0,
        })
    }

    /// The duration that the stream, else the container, has written down.
    fn claimed_seconds(source: &Source) -> f64 {
        let stream = source.stream();
        let of_file = source.input().duration() as f64 / f64::from(ffi::AV_TIME_BASE);
        if stream.duration() > 0 {
            stream.duration() as f64 * f64::from(stream.time_base())
        } else {
            of_file.max(0.0)
        }
    }
}
