//! The sink thread: stages 7 and 8.

use std::sync::mpsc::Receiver;

use candle_core::Tensor;
use kernels::warp_affine::Affine;

use super::Run;
use crate::error::{Result, compute};
use crate::media::picture::Picture;
use crate::pipeline::progress::Counters;
use crate::pipeline::report::Stage;
use crate::stages::blend_faces::{Blending, blend_face};
use crate::stages::colour_match::ColourCorrection;
use crate::stages::compose_face::{Compose, compose_face};
use crate::stages::mux_video::VideoWriter;

/// What the sink is told.
pub(super) enum Synced {
    Frame(SyncedFrame),
    /// What came so far can be kept if the job is killed.
    EndOfSegment,
}

/// An output frame on its way to the sink.
pub(super) struct SyncedFrame {
    pub output: usize,
    pub picture: Picture,
    /// Absent where the frame passes through.
    pub face: Option<SyncedFace>,
}

/// A new mouth and the face that it belongs to.
pub(super) struct SyncedFace {
    /// The generated face, (resolution, resolution, 3) f32, perhaps of a neighbouring moment.
    pub decoded: Tensor,
    pub colour: ColourCorrection,
    /// The frame's own face, (resolution, resolution, 3) u8, and where it is.
    pub crop: Tensor,
    pub matrix: Affine,
    /// The mouth's share, above 0 and at most 1.
    pub strength: f32,
}

impl Run<'_> {
    /// Gives the writer back for the caller to finish, once all is well.
    pub(super) fn write_frames(
        &self,
        mut writer: VideoWriter,
        synced: Receiver<Synced>,
        counters: &Counters,
    ) -> Result<VideoWriter> {
        for message in synced {
            self.cancel.check()?;
            match message {
                Synced::Frame(frame) => self.write_frame(frame, &mut writer, counters)?,
                Synced::EndOfSegment => self.clock.time(Stage::MuxVideo, || writer.end_segment())?,
            }
        }
        Ok(writer)
    }

    fn write_frame(&self, frame: SyncedFrame, writer: &mut VideoWriter, counters: &Counters) -> Result<()> {
        let SyncedFrame { output, mut picture, face } = frame;
        if let Some(face) = face {
            self.clock.time(Stage::BlendFaces, || self.paste(output, face, &mut picture))?;
        } else if let Some(look) = self.hooks.frame {
            look(output, &picture.to_rgb()?);
        }
        counters.add(Stage::BlendFaces);
        self.clock.time(Stage::MuxVideo, || writer.push(&picture))?;
        counters.add(Stage::MuxVideo);
        Ok(())
    }

    fn paste(&self, output: usize, face: SyncedFace, picture: &mut Picture) -> Result<()> {
        let failed = compute("blend_faces");
        let composed = compose_face(&Compose {
            decoded: &face.decoded,
            crop: &face.crop,
            mask: &self.mask,
            colour: face.colour,
        })
        .map_err(&failed)?;
        let how = Blending { feather: self.job.options.feather, strength: face.strength };
        let rgb = picture.to_rgb()?;
        let patch = blend_face(&rgb, &composed, &face.matrix, how).map_err(&failed)?;
        if let Some(look) = self.hooks.frame {
            look(output, &patch.applied_to(&rgb).map_err(&failed)?);
        }
        Ok(picture.paste(&patch)?)
    }
}
