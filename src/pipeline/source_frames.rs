//! The video's frames in the order in which the output shows them.
//!
//! Each distinct frame is decoded and aligned once. A frame that only stays on the screen is held; frames that
//! come back, forward or backward, wait in a temporary file, so that memory does not grow with their number.

use std::sync::mpsc::Receiver;

use candle_core::{Device, Tensor};

use crate::error::Result;
use crate::face::cache::FaceCacheWriter;
use crate::face::record::{FaceRecord, FaceShape, stored};
use crate::media::frame_store::FrameStore;
use crate::media::picture::Picture;
use crate::options::{AudioLonger, DurationPolicy, VideoLonger};
use crate::pipeline::run_error::RunError;
use crate::system;

/// A frame of the video. Cloning shares its memory.
#[derive(Clone)]
pub struct SourceFrame {
    /// Its number in the video, at the output's rate.
    pub number: usize,
    pub picture: Picture,
    pub face: Option<SourceFace>,
}

/// A face with everything that is computed once per source frame.
#[derive(Clone)]
pub struct SourceFace {
    /// (resolution, resolution, 3), u8.
    pub crop: Tensor,
    pub record: FaceRecord,
}

/// How long the video and the voice are, in frames of the output, and what follows from it.
#[derive(Debug, Clone, Copy)]
pub struct Lengths {
    pub policy: DurationPolicy,
    /// Absent where the file's own word is not to be relied on. A mode that changes the speed takes the word.
    pub source_frames: Option<usize>,
    /// What the file says.
    pub announced: usize,
    pub audio_frames: usize,
}

impl Lengths {
    /// Frames of the output, as far as it is known.
    pub fn output_frames(&self) -> usize {
        self.policy.output_frames(self.source_frames.unwrap_or(self.announced), self.audio_frames)
    }

    fn changes_speed(&self) -> bool {
        self.policy.changes_speed(self.announced, self.audio_frames)
    }

    /// How many frames must be kept for a second use; a guess where the video's length is open.
    pub fn frames_that_come_back(&self) -> usize {
        match self.source_frames {
            Some(n) => (0..n).filter(|&source| self.comes_back(source)).count(),
            // The file may end earlier than it says, unless it says that there is much more than needed.
            None if surely_longer(self.announced, self.audio_frames) => 0,
            None => self.announced.min(self.audio_frames) * usize::from(self.may_come_back()),
        }
    }

    /// The number of source frames that a job can ask for at most.
    pub fn source_frames_needed(&self) -> usize {
        match self.policy.video_longer {
            _ if self.changes_speed() => {
                self.policy.source_frame(self.audio_frames - 1, self.announced, self.audio_frames) + 1
            }
            VideoLonger::Trim | VideoLonger::Speed => self.audio_frames,
            VideoLonger::PadSilence => usize::MAX,
        }
    }

    /// Whether a frame has to be kept; all have where the video's length is open.
    fn comes_back(&self, source: usize) -> bool {
        self.source_frames.is_none_or(|n| self.policy.comes_back(source, n, self.audio_frames))
    }

    /// Whether frames come back for some length of the video.
    fn may_come_back(&self) -> bool {
        matches!(self.policy.audio_longer, AudioLonger::PingPong | AudioLonger::Loop)
    }
}

/// Whether a video that claims to have `announced` frames, without being exact, has more than `frames`.
pub fn surely_longer(announced: usize, frames: usize) -> bool {
    announced > frames + frames / 50 + 50
}

/// Frames by output number, ascending from 0.
pub struct SourceFrames {
    aligned: Receiver<Result<Option<SourceFrame>>>,
    lasting: Lasting,
    lengths: Lengths,
    /// The latest frame that was read.
    current: Option<SourceFrame>,
    seen: usize,
    ended: bool,
}

/// Where frames and faces go that are needed again: in this job, and in later ones.
pub struct Lasting {
    /// Absent where no frame comes back.
    pub store: Option<FrameStore>,
    /// Absent where nothing is cached, or all of it comes from the cache.
    pub cache: Option<FaceCacheWriter>,
    pub shape: FaceShape,
}

/// What to show as one output frame.
pub enum Next {
    /// A frame that is shown for the first time: to be given to [`SourceFrames::keep`] once it is complete.
    New(SourceFrame),
    /// One that was shown before.
    Again(SourceFrame),
    /// The output ends before this frame.
    End,
}

