//! Source frames in output order.
//!
//! Each source frame is decoded and aligned once. A frame that is repeated immediately is kept in memory;
//! frames that are shown again later (loop, ping-pong) are stored in a temporary file, so memory does not
//! grow with their number.

use std::sync::mpsc::Receiver;

use candle_core::{Device, Tensor};

use crate::error::Result;
use crate::face::cache::FaceCacheWriter;
use crate::face::record::{FaceRecord, FaceShape, stored};
use crate::media::frame_store::{FrameStore, check_space};
use crate::media::picture::Picture;
use crate::options::{AudioLonger, DurationPolicy, VideoLonger};
use crate::pipeline::job_context::JobContext;
use crate::pipeline::run_error::RunError;
use crate::stages::decode_video::VideoInfo;
use crate::system;
use crate::system::paths::directory_of;

/// A frame of the source video. Clones share its memory.
#[derive(Clone)]
pub struct SourceFrame {
    /// Frame number in the video, at the output's frame rate.
    pub number: usize,
    pub picture: Picture,
    pub face: Option<SourceFace>,
}

/// The face of a source frame, with the data that is computed once per source frame.
#[derive(Clone)]
pub struct SourceFace {
    /// (resolution, resolution, 3), u8.
    pub crop: Tensor,
    pub record: FaceRecord,
}

/// Lengths of video and voice in output frames.
#[derive(Debug, Clone, Copy)]
pub struct Lengths {
    pub policy: DurationPolicy,
    /// Length of the video; `None` if it is not known exactly. Modes that change the speed use `declared`
    /// instead.
    pub source_frames: Option<usize>,
    /// Length of the video according to the file.
    pub declared: usize,
    pub audio_frames: usize,
}

impl Lengths {
    /// Length of the output, exact if the length of the video is.
    pub fn output_frames(&self) -> usize {
        self.policy.output_frames(self.source_frames.unwrap_or(self.declared), self.audio_frames)
    }

    fn changes_speed(&self) -> bool {
        self.policy.changes_speed(self.declared, self.audio_frames)
    }

    /// Number of source frames that must be stored for reuse; an estimate if the length of the video is not
    /// exact.
    pub fn reused_frames(&self) -> usize {
        match self.source_frames {
            Some(n) => (0..n).filter(|&source| self.is_reused(source)).count(),
            // The file may be shorter than declared, unless it declares far more frames than needed.
            None if surely_longer(self.declared, self.audio_frames) => 0,
            None => self.declared.min(self.audio_frames) * usize::from(self.may_reuse()),
        }
    }

    /// Upper bound of the source frames that the job uses.
    pub fn max_source_frames(&self) -> usize {
        match self.policy.video_longer {
            _ if self.changes_speed() => {
                self.policy.source_frame(self.audio_frames - 1, self.declared, self.audio_frames) + 1
            }
            VideoLonger::Trim | VideoLonger::Speed => self.audio_frames,
            VideoLonger::PadSilence => usize::MAX,
        }
    }

    /// Whether a source frame must be stored for reuse. If the length of the video is not exact, all must.
    fn is_reused(&self, source: usize) -> bool {
        self.source_frames.is_none_or(|n| self.policy.is_reused(source, n, self.audio_frames))
    }

    /// Whether the mode reuses frames for some length of the video.
    fn may_reuse(&self) -> bool {
        matches!(self.policy.audio_longer, AudioLonger::PingPong | AudioLonger::Loop)
    }
}

/// Whether a video with `declared` frames, a count that may be inexact, certainly has more than `frames`.
pub fn surely_longer(declared: usize, frames: usize) -> bool {
    declared > frames + frames / 50 + 50
}

/// Iterator over the source frames by output number, ascending from 0.
pub struct SourceFrames {
    aligned: Receiver<Result<Option<SourceFrame>>>,
    retention: FrameRetention,
    lengths: Lengths,
    /// The last frame that was read.
    current: Option<SourceFrame>,
    frames_read: usize,
    ended: bool,
}

/// Storage for frames that this job reuses and for faces that later jobs reuse.
pub struct FrameRetention {
    /// `None` if no frame is reused.
    store: Option<FrameStore>,
    /// `None` without a cache, or if all faces come from the cache.
    cache: Option<FaceCacheWriter>,
    shape: FaceShape,
}

impl FrameRetention {
    /// `cache`: new entry of the face cache.
    ///
    /// # Errors
    /// [`NotEnoughDisk`](crate::media::Error::NotEnoughDisk) if the disk of the output has no space for the
    /// reused frames.
    pub fn new(
        context: &JobContext,
        video: &VideoInfo,
        lengths: &Lengths,
        cache: Option<FaceCacheWriter>,
    ) -> Result<Self> {
        let frames = lengths.reused_frames();
        let mut store = None;
        if frames > 0 {
            let directory = directory_of(&context.job.output);
            check_space(directory, frames, min_stored_frame_bytes(video, context.model.resolution))?;
            store = Some(FrameStore::create(directory)?);
        }
        Ok(Self { store, cache, shape: context.face_shape() })
    }
}

/// Lower bound of the bytes of a source frame: a picture of 4:2:0 with 8 bits and a crop of `resolution`
/// pixels per side.
pub fn min_stored_frame_bytes(video: &VideoInfo, resolution: usize) -> usize {
    video.width * video.height * 3 / 2 + resolution * resolution * 3
}

