//! The source thread: stages 1 and 2.

use std::sync::mpsc::SyncSender;

use models::face::FaceChoice;

use super::Run;
use crate::error::{InputRole, Result, compute, in_input};
use crate::face::anchor_file::{AnchorFile, AnchorSource};
use crate::face::cache::{CachedFaces, FaceCache};
use crate::face::record::FaceRecord;
use crate::face::track::{FaceTrack, TrackOptions, TrackedFrame};
use crate::media;
use crate::media::picture::Picture;
use crate::options::FaceSelector;
use crate::pipeline::progress::Counters;
use crate::pipeline::report::Stage;
use crate::pipeline::source_frames::{Lengths, SourceFace, SourceFrame};
use crate::stages::align_faces::FaceAligner;
use crate::stages::decode_video::{VideoInfo, VideoOptions, VideoReader};

/// Where a job's faces come from.
pub(super) enum Faces {
    /// A detector or the caller's file, frame by frame.
    Found(Box<FaceTrack<Picture>>),
    /// An earlier job.
    Cached(CachedFaces),
}

impl Faces {
    pub fn are_cached(&self) -> bool {
        matches!(self, Self::Cached(_))
    }
}

impl Run<'_> {
    pub(super) fn faces(
        &self,
        video: &VideoInfo,
        cache: Option<&FaceCache>,
        lengths: &Lengths,
    ) -> Result<Faces> {
        if let Some(cached) = cache.and_then(|cache| cache.find(lengths.source_frames_needed())) {
            return Ok(Faces::Cached(cached));
        }
        let options = &self.job.options;
        let source = match &self.job.anchors {
            // How many a file must have, where that is known.
            Some(path) => {
                let needed = lengths.source_frames.map_or(0, |n| n.min(lengths.source_frames_needed()));
                AnchorSource::File(AnchorFile::read(path, needed)?)
            }
            None => {
                let tracker = self.model.face_finder.tracker(options, self.face_choice()?)?;
                AnchorSource::Tracker(Box::new(tracker))
            }
        };
        let options = TrackOptions::new(options, video.rate.as_f64());
        Ok(Faces::Found(Box::new(FaceTrack::new(source, options))))
    }

    fn face_choice(&self) -> Result<FaceChoice> {
        let options = &self.job.options;
        Ok(match &options.face {
            FaceSelector::Largest => FaceChoice::Largest,
            FaceSelector::Left => FaceChoice::Left,
            FaceSelector::Right => FaceChoice::Right,
            FaceSelector::Index(index) => FaceChoice::Index(*index),
            FaceSelector::At(point) => FaceChoice::At(*point),
            FaceSelector::Picture(path) => {
                let mut picture = VideoReader::open(path, VideoOptions::default())?;
                let Some(picture) = picture.next()? else {
                    return Err(
                        media::Error::NoFrames { path: path.clone(), damaged: picture.damaged() }.into()
                    );
                };
                self.model.face_finder.like(options, &picture.to_rgb()?, path)?
            }
        })
    }

    /// Ends when the video does or nobody listens any more. → Warnings.
    pub(super) fn read_frames(
        &self,
        mut reader: VideoReader,
        faces: Faces,
        aligned: SyncSender<Result<Option<SourceFrame>>>,
        counters: &Counters,
    ) -> Vec<String> {
        let read = match faces {
            Faces::Found(track) => self.find_faces(&mut reader, *track, &aligned, counters),
            Faces::Cached(cached) => self.look_up_faces(&mut reader, cached, &aligned, counters),
        };
        // Nobody may be there any more to hear of it.
        let _ = aligned.send(read.map(|()| None));
        match reader.damaged() {
            0 => Vec::new(),
            damaged => {
                vec![format!("{damaged} damaged packets or frames in `{}`", self.fetched.asked().video)]
            }
        }
    }

    /// Every frame through the detector.
    fn find_faces(
        &self,
        reader: &mut VideoReader,
        mut track: FaceTrack<Picture>,
        aligned: &SyncSender<Result<Option<SourceFrame>>>,
        counters: &Counters,
    ) -> Result<()> {
        let mut aligner = FaceAligner::new(self.model.resolution);
        let mut ended = false;
        while !ended {
            match self.read_frame(reader, counters)? {
                Some(picture) => {
                    let rgb = self.clock.time(Stage::DecodeVideo, || picture.to_rgb())?;
                    self.clock.time(Stage::AlignFaces, || track.push(picture, rgb))?;
                }
                None => {
                    self.clock.time(Stage::AlignFaces, || track.finish())?;
                    ended = true;
                }
            }
            while let Some(frame) = track.pop() {
                let frame = self.clock.time(Stage::AlignFaces, || align(frame, &mut aligner))?;
                counters.add(Stage::AlignFaces);
                if aligned.send(Ok(Some(frame))).is_err() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Nothing is searched: an earlier job did it.
    fn look_up_faces(
        &self,
        reader: &mut VideoReader,
        mut cached: CachedFaces,
        aligned: &SyncSender<Result<Option<SourceFrame>>>,
        counters: &Counters,
    ) -> Result<()> {
        let aligner = FaceAligner::new(self.model.resolution);
        for number in 0..cached.len() {
            let Some(picture) = self.read_frame(reader, counters)? else { break };
            let cut_out = || -> Result<Option<SourceFace>> {
                let Some(record) = cached.face(number)? else { return Ok(None) };
                let crop =
                    aligner.crop(&picture.to_rgb()?, &record.matrix).map_err(compute("align_faces"))?;
                Ok(Some(SourceFace { crop, record }))
            };
            let face = self.clock.time(Stage::AlignFaces, cut_out)?;
            counters.add(Stage::AlignFaces);
            if aligned.send(Ok(Some(SourceFrame { number, picture, face }))).is_err() {
                break;
            }
        }
        Ok(())
    }

    fn read_frame(&self, reader: &mut VideoReader, counters: &Counters) -> Result<Option<Picture>> {
        self.cancel.check()?;
        let read = self.clock.time(Stage::DecodeVideo, || reader.next());
        let picture = read.map_err(in_input(InputRole::Video))?;
        if picture.is_some() {
            counters.add(Stage::DecodeVideo);
        }
        Ok(picture)
    }
}

fn align(frame: TrackedFrame<Picture>, aligner: &mut FaceAligner) -> Result<SourceFrame> {
    let TrackedFrame { index: number, payload: picture, rgb, face, starts_shot } = frame;
    // The smoothing must not reach across a cut or a gap: the face may come back elsewhere.
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
