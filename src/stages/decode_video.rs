//! Stage 1: a video file in, pictures at one rate out, upright and with square pixels, one at a time.
//!
//! A video that is like that already passes through untouched, in the decoder's own planes. Damage is skipped and
//! counted. High dynamic range is refused: shown as if it were not, its colours would be wrong.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ffmpeg_next::format::Pixel;
use ffmpeg_next::{ffi, frame, media};

use crate::error::{Error, Result};
use crate::media::colour::{Coding, ColourMode, ColourTags};
use crate::media::decoded_frame::Preparer;
use crate::media::deinterlace::{Deinterlacer, TimedFrame};
use crate::media::picture::Picture;
use crate::media::retime::{Retimer, Timeline};
use crate::media::source::{DecodedSource, FileKind, Source, is_hidden};
use crate::options::{DecoderChoice, FrameRate, OutputRate};

/// Reading a file's timestamps ahead of decoding stops after this time, unless all are asked for.
const SCAN_LIMIT: Duration = Duration::from_millis(400);

/// How a video is read.
#[derive(Debug, Clone, Copy, Default)]
pub struct VideoOptions {
    pub colour: ColourMode,
    /// Of the pictures that come out.
    pub rate: OutputRate,
    pub decoder: DecoderChoice,
    pub count: CountDepth,
}

/// How much is done to know the number of frames before the first is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CountDepth {
    /// The timestamps that can be read within 0.4 s.
    #[default]
    Quick,
    /// All timestamps, about a second per gigabyte. A file whose timestamps do not tell, one with damage or several
    /// time lines, is decoded once, which takes as long as it takes to read it.
    Full,
}

/// How many output frames a video has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameCount {
    pub frames: u64,
    /// Every timestamp was read and they make one time line, or every frame was decoded. Otherwise (a very long or
    /// broken file, counted quickly) the count is what the container claims. Frames at the end of an intact time line
    /// that turn out to be undecodable are counted in either case.
    pub exact: bool,
}

/// What is known of a video once its first frame is decoded.
#[derive(Debug, Clone)]
pub struct VideoInfo {
    pub path: PathBuf,
    /// Of the pictures: upright, with square pixels.
    pub width: usize,
    pub height: usize,
    /// Of the pictures; files that change theirs midway may bring others.
    pub format: Pixel,
    /// Frames a second in the file, 0 where it has no rate.
    pub frame_rate: f64,
    /// Frames a second of the pictures given out.
    pub rate: FrameRate,
    pub duration_seconds: f64,
    /// How much of the stream's announced duration is not there, where that is known: the file was cut off.
    pub missing_seconds: f64,
    /// At `rate`.
    pub count: FrameCount,
    /// The file is a picture, not a film: PNG, JPEG and so on, or an animation of one frame.
    pub still: bool,
    /// As tagged in the file; what the output repeats.
    pub colour: ColourTags,
    /// As the samples are read: the tags with the gaps filled.
    pub coding: Coding,
    /// FFmpeg's name of the codec.
    pub codec: &'static str,
}

/// A video that is being decoded.
pub struct VideoReader {
    frames: RetimedFrames,
    preparer: Preparer,
    /// The picture that goes out next, and for how many frames more.
    current: Option<(Picture, u64)>,
    /// Output frames that were converted so far.
    converted: u64,
    info: VideoInfo,
    options: VideoOptions,
    /// Whether all timestamps of the file have been read.
    scanned: bool,
}