/// Source of an output frame.
pub enum NextFrame {
    /// A frame that is shown for the first time. The caller passes it to [`SourceFrames::keep`] when its face
    /// is encoded.
    New(SourceFrame),
    /// A frame that was shown before.
    Repeated(SourceFrame),
    /// The output ends before this frame.
    End,
}

impl SourceFrames {
    /// `aligned`: the source frames in order, then `None`.
    pub fn new(
        aligned: Receiver<Result<Option<SourceFrame>>>,
        retention: FrameRetention,
        lengths: Lengths,
    ) -> Self {
        Self { aligned, retention, lengths, current: None, frames_read: 0, ended: false }
    }

    /// Number of source frames read so far.
    pub fn frames_read(&self) -> usize {
        self.frames_read
    }

    /// The frame to show as output frame `output`. Each call must pass the successor of the previous number.
    pub fn next(&mut self, output: usize) -> Result<NextFrame, RunError> {
        if self.lengths.changes_speed() {
            return self.next_at_speed(output);
        }
        let Lengths { policy, audio_frames, .. } = self.lengths;
        let may_continue = policy.output_frames(output + 1, audio_frames) > output;
        if !self.ended && may_continue {
            match self.read()? {
                Some(frame) => return Ok(NextFrame::New(frame)),
                None => self.ended = true,
            }
        }
        if self.frames_read == 0 || output >= policy.output_frames(self.frames_read, audio_frames) {
            return Ok(NextFrame::End);
        }
        self.repeat(policy.source_frame(output, self.frames_read, audio_frames)).map(NextFrame::Repeated)
    }

    /// [`Self::next`] for modes that change the speed of the video: frames are repeated or dropped.
    fn next_at_speed(&mut self, output: usize) -> Result<NextFrame, RunError> {
        let Lengths { policy, declared, audio_frames, .. } = self.lengths;
        if output >= policy.output_frames(declared, audio_frames) {
            return Ok(NextFrame::End);
        }
        let source = policy.source_frame(output, declared, audio_frames);
        if source < self.frames_read {
            return self.repeat(source).map(NextFrame::Repeated);
        }
        while !self.ended {
            match self.read()? {
                Some(frame) if frame.number == source => return Ok(NextFrame::New(frame)),
                Some(frame) => self.cache(&frame)?,
                None => self.ended = true,
            }
        }
        match self.frames_read {
            0 => Ok(NextFrame::End),
            frames => Err(RunError::VideoShorter { frames }),
        }
    }

    fn read(&mut self) -> Result<Option<SourceFrame>> {
        // A channel that closes without `None` means that the source thread has panicked, not that the video
        // ended.
        let frame = self.aligned.recv().map_err(|_| system::Error::Interrupted)??;
        if let Some(frame) = &frame {
            self.frames_read += 1;
            self.current = Some(frame.clone());
        }
        Ok(frame)
    }

    fn repeat(&mut self, source: usize) -> Result<SourceFrame, RunError> {
        if let Some(frame) = self.current.as_ref().filter(|frame| frame.number == source) {
            return Ok(frame.clone());
        }
        let store = self.retention.store.as_mut();
        let stored = store.map(|store| store.get(source)).transpose()?.flatten();
        let Some((picture, bytes)) = stored else {
            return Err(RunError::VideoShorter { frames: self.frames_read });
        };
        let face = SourceFace::from_bytes(&bytes, self.retention.shape)?;
        Ok(SourceFrame { number: source, picture, face })
    }

    /// Updates the current frame with newly computed data, if it is still `frame`.
    pub fn refresh(&mut self, frame: &SourceFrame) {
        if let Some(current) = self.current.as_mut().filter(|current| current.number == frame.number) {
            current.clone_from(frame);
        }
    }

    /// Stores a new frame if it will be reused, and adds its face to the cache.
    pub fn keep(&mut self, frame: &SourceFrame) -> Result<()> {
        self.refresh(frame);
        self.cache(frame)?;
        match &mut self.retention.store {
            Some(store) if self.lengths.is_reused(frame.number) => {
                let bytes = frame.face.as_ref().map_or(Ok(Vec::new()), SourceFace::to_bytes)?;
                Ok(store.put(frame.number, &frame.picture, &bytes)?)
            }
            _ => Ok(()),
        }
    }

    fn cache(&mut self, frame: &SourceFrame) -> Result<()> {
        let record = frame.face.as_ref().map(|face| &face.record);
        if let Some(cache) = &mut self.retention.cache {
            cache.push(frame.number, record)?;
        }
        Ok(())
    }

    /// Returns the entry of the face cache, for the caller to finish if the job succeeds. Closes the channel.
    pub fn into_cache(self) -> Option<FaceCacheWriter> {
        let complete = self.ended || self.lengths.source_frames == Some(self.frames_read);
        self.retention.cache.map(|cache| if complete { cache.complete() } else { cache })
    }
}

impl SourceFace {
    /// Serialises the crop, then the record. An absent face has no bytes.
    fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut bytes = self.crop.flatten_all().and_then(|crop| crop.to_vec1::<u8>()).map_err(stored)?;
        self.record.write_to(&mut bytes)?;
        Ok(bytes)
    }

    fn from_bytes(bytes: &[u8], shape: FaceShape) -> Result<Option<Self>> {
        let side = shape.resolution;
        let (crop, record) = bytes.split_at_checked(side * side * 3).unwrap_or_default();
        let Some(record) = FaceRecord::from_bytes(record, shape)? else { return Ok(None) };
        let crop = Tensor::from_vec(crop.to_vec(), (side, side, 3), &Device::Cpu).map_err(stored)?;
        Ok(Some(Self { crop, record }))
    }
}
