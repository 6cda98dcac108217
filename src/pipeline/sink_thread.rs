//! The sink thread: stages 7 and 8.

use std::sync::mpsc::Receiver;

use candle_core::Tensor;
use kernels::warp_affine::Affine;

use crate::error::{Result, compute};
use crate::media::journal::{JournalHead, JournalOptions, Resume};
use crate::media::picture::Picture;
use crate::options::VideoLonger;
use crate::pipeline::job_context::JobContext;
use crate::pipeline::progress::StageCounters;
use crate::pipeline::report::Stage;
use crate::pipeline::source_frames::Lengths;
use crate::stages::blend_faces::{Blending, blend_face};
use crate::stages::colour_match::ColourCorrection;
use crate::stages::compose_face::{Compose, compose_face};
use crate::stages::decode_video::VideoInfo;
use crate::stages::mux_video::{Effort, OutputVideo, SoundEnd, VideoWriter};

/// Input of the sink thread.
pub(super) enum SinkMessage {
    Frame(OutputFrame),
    /// The frames so far form whole segments, which a killed job can keep.
    EndOfSegment,
}

/// An output frame before blending.
pub(super) struct OutputFrame {
    pub number: usize,
    pub picture: Picture,
    /// `None` if the frame passes through unchanged.
    pub face: Option<GeneratedFace>,
}

/// A generated face and its place in the frame.
pub(super) struct GeneratedFace {
    /// (resolution, resolution, 3) f32. At other rates than 25 it may belong to a neighbouring model frame.
    pub decoded: Tensor,
    pub colour: ColourCorrection,
    /// Original face of this frame, (resolution, resolution, 3) u8.
    pub crop: Tensor,
    /// From the pixels of the frame to those of the crop.
    pub matrix: Affine,
    /// Opacity of the generated mouth, above 0 and at most 1.
    pub strength: f32,
}

/// Blends the generated faces into their frames and encodes the frames.
pub(super) struct SinkThread<'a> {
    pub context: &'a JobContext<'a>,
    pub writer: VideoWriter,
    pub output: Receiver<SinkMessage>,
    pub counters: &'a StageCounters,
}

impl SinkThread<'_> {
    /// Returns the writer; the caller finishes the file once the whole job has succeeded.
    pub fn run(self) -> Result<VideoWriter> {
        let Self { context, mut writer, output, counters } = self;
        for message in output {
            context.cancel.check()?;
            match message {
                SinkMessage::Frame(frame) => write_frame(context, frame, &mut writer, counters)?,
                SinkMessage::EndOfSegment => context.clock.time(Stage::MuxVideo, || writer.end_segment())?,
            }
        }
        Ok(writer)
    }
}

fn write_frame(
    context: &JobContext,
    frame: OutputFrame,
    writer: &mut VideoWriter,
    counters: &StageCounters,
) -> Result<()> {
    let OutputFrame { number, mut picture, face } = frame;
    if let Some(face) = face {
        context.clock.time(Stage::BlendFaces, || blend(context, number, &face, &mut picture))?;
    } else if let Some(hook) = context.hooks.frame {
        hook(number, &picture.to_rgb()?);
    }
    counters.add(Stage::BlendFaces);
    context.clock.time(Stage::MuxVideo, || writer.push(&picture))?;
    counters.add(Stage::MuxVideo);
    Ok(())
}

fn blend(context: &JobContext, number: usize, face: &GeneratedFace, picture: &mut Picture) -> Result<()> {
    let failed = compute("blend_faces");
    let composed = compose_face(&Compose {
        decoded: &face.decoded,
        crop: &face.crop,
        mask: &context.mask,
        colour: face.colour,
    })
    .map_err(&failed)?;
    let blending = Blending { feather: context.job.options.feather, strength: face.strength };
    let rgb = picture.to_rgb()?;
    let patch = blend_face(&rgb, &composed, &face.matrix, blending).map_err(&failed)?;
    if let Some(hook) = context.hooks.frame {
        hook(number, &patch.applied_to(&rgb).map_err(&failed)?);
    }
    Ok(picture.paste(&patch)?)
}

/// Opens the output. `source_frames`: the length of the video, if the file declares a wrong one.
pub(super) fn open_writer(
    context: &JobContext,
    video: &VideoInfo,
    lengths: &Lengths,
    source_frames: Option<usize>,
) -> Result<VideoWriter> {
    let job = context.job;
    let head = JournalHead { key: context.output_key(source_frames)?, seed: context.seed, source_frames };
    VideoWriter::create(&OutputVideo {
        path: &job.output,
        video,
        audio: context.fetched.audio(),
        // If the output ends with the video, the video may turn out to be longer than declared.
        frames: match lengths.source_frames {
            Some(_) => lengths.output_frames(),
            None => lengths.output_frames().max(lengths.audio_frames),
        } as u64,
        rate: (video.rate.numerator(), video.rate.denominator()),
        sound: match lengths.policy.video_longer {
            VideoLonger::PadSilence => SoundEnd::Pad,
            VideoLonger::Trim | VideoLonger::Speed => SoundEnd::Cut,
        },
        encoding: job.options.encoding,
        effort: Effort::default(),
        journal: Some(JournalOptions {
            head: &head,
            resume: if job.resume { Resume::Yes } else { Resume::No },
        }),
    })
}