impl VideoReader {
    /// Opens a video or a still image (a video of one frame) and decodes its first frame.
    ///
    /// # Errors
    /// [`Error::ReadFile`], [`Error::NotMedia`], [`Error::NoVideoStream`], [`Error::NoFrames`] where nothing can be
    /// decoded, [`Error::HighDynamicRange`].
    pub fn open(path: impl AsRef<Path>, options: VideoOptions) -> Result<Self> {
        let path = path.as_ref();
        // The original weaves: its frames go through OpenCV.
        let deinterlacer = (options.colour == ColourMode::Tagged).then(Deinterlacer::default);
        let source = DecodedSource::open_video(path, options.decoder)?;
        let frames = RetimedFrames::new(source, options.rate, deinterlacer);
        let source = &frames.source.source;
        let Some(TimedFrame { frame: first, .. }) = frames.ready.front() else {
            return Err(Error::NoFrames { path: path.to_path_buf(), damaged: frames.source.damaged });
        };
        let matrix = source.display_matrix();
        let preparer = Preparer::new(first, matrix.as_deref(), source.pixel_aspect(first), options.colour);
        let transfer = match source.is_dolby_vision_only() {
            true => Some("Dolby Vision"),
            false => preparer.tags().high_dynamic_range(),
        };
        if let Some(transfer) = transfer {
            return Err(Error::HighDynamicRange { path: path.to_path_buf(), transfer });
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
            // The timestamps are known and do not tell.
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

    /// Packets that were skipped and frames that the decoder patched up, so far.
    pub fn damaged(&self) -> u64 {
        self.frames.source.damaged
    }

    /// The next picture; `None` after the last. Pictures that repeat a source frame share its memory.
    #[expect(clippy::should_implement_trait, reason = "it can fail, and reads as what it is")]
    pub fn next(&mut self) -> Result<Option<Picture>> {
        let (picture, more) = match self.current.take() {
            Some(current) => current,
            None => {
                if self.info.still && self.converted > 0 {
                    return Ok(None);
                }
                let Some((frame, count)) = self.frames.next() else { return Ok(None) };
                let count = if self.info.still { 1 } else { count };
                let picture = self.preparer.prepare(&frame).map_err(|e| Error::Picture {
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

/// A file's frames, each with the number of output frames that show it.
struct RetimedFrames {
    source: DecodedSource,
    deinterlacer: Option<Deinterlacer>,
    timeline: Timeline,
    retimer: Retimer<frame::Video>,
    rate: FrameRate,
    /// Decoded and whole, not yet retimed.
    ready: VecDeque<TimedFrame>,
}

impl RetimedFrames {
    /// Decodes the first frame; `ready` is empty where nothing can be decoded. Without a deinterlacer fields stay woven.
    fn new(source: DecodedSource, rate: OutputRate, deinterlacer: Option<Deinterlacer>) -> Self {
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

    /// Sees to it that a frame is ready, if there is one.
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

    /// A frame and for how many output frames, at least one, it stays.
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

fn describe(source: &Source, preparer: &Preparer, options: VideoOptions, scan: Scan) -> VideoInfo {
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
    let source = DecodedSource::open(path, media::Type::Video)?;
    let mut frames = RetimedFrames::new(source, options.rate, None);
    let shown = std::iter::from_fn(|| frames.next()).map(|(_, count)| count).sum();
    Ok(FrameCount { frames: shown, exact: true })
}

fn rate_of(source: &Source, rate: OutputRate) -> FrameRate {
    match rate {
        OutputRate::Source => source.nominal_rate(),
        OutputRate::Exact(rate) => rate,
    }
}

fn timeline_of(source: &Source) -> Timeline {
    // SAFETY: the context is valid, and so is its format, FFmpeg's constant.
    let flags = unsafe { (*(*source.input().as_ptr()).iformat).flags };
    let jumps = flags & ffi::AVFMT_TS_DISCONT != 0;
    Timeline::new(source.stream().time_base(), source.frame_rate(), jumps)
}

/// A look at a video's timestamps without decoding it.
struct Scan {
    count: FrameCount,
    seconds: f64,
    missing_seconds: f64,
    still: bool,
    /// Whether all timestamps were read.
    complete: bool,
}

impl Scan {
    /// Opens the file a second time, so that the reader's own place in it is kept.
    fn read(path: &Path, options: VideoOptions) -> Result<Self> {
        let started = Instant::now();
        let mut source = Source::open(path, media::Type::Video)?;
        let mut timeline = timeline_of(&source);
        let (mut damaged, mut packets, mut earliest) = (0, 0u64, 0);
        // Whether the first key frame is hidden; what precedes it cannot be decoded.
        let mut begins_hidden = None;
        // From decoding a frame to showing it.
        let mut delay = None;
        let mut complete = true;
        while let Some(packet) = source.next_packet(&mut damaged) {
            packets += 1;
            if packet.is_key() {
                begins_hidden.get_or_insert(is_hidden(&packet));
            }
            if let Some((pts, dts)) = packet.pts().zip(packet.dts()) {
                delay.get_or_insert(pts.saturating_sub(dts));
            }
            if begins_hidden.is_some() && !is_hidden(&packet) {
                // Program streams give only some packets the time at which they are shown.
                let guess = || packet.dts().map(|dts| dts.saturating_add(delay.unwrap_or(0)));
                let time = timeline.time(packet.pts().or_else(guess), packet.duration());
                // After a hidden key frame, the first packet need not be the first frame.
                if begins_hidden == Some(true) {
                    earliest = time.min(earliest);
                }
            }
            if options.count == CountDepth::Quick && started.elapsed() > SCAN_LIMIT {
                complete = false;
                break;
            }
        }
        let mut end = timeline.end().saturating_sub(earliest);
        if !complete {
            let claimed = Self::claimed_seconds(&source) / timeline.seconds(1);
            end = end.max(claimed as i64);
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
        let announced = source.announced_seconds().filter(|_| complete && !still);
        let missing_seconds = announced.map_or(0.0, |announced| (announced - seconds).max(0.0));
        Ok(Self { count, seconds, missing_seconds, still, complete })
    }

    /// The duration that the stream, else the container, has written down.
    fn claimed_seconds(source: &Source) -> f64 {
        let of_file = source.input().duration() as f64 / f64::from(ffi::AV_TIME_BASE);
        source.announced_seconds().unwrap_or(of_file.max(0.0))
    }
}
