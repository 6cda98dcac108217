//! Stage 1: decodes a video file to upright pictures with square pixels at a constant frame rate.
//!
//! Videos that already have these properties pass through unchanged, in the decoder's own planes. Damage is
//! skipped and counted. HDR is refused, because its colours would be wrong without tone mapping.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ffmpeg_next::format::Pixel;
use ffmpeg_next::{ffi, frame, media};

use crate::error::Result;
use crate::media::Error;
use crate::media::colour::{Coding, ColourMode, ColourTags};
use crate::media::decoded_frame::FrameNormalizer;
use crate::media::deinterlace::{Deinterlacer, TimedFrame};
use crate::media::picture::Picture;
use crate::media::retime::{Retimer, Timeline};
use crate::media::source::{DecodedStream, FileKind, MediaStream, is_hidden};
use crate::options::{DecoderChoice, FrameRate, OutputRate};

/// Time limit for reading timestamps before decoding with [`CountDepth::Quick`].
const SCAN_LIMIT: Duration = Duration::from_millis(400);

/// Options for reading a video.
#[derive(Debug, Clone, Copy, Default)]
pub struct VideoOptions {
    pub colour: ColourMode,
    /// Frame rate of the pictures.
    pub rate: OutputRate,
    pub decoder: DecoderChoice,
    pub count: CountDepth,
}

/// Effort for determining the number of frames before the first is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CountDepth {
    /// Reads timestamps for at most 0.4 s.
    #[default]
    Quick,
    /// Reads all timestamps, about 1 s per gigabyte. A file with damage or discontinuous timestamps is
    /// decoded once in full.
    Full,
}

/// Number of output frames of a video.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameCount {
    pub frames: u64,
    /// Whether all timestamps were read and are continuous, or all frames were decoded. Otherwise (a very
    /// long or broken file with [`CountDepth::Quick`]) `frames` follows from the container's duration.
    /// Undecodable frames at the end of continuous timestamps are counted in either case.
    pub exact: bool,
}

/// Properties of a video, known after its first frame has been decoded.
#[derive(Debug, Clone)]
pub struct VideoInfo {
    pub path: PathBuf,
    /// Size of the pictures: upright, with square pixels.
    pub width: usize,
    pub height: usize,
    /// Pixel format of the first picture; files that change their format have others later.
    pub format: Pixel,
    /// Frame rate of the file; 0 if it has none.
    pub frame_rate: f64,
    /// Frame rate of the pictures.
    pub rate: FrameRate,
    pub duration_seconds: f64,
    /// Difference between the declared and the actual duration of a truncated file; 0 if unknown.
    pub missing_seconds: f64,
    /// Number of pictures at `rate`.
    pub count: FrameCount,
    /// Whether the file is a still image: PNG, JPEG and so on, or an animation of one frame.
    pub still: bool,
    /// Colour tags of the file, which the output repeats.
    pub colour: ColourTags,
    /// Matrix and range for reading the samples: the tags, with defaults for missing ones.
    pub coding: Coding,
    /// FFmpeg's name for the codec.
    pub codec: &'static str,
}

/// Reader of the pictures of a video.
pub struct VideoReader {
    frames: RetimedFrames,
    preparer: FrameNormalizer,
    /// The next picture and the number of frames that still show it.
    current: Option<(Picture, u64)>,
    /// Number of output frames converted so far.
    converted: u64,
    info: VideoInfo,
    options: VideoOptions,
    /// Whether all timestamps of the file have been read.
    scanned: bool,
}

impl VideoReader {
    /// Opens a video or a still image (a video of one frame) and decodes the first frame.
    ///
    /// # Errors
    /// [`ReadFile`](crate::system::Error::ReadFile), [`Error::NotMedia`], [`Error::NoVideoStream`],
    /// [`Error::NoFrames`] where nothing can be decoded, [`Error::HighDynamicRange`].
    pub fn open(path: impl AsRef<Path>, options: VideoOptions) -> Result<Self> {
        let path = path.as_ref();
        // The original reads frames with OpenCV, which does not deinterlace.
        let deinterlacer = (options.colour == ColourMode::Tagged).then(Deinterlacer::default);
        let source = DecodedStream::open_video(path, options.decoder)?;
        let frames = RetimedFrames::new(source, options.rate, deinterlacer);
        let source = &frames.source.source;
        let Some(TimedFrame { frame: first, .. }) = frames.ready.front() else {
            return Err(Error::NoFrames { path: path.to_path_buf(), damaged: frames.source.damaged }.into());
        };
        let matrix = source.display_matrix();
        let preparer =
            FrameNormalizer::new(first, matrix.as_deref(), source.pixel_aspect(first), options.colour);
        let transfer = match source.is_dolby_vision_only() {
            true => Some("Dolby Vision"),
            false => preparer.tags().high_dynamic_range(),
        };
        if let Some(transfer) = transfer {
            return Err(Error::HighDynamicRange { path: path.to_path_buf(), transfer }.into());
        }
        let scan = Scan::read(path, options)?;
        let scanned = scan.complete;
        let info = describe(source, &preparer, options, scan);
        Ok(Self { frames, preparer, current: None, converted: 0, info, options, scanned })
    }

