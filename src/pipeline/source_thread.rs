//! The source thread: stages 1 and 2.

use std::sync::mpsc::SyncSender;

use models::face::FaceChoice;

use crate::error::{InputRole, Result, compute, in_input};
use crate::face::anchor_file::{AnchorFile, AnchorSource};
use crate::face::cache::{CachedFaces, FaceCache};
use crate::face::record::FaceRecord;
use crate::face::track::{FaceTrack, TrackOptions, TrackedFrame};
use crate::media;
use crate::media::colour::ColourMode;
use crate::media::picture::Picture;
use crate::options::{FaceSelector, VideoLonger};
use crate::pipeline::job_context::JobContext;
use crate::pipeline::progress::StageCounters;
use crate::pipeline::report::Stage;
use crate::pipeline::source_frames::{Lengths, SourceFace, SourceFrame, surely_longer};
use crate::stages::align_faces::FaceAligner;
use crate::stages::decode_video::{CountDepth, VideoInfo, VideoOptions, VideoReader};

/// Where the faces of a job come from.
pub(super) enum FaceSource {
    /// The detector or the caller's anchor file.
    Tracked(Box<FaceTrack<Picture>>),
    /// The face cache.
    Cached(CachedFaces),
}

/// Decodes the video and aligns its faces.
pub(super) struct SourceThread<'a> {
    pub context: &'a JobContext<'a>,
    pub reader: VideoReader,
    pub faces: FaceSource,
    /// Receives the frames in order, then `None`, or the error that ended the thread.
    pub aligned: SyncSender<Result<Option<SourceFrame>>>,
    pub counters: &'a StageCounters,
}

/// Opens the video. Its number of frames must not depend on the speed of the disk, so the frames are counted
/// in full unless the video is certainly longer than the voice and will be trimmed.
pub(super) fn open_video(context: &JobContext, voice_seconds: f64) -> Result<VideoReader> {
    let options = &context.job.options;
    let colour = match options.reference_compat {
        true => ColourMode::ReferenceBt601,
        false => ColourMode::Tagged,
    };
    let video_options =
        VideoOptions { colour, rate: options.fps, decoder: options.decoder, count: CountDepth::Quick };
    let mut reader =
        VideoReader::open(context.fetched.video(), video_options).map_err(in_input(InputRole::Video))?;
    let VideoInfo { rate, count, .. } = reader.info();
    let suffices = surely_longer(count.frames as usize, rate.frames_in(voice_seconds));
    if !(suffices && options.duration.video_longer == VideoLonger::Trim) {
        reader.count_in_full().map_err(in_input(InputRole::Video))?;
    }
    Ok(reader)
}

impl FaceSource {
    /// Takes the faces from `cache` if it has enough of them, else from the anchor file or the detector.
    pub fn open(
        context: &JobContext,
        video: &VideoInfo,
        cache: Option<&FaceCache>,
        lengths: &Lengths,
    ) -> Result<Self> {
        if let Some(cached) = cache.and_then(|cache| cache.find(lengths.max_source_frames())) {
            return Ok(Self::Cached(cached));
        }
        let options = &context.job.options;
        let anchors = match &context.job.anchors {
            Some(path) => {
                // The file must cover all frames that are used, if their number is known.
                let required = lengths.source_frames.map_or(0, |n| n.min(lengths.max_source_frames()));
                AnchorSource::File(AnchorFile::read(path, required)?)
            }
            None => {
                let tracker = context.model.face_finder.tracker(options, face_choice(context)?)?;
                AnchorSource::Tracker(Box::new(tracker))
            }
        };
        let options = TrackOptions::new(options, video.rate.as_f64());
        Ok(Self::Tracked(Box::new(FaceTrack::new(anchors, options))))
    }

    pub fn is_cached(&self) -> bool {
        matches!(self, Self::Cached(_))
    }
}

/// The tracker's criterion for the selected face. Reads the reference picture, if there is one.
fn face_choice(context: &JobContext) -> Result<FaceChoice> {
    let options = &context.job.options;
    Ok(match &options.face {
        FaceSelector::Largest => FaceChoice::Largest,
        FaceSelector::Left => FaceChoice::Left,
        FaceSelector::Right => FaceChoice::Right,
        FaceSelector::Index(index) => FaceChoice::Index(*index),
        FaceSelector::At(point) => FaceChoice::At(*point),
        FaceSelector::Picture(path) => {
            let mut reader = VideoReader::open(path, VideoOptions::default())?;
            let Some(picture) = reader.next()? else {
                let (path, damaged) = (path.clone(), reader.damaged());
                return Err(media::Error::NoFrames { path, damaged }.into());
            };
            context.model.face_finder.like(options, &picture.to_rgb()?, path)?
        }
    })
}

