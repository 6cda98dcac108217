//! Stage 3, and what follows from the lengths of voice and video and from the free memory.

use crate::audio::{Speech, VoiceActivity};
use crate::error::Result;
use crate::options::{BatchChunks, DurationPolicy, SilenceMode, VideoLonger};
use crate::pipeline::frame_map::FrameMap;
use crate::pipeline::job_context::JobContext;
use crate::pipeline::report::Stage;
use crate::pipeline::source_frames::{Lengths, min_stored_frame_bytes};
use crate::stages::audio_features::{AudioFeatures, Windows};
use crate::stages::decode_video::VideoInfo;
use crate::system::machine;

/// Share of the free host memory, as a divisor, that the frames of waiting batches may occupy.
const WAITING_MEMORY_DIVISOR: usize = 4;

/// The voice as the UNet receives it, and the sizes that follow from it.
pub(super) struct AudioPlan {
    pub features: AudioFeatures,
    /// Present if the original mouth is kept during silence.
    pub activity: Option<VoiceActivity>,
    pub lengths: Lengths,
    pub frame_map: FrameMap,
    /// Maximum number of chunks per UNet batch.
    pub batch_chunks: usize,
}

/// `source_frames`: the length of the video, if the file declares a wrong one.
pub(super) fn prepare_audio(
    context: &JobContext,
    speech: Speech,
    video: &VideoInfo,
    source_frames: Option<usize>,
) -> Result<AudioPlan> {
    let options = &context.job.options;
    let frame_map = FrameMap::new(video.rate);
    let policy = if video.still { DurationPolicy::STILL } else { options.duration };
    let declared = source_frames.unwrap_or(video.count.frames as usize);
    let mut lengths = Lengths {
        policy,
        source_frames: source_frames.or(video.count.exact.then_some(declared)),
        declared,
        audio_frames: video.rate.frames_in(speech.duration_seconds).max(1),
    };
    let (features, activity) = context.clock.time(Stage::AudioFeatures, || {
        let speech = match policy.video_longer {
            VideoLonger::PadSilence => speech.padded_to(frame_map.model_frames(declared)),
            VideoLonger::Trim | VideoLonger::Speed => speech,
        };
        compute_features(context, speech)
    })?;
    if options.reference_compat {
        lengths.audio_frames = frame_map.output_frames_for(features.reference_frames());
    }
    let batch_chunks = batch_chunks(context, video, &frame_map)?;
    Ok(AudioPlan { features, activity, lengths, frame_map, batch_chunks })
}

/// Whisper features of `speech`, and its voice activity if the original mouth is kept during silence.
fn compute_features(
    context: &JobContext,
    mut speech: Speech,
) -> Result<(AudioFeatures, Option<VoiceActivity>)> {
    let options = &context.job.options;
    let mut activity = None;
    match options.silence {
        SilenceMode::Follow => {}
        SilenceMode::Keep => activity = Some(VoiceActivity::of(&speech)),
        SilenceMode::Close => {
            let activity = VoiceActivity::of(&speech);
            speech = speech.silenced(&activity);
        }
    }
    let windows = match options.reference_compat {
        true => Windows::EndToEnd,
        false => Windows::Overlapping,
    };
    let model = context.model;
    let features = AudioFeatures::compute(&model.whisper, &speech, model.audio_feat_length, windows)?;
    Ok((features, activity))
}

/// Maximum number of chunks per batch: as many as fit in the memory of the device, unless their frames would
/// occupy too much host memory.
fn batch_chunks(context: &JobContext, video: &VideoInfo, frame_map: &FrameMap) -> Result<usize> {
    let model = context.model;
    let fitting = model.max_batch_chunks(context.job.options.guidance().is_enabled())?;
    // Each frame waits with its original crop (u8) and its generated face (f32).
    let generated_face_bytes = model.resolution * model.resolution * 3 * size_of::<f32>();
    let frame_bytes = min_stored_frame_bytes(video, model.resolution) + generated_face_bytes;
    // One batch before the networks, one in them and one after them.
    let bytes_per_chunk = 3 * frame_bytes * frame_map.output_frames_for(model.chunk_frames).max(1);
    let free = machine::memory_available_bytes().map_or(usize::MAX, |bytes| bytes as usize);
    let batch_chunks = fitting.min(free / WAITING_MEMORY_DIVISOR / bytes_per_chunk).max(1);
    if let BatchChunks::AtMost(requested) = model.batch_chunks
        && batch_chunks < requested.get()
    {
        tracing::warn!("memory for {batch_chunks} chunks per batch, {requested} were requested");
    }
    Ok(batch_chunks)
}