impl SourceFrames {
    /// `aligned`: the frames in order, and `None` after the last.
    pub fn new(aligned: Receiver<Result<Option<SourceFrame>>>, lasting: Lasting, lengths: Lengths) -> Self {
        Self { aligned, lasting, lengths, current: None, seen: 0, ended: false }
    }

    /// Distinct source frames so far.
    pub fn seen(&self) -> usize {
        self.seen
    }

    /// The frame to show as number `output`, which must be the one after the last call's.
    pub fn next(&mut self, output: usize) -> Result<Next, RunError> {
        if self.lengths.changes_speed() {
            return self.next_at_speed(output);
        }
        let Lengths { policy, audio_frames, .. } = self.lengths;
        let may_go_on = policy.output_frames(output + 1, audio_frames) > output;
        if !self.ended && may_go_on {
            match self.read()? {
                Some(frame) => return Ok(Next::New(frame)),
                None => self.ended = true,
            }
        }
        if self.seen == 0 || output >= policy.output_frames(self.seen, audio_frames) {
            return Ok(Next::End);
        }
        self.again(policy.source_frame(output, self.seen, audio_frames)).map(Next::Again)
    }

    /// The same where the video is slowed down or sped up: frames stay or are left out.
    fn next_at_speed(&mut self, output: usize) -> Result<Next, RunError> {
        let Lengths { policy, announced, audio_frames, .. } = self.lengths;
        if output >= policy.output_frames(announced, audio_frames) {
            return Ok(Next::End);
        }
        let source = policy.source_frame(output, announced, audio_frames);
        if source < self.seen {
            return self.again(source).map(Next::Again);
        }
        while !self.ended {
            match self.read()? {
                Some(frame) if frame.number == source => return Ok(Next::New(frame)),
                Some(frame) => self.cache(&frame)?,
                None => self.ended = true,
            }
        }
        match self.seen {
            0 => Ok(Next::End),
            frames => Err(RunError::VideoShorter { frames }),
        }
    }

    fn read(&mut self) -> Result<Option<SourceFrame>> {
        // A thread that is gone without a word has panicked: its end is not the video's.
        let frame = self.aligned.recv().map_err(|_| system::Error::Interrupted)??;
        if let Some(frame) = &frame {
            self.seen += 1;
            self.current = Some(frame.clone());
        }
        Ok(frame)
    }

    fn again(&mut self, source: usize) -> Result<SourceFrame, RunError> {
        if let Some(frame) = self.current.as_ref().filter(|frame| frame.number == source) {
            return Ok(frame.clone());
        }
        let store = self.lasting.store.as_mut();
        let stored = store.map(|store| store.get(source)).transpose()?.flatten();
        let Some((picture, bytes)) = stored else {
            return Err(RunError::VideoShorter { frames: self.seen });
        };
        let face = SourceFace::from_bytes(&bytes, self.lasting.shape)?;
        Ok(SourceFrame { number: source, picture, face })
    }

    /// Takes over what was computed for a frame, as long as it stays on the screen.
    pub fn refresh(&mut self, frame: &SourceFrame) {
        if let Some(current) = self.current.as_mut().filter(|current| current.number == frame.number) {
            current.clone_from(frame);
        }
    }

    /// Keeps a new frame for its next use, if it will have one.
    pub fn keep(&mut self, frame: &SourceFrame) -> Result<()> {
        self.refresh(frame);
        self.cache(frame)?;
        match &mut self.lasting.store {
            Some(store) if self.lengths.comes_back(frame.number) => {
                let bytes = frame.face.as_ref().map_or(Ok(Vec::new()), SourceFace::to_bytes)?;
                Ok(store.put(frame.number, &frame.picture, &bytes)?)
            }
            _ => Ok(()),
        }
    }

    fn cache(&mut self, frame: &SourceFrame) -> Result<()> {
        let record = frame.face.as_ref().map(|face| &face.record);
        if let Some(cache) = &mut self.lasting.cache {
            cache.push(frame.number, record)?;
        }
        Ok(())
    }

    /// What is to be put in its place once all is well. Nobody listens to the video any more.
    pub fn into_cache(self) -> Option<FaceCacheWriter> {
        let complete = self.ended || self.lengths.source_frames == Some(self.seen);
        self.lasting.cache.map(|cache| if complete { cache.complete() } else { cache })
    }
}

impl SourceFace {
    /// The crop, then the record; no bytes stand for no face.
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