    /// Makes the number of frames exact, as [`CountDepth::Full`] does, if it is not yet.
    pub fn count_in_full(&mut self) -> Result<()> {
        if self.info.count.exact {
            return Ok(());
        }
        let path = self.info.path.clone();
        let options = VideoOptions { count: CountDepth::Full, ..self.options };
        if self.scanned {
            // All timestamps are known but not continuous.
            self.info.count = count_by_decoding(&path, options)?;
            return Ok(());
        }
        let scan = Scan::read(&path, options)?;
        self.scanned = true;
        self.info.add(scan);
        Ok(())
    }

    pub fn info(&self) -> &VideoInfo {
        &self.info
    }

    /// Number of skipped packets and concealed frames so far.
    pub fn damaged(&self) -> u64 {
        self.frames.source.damaged
    }

    /// The next picture; `None` after the last. Repeated pictures share their memory.
    #[expect(clippy::should_implement_trait, reason = "unlike an iterator, it can fail")]
    pub fn next(&mut self) -> Result<Option<Picture>> {
        let (picture, more) = match self.current.take() {
            Some(current) => current,
            None => {
                if self.info.still && self.converted > 0 {
                    return Ok(None);
                }
                let Some((frame, count)) = self.frames.next() else { return Ok(None) };
                let count = if self.info.still { 1 } else { count };
                let picture = self.preparer.convert(&frame).map_err(|e| Error::Picture {
                    path: self.info.path.clone(),
                    frame: self.converted,
                    reason: format!("{:?}: {e}", frame.format()),
                })?;
                self.converted += count;
                (picture, count)
            }
        };
        if more > 1 {
            self.current = Some((picture.clone(), more - 1));
        }
        Ok(Some(picture))
    }
}

/// The frames of a file, each with the number of output frames that show it.
struct RetimedFrames {
    source: DecodedStream,
    deinterlacer: Option<Deinterlacer>,
    timeline: Timeline,
    retimer: Retimer<frame::Video>,
    rate: FrameRate,
    /// Decoded and deinterlaced frames before retiming.
    ready: VecDeque<TimedFrame>,
}

impl RetimedFrames {
    /// Decodes the first frame; `ready` is empty if no frame can be decoded. Without a deinterlacer, fields
    /// stay woven.
    fn new(source: DecodedStream, rate: OutputRate, deinterlacer: Option<Deinterlacer>) -> Self {
        let timeline = timeline_of(&source.source);
        let rate = rate_of(&source.source, rate);
        let retimer = Retimer::default();
        let mut frames = Self { source, deinterlacer, timeline, retimer, rate, ready: VecDeque::new() };
        frames.decode();
        let shown = frames.ready.front().and_then(|first| first.timestamp);
        if let Some((beginning, shown)) = frames.source.beginning().zip(shown)
            && beginning < shown
        {
            frames.timeline.begin_at(beginning);
        }
        frames
    }

    /// Decodes until a frame is ready or the video ends.
    fn decode(&mut self) {
        while self.ready.is_empty() {
            let decoded = self.source.next_frame().map(|frame| TimedFrame::from(frame::Video::from(frame)));
            let last = decoded.is_none();
            match (&mut self.deinterlacer, decoded) {
                (Some(deinterlacer), Some(frame)) => self.ready.extend(deinterlacer.push(frame)),
                (Some(deinterlacer), None) => self.ready.extend(deinterlacer.finish()),
                (None, decoded) => self.ready.extend(decoded),
            }
            if last {
                break;
            }
        }
    }

    /// The next frame and the number of output frames, at least one, that show it.
    fn next(&mut self) -> Option<(frame::Video, u64)> {
        loop {
            self.decode();
            let Some(TimedFrame { frame, timestamp, duration }) = self.ready.pop_front() else {
                return self.retimer.finish(self.timeline.slot(self.timeline.end(), self.rate));
            };
            let time = self.timeline.time(timestamp, duration);
            let shown = self.retimer.push(self.timeline.slot(time, self.rate), frame);
            if shown.is_some() {
                return shown;
            }
        }
    }
}

impl VideoInfo {
    fn add(&mut self, scan: Scan) {
        self.duration_seconds = scan.seconds;
        self.missing_seconds = scan.missing_seconds;
        self.count = scan.count;
        self.still = scan.still;
    }
}

fn describe(
    source: &MediaStream,
    preparer: &FrameNormalizer,
    options: VideoOptions,
    scan: Scan,
) -> VideoInfo {
    let (width, height) = preparer.size();
    VideoInfo {
        path: source.path.clone(),
        width,
        height,
        format: preparer.format(),
        frame_rate: source.frame_rate(),
        rate: rate_of(source, options.rate),
        duration_seconds: scan.seconds,
        missing_seconds: scan.missing_seconds,
        count: scan.count,
        still: scan.still,
        colour: preparer.tags(),
        coding: preparer.coding(),
        codec: source.stream().parameters().id().name(),
    }
}

