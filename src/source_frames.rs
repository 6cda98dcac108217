//! The video's frames in the order in which the output shows them.
//!
//! Each distinct frame is decoded, aligned and VAE-encoded once. Where the voice is longer than the video
//! the frames come again, forward or backward: what was computed for them waits in a temporary file, so
//! that memory does not grow with the number of frames.

use std::sync::mpsc::Receiver;

use candle_core::{Device, Tensor};
use kernels::warp_affine::Affine;

use crate::error::{Error, Result};
use crate::frame_store::FrameStore;
use crate::media::picture::Picture;
use crate::noise::LatentShape;
use crate::options::DurationPolicy;
use crate::stages::align_faces::AlignedFace;
use crate::stages::encode_latents::FacePosteriors;

/// A decoded frame and its face, if it has one.
pub struct AlignedFrame {
    pub picture: Picture,
    pub face: Option<AlignedFace>,
}

/// A face with everything that is computed once per source frame.
pub struct EncodedFace {
    pub aligned: AlignedFace,
    pub posteriors: FacePosteriors,
}

/// A frame ready to take part in a chunk.
pub struct SourceFrame {
    pub picture: Picture,
    pub face: Option<EncodedFace>,
}

/// Sizes that the frame store's bytes are read back with.
#[derive(Debug, Clone, Copy)]
pub struct FaceShape {
    pub resolution: usize,
    pub latents: LatentShape,
}

/// Where frames wait for their next use, and which of them do.
pub struct Kept {
    pub store: FrameStore,
    /// The video's number of frames, if it is to be relied on; all frames are kept where it is not.
    pub source_frames: Option<usize>,
}

/// Frames by output number, ascending from 0.
pub struct SourceFrames {
    aligned: Receiver<Result<AlignedFrame>>,
    /// Absent where each frame is shown once.
    kept: Option<Kept>,
    shape: FaceShape,
    policy: DurationPolicy,
    audio_frames: usize,
    seen: usize,
    ended: bool,
}

/// What to show as one output frame.
pub enum Next {
    /// A frame that comes for the first time: its face is not encoded yet.
    New(AlignedFrame),
    /// One that was shown before.
    Again(SourceFrame),
    /// The output ends before this frame.
    End,
}

impl SourceFrames {
    pub fn new(
        aligned: Receiver<Result<AlignedFrame>>,
        kept: Option<Kept>,
        shape: FaceShape,
        policy: DurationPolicy,
        audio_frames: usize,
    ) -> Self {
        Self { aligned, kept, shape, policy, audio_frames, seen: 0, ended: false }
    }

    /// Distinct source frames so far.
    pub fn seen(&self) -> usize {
        self.seen
    }

    /// The frame to show as number `output`, which must be the one after the last call's.
    pub fn next(&mut self, output: usize) -> Result<Next> {
        if output >= self.audio_frames {
            return Ok(Next::End);
        }
        if !self.ended {
            match self.aligned.recv() {
                Ok(frame) => {
                    self.seen += 1;
                    return Ok(Next::New(frame?));
                }
                Err(_) => self.ended = true,
            }
        }
        if self.seen == 0 || output >= self.policy.output_frames(self.seen, self.audio_frames)? {
            return Ok(Next::End);
        }
        let source = self.policy.source_frame(output, self.seen);
        let frame = self.kept.as_mut().map(|kept| kept.store.get(source)).transpose()?.flatten();
        let Some((picture, bytes)) = frame else {
            return Err(Error::VideoShorterThanAnnounced { frames: self.seen });
        };
        let face = EncodedFace::from_bytes(&bytes, self.shape)?;
        Ok(Next::Again(SourceFrame { picture, face }))
    }

    /// Keeps a new frame for its next use, if it will have one.
    pub fn keep(&mut self, source: usize, frame: &SourceFrame) -> Result<()> {
        let Some(Kept { store, source_frames }) = &mut self.kept else { return Ok(()) };
        if source_frames.is_some_and(|n| !self.policy.shown_again(source, n, self.audio_frames)) {
            return Ok(());
        }
        let bytes = frame.face.as_ref().map_or(Ok(Vec::new()), EncodedFace::to_bytes)?;
        store.put(source, &frame.picture, &bytes)
    }
}

impl EncodedFace {
    /// Matrix, crop, posteriors, in this order; no bytes stand for no face.
    fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut bytes: Vec<u8> =
            self.aligned.matrix.0.as_flattened().iter().flat_map(|v| v.to_le_bytes()).collect();
        bytes.extend(self.aligned.crop.flatten_all().and_then(|crop| crop.to_vec1::<u8>()).map_err(kept)?);
        bytes.extend(self.posteriors.to_bytes().map_err(kept)?);
        Ok(bytes)
    }

    fn from_bytes(bytes: &[u8], shape: FaceShape) -> Result<Option<Self>> {
        const MATRIX: usize = 6 * size_of::<f64>();
        if bytes.is_empty() {
            return Ok(None);
        }
        let crop = shape.resolution * shape.resolution * 3;
        let (matrix, rest) = bytes.split_at(MATRIX);
        let (crop, posteriors) = rest.split_at(crop);
        let mut values = [[0.0; 3]; 2];
        for (value, bytes) in values.as_flattened_mut().iter_mut().zip(matrix.chunks_exact(size_of::<f64>()))
        {
            *value = bytes.try_into().map(f64::from_le_bytes).unwrap_or_default();
        }
        let size = (shape.resolution, shape.resolution, 3);
        let crop = Tensor::from_vec(crop.to_vec(), size, &Device::Cpu).map_err(kept)?;
        let posteriors = FacePosteriors::from_bytes(posteriors, shape.latents).map_err(kept)?;
        Ok(Some(Self { aligned: AlignedFace { matrix: Affine(values), crop }, posteriors }))
    }
}

fn kept(source: candle_core::Error) -> Error {
    Error::Compute { stage: "frames kept for reuse", source }
}