impl SourceThread<'_> {
    /// Runs until the video ends or the receiver is dropped. Returns warnings.
    pub fn run(self) -> Vec<String> {
        let Self { context, reader, faces, aligned, counters } = self;
        let mut frames = FrameReader { context, reader, aligned, counters };
        let result = match faces {
            FaceSource::Tracked(track) => frames.track_faces(*track),
            FaceSource::Cached(cached) => frames.look_up_faces(cached),
        };
        // The receiver may be gone.
        let _ = frames.aligned.send(result.map(|()| None));
        match frames.reader.damaged() {
            0 => Vec::new(),
            damaged => {
                let path = &context.fetched.requested().video;
                vec![format!("{damaged} damaged packets or frames in `{path}`")]
            }
        }
    }
}

/// The source thread without its faces.
struct FrameReader<'a> {
    context: &'a JobContext<'a>,
    reader: VideoReader,
    aligned: SyncSender<Result<Option<SourceFrame>>>,
    counters: &'a StageCounters,
}

impl FrameReader<'_> {
    /// Passes every frame through the tracker.
    fn track_faces(&mut self, mut track: FaceTrack<Picture>) -> Result<()> {
        let clock = self.context.clock;
        let mut aligner = FaceAligner::new(self.context.model.resolution);
        let mut ended = false;
        while !ended {
            match self.read_frame()? {
                Some(picture) => {
                    let rgb = clock.time(Stage::DecodeVideo, || picture.to_rgb())?;
                    clock.time(Stage::AlignFaces, || track.push(picture, rgb))?;
                }
                None => {
                    clock.time(Stage::AlignFaces, || track.finish())?;
                    ended = true;
                }
            }
            while let Some(frame) = track.pop() {
                let frame = clock.time(Stage::AlignFaces, || align(frame, &mut aligner))?;
                if !self.send(frame) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Takes the faces from the cache.
    fn look_up_faces(&mut self, mut cached: CachedFaces) -> Result<()> {
        let aligner = FaceAligner::new(self.context.model.resolution);
        for number in 0..cached.len() {
            let Some(picture) = self.read_frame()? else { break };
            let cut_out = || -> Result<Option<SourceFace>> {
                let Some(record) = cached.face(number)? else { return Ok(None) };
                let crop =
                    aligner.crop(&picture.to_rgb()?, &record.matrix).map_err(compute("align_faces"))?;
                Ok(Some(SourceFace { crop, record }))
            };
            let face = self.context.clock.time(Stage::AlignFaces, cut_out)?;
            if !self.send(SourceFrame { number, picture, face }) {
                break;
            }
        }
        Ok(())
    }

    fn read_frame(&mut self) -> Result<Option<Picture>> {
        self.context.cancel.check()?;
        let picture = self.context.clock.time(Stage::DecodeVideo, || self.reader.next());
        let picture = picture.map_err(in_input(InputRole::Video))?;
        if picture.is_some() {
            self.counters.add(Stage::DecodeVideo);
        }
        Ok(picture)
    }

    /// Returns false if the receiver is gone.
    fn send(&self, frame: SourceFrame) -> bool {
        self.counters.add(Stage::AlignFaces);
        self.aligned.send(Ok(Some(frame))).is_ok()
    }
}

fn align(frame: TrackedFrame<Picture>, aligner: &mut FaceAligner) -> Result<SourceFrame> {
    let TrackedFrame { index: number, payload: picture, rgb, face, starts_shot } = frame;
    // The smoothing must not continue across a cut or a gap: the face may reappear elsewhere.
    if starts_shot || face.is_none() {
        aligner.reset();
    }
    let face = match face {
        None => None,
        Some(face) => {
            let aligned = aligner.align(&rgb, &face.anchors).map_err(compute("align_faces"))?;
            let record = FaceRecord {
                matrix: aligned.matrix,
                found: face.found,
                strength: face.strength,
                posteriors: None,
            };
            Some(SourceFace { crop: aligned.crop, record })
        }
    };
    Ok(SourceFrame { number, picture, face })
}