/// Counts the output frames by decoding the whole file.
fn count_by_decoding(path: &Path, options: VideoOptions) -> Result<FrameCount> {
    let source = DecodedStream::open(path, media::Type::Video)?;
    let mut frames = RetimedFrames::new(source, options.rate, None);
    let shown = std::iter::from_fn(|| frames.next()).map(|(_, count)| count).sum();
    Ok(FrameCount { frames: shown, exact: true })
}

fn rate_of(source: &MediaStream, rate: OutputRate) -> FrameRate {
    match rate {
        OutputRate::Source => source.nominal_rate(),
        OutputRate::Exact(rate) => rate,
    }
}

fn timeline_of(source: &MediaStream) -> Timeline {
    // SAFETY: the context is valid, and its format is static.
    let flags = unsafe { (*(*source.input().as_ptr()).iformat).flags };
    let jumps = flags & ffi::AVFMT_TS_DISCONT != 0;
    Timeline::new(source.stream().time_base(), source.frame_rate(), jumps)
}

/// Result of reading a video's timestamps without decoding it.
struct Scan {
    count: FrameCount,
    seconds: f64,
    missing_seconds: f64,
    still: bool,
    /// Whether all timestamps were read.
    complete: bool,
}

/// The timestamps of a stream's packets, as far as they were read.
struct Timestamps {
    timeline: Timeline,
    /// Smallest time of a frame.
    earliest: i64,
    packets: u64,
    damaged: u64,
    /// Whether all packets were read.
    complete: bool,
}

impl Timestamps {
    fn read(source: &mut MediaStream, count: CountDepth) -> Self {
        let started = Instant::now();
        let timeline = timeline_of(source);
        let mut read = Self { timeline, earliest: 0, packets: 0, damaged: 0, complete: true };
        // Whether the first key frame is hidden. The packets before it cannot be decoded.
        let mut begins_hidden = None;
        // Difference between presentation and decoding time.
        let mut delay = None;
        while let Some(packet) = source.next_packet(&mut read.damaged) {
            read.packets += 1;
            if packet.is_key() {
                begins_hidden.get_or_insert(is_hidden(&packet));
            }
            if let Some((pts, dts)) = packet.pts().zip(packet.dts()) {
                delay.get_or_insert(pts.saturating_sub(dts));
            }
            if begins_hidden.is_some() && !is_hidden(&packet) {
                // In program streams only some packets have a presentation timestamp.
                let guess = || packet.dts().map(|dts| dts.saturating_add(delay.unwrap_or(0)));
                let time = read.timeline.time(packet.pts().or_else(guess), packet.duration());
                // After a hidden key frame, the first packet is not necessarily the first frame.
                if begins_hidden == Some(true) {
                    read.earliest = time.min(read.earliest);
                }
            }
            if count == CountDepth::Quick && started.elapsed() > SCAN_LIMIT {
                read.complete = false;
                break;
            }
        }
        read
    }
}

impl Scan {
    /// Opens the file a second time, because the reader has its own position in it.
    fn read(path: &Path, options: VideoOptions) -> Result<Self> {
        let mut source = MediaStream::open(path, media::Type::Video)?;
        let Timestamps { timeline, earliest, packets, damaged, complete } =
            Timestamps::read(&mut source, options.count);
        let mut end = timeline.end().saturating_sub(earliest);
        if !complete {
            let declared = Self::declared_seconds(&source) / timeline.seconds(1);
            end = end.max(declared as i64);
        }
        let rate = rate_of(&source, options.rate);
        let mut count = FrameCount {
            frames: u64::try_from(timeline.slot(end, rate)).unwrap_or(0).max(1),
            exact: complete && !timeline.broken() && damaged == 0,
        };
        if options.count == CountDepth::Full && !count.exact && source.kind() != FileKind::Picture {
            count = count_by_decoding(path, options)?;
        }
        let still = match source.kind() {
            FileKind::Picture => true,
            FileKind::Animation => complete && packets == 1,
            FileKind::Film => false,
        };
        if still {
            count = FrameCount { frames: 1, exact: true };
        }
        let seconds = timeline.seconds(end);
        let declared = source.declared_seconds().filter(|_| complete && !still);
        let missing_seconds = declared.map_or(0.0, |declared| (declared - seconds).max(0.0));
        Ok(Self { count, seconds, missing_seconds, still, complete })
    }

    /// Duration according to the stream, else to the container.
    fn declared_seconds(source: &MediaStream) -> f64 {
        let of_file = source.input().duration() as f64 / f64::from(ffi::AV_TIME_BASE);
        source.declared_seconds().unwrap_or(of_file.max(0.0))
    }
}
