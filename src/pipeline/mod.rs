//! The path of a video through the engine: read this file first.
//!
//! ```text
//! voice ── audio_features ───────────────────────────────┐
//!                                                          ▼
//! video ── decode_video ── align_faces ── encode_latents ── denoise_latents ── decode_latents ── blend_faces ── mux_video
//! ╰──────── source thread ────────╯╰───────────────── inference ─────────────────╯╰─────── sink thread ───────╯
//! ```
//!
//! [`LipSync::run`] prepares the job and calls `run_attempt`, which starts three threads: `SourceThread`
//! decodes the video and aligns the faces, `Inference` runs the networks on the caller's thread, and
//! `SinkThread` blends the generated faces into the frames and encodes them. Bounded channels connect the
//! threads, so memory does not grow with the length of the job. What all three need is in `JobContext`.
//!
//! The networks work on chunks of 16 frames at 25 frames per second, as in training; a GPU processes several
//! chunks in one batch. At other frame rates, [`FrameMap`](frame_map::FrameMap) assigns model frames to
//! output frames. A segment of the output has 15 chunks; a resumed job continues after the last complete
//! segment.

mod audio_plan;
mod chunk;
pub mod frame_map;
mod hooks;
mod inference;
mod job;
mod job_context;
mod lip_sync;
mod preflight;
mod progress;
pub mod report;
mod run_error;
mod sink_thread;
mod source_frames;
mod source_thread;

pub use hooks::{Hooks, TensorHook};
pub use job::{FetchedJob, Job};
pub use lip_sync::LipSync;
pub use preflight::preflight;
pub use report::{Progress, Report, Stage};

use std::panic::resume_unwind;
use std::sync::mpsc::sync_channel;
use std::thread;

use crate::audio::load_speech_until;
use crate::error::{InputRole, Result, in_input};
use crate::options::FrameRange;
use crate::pipeline::audio_plan::{AudioPlan, prepare_audio};
use crate::pipeline::inference::{Inference, RunSummary};
use crate::pipeline::job_context::JobContext;
use crate::pipeline::progress::{ProgressReporter, StageCounters, Totals};
use crate::pipeline::run_error::RunError;
use crate::pipeline::sink_thread::{SinkThread, open_writer};
use crate::pipeline::source_frames::{FrameRetention, SourceFrames};
use crate::pipeline::source_thread::{FaceSource, SourceThread, open_video};
use crate::stages::decode_video::{VideoInfo, VideoReader};
use crate::stages::mux_video::VideoWriter;

/// Capacity of the channels between the threads, in frames per chunk of a batch: the source thread can fill
/// the next batch and the sink thread can write the previous one while the networks compute.
const QUEUE_FRAMES: usize = 16;
/// Chunks per segment: 9.6 seconds with 16 frames each.
const CHUNKS_PER_SEGMENT: usize = 15;
/// Difference between the declared and the actual end of a video that is not reported, in seconds: the
/// rounding of the last frames.
const MAX_MISSING_SECONDS: f64 = 0.2;

/// Everything that an attempt has opened before its threads start.
struct Attempt {
    audio: AudioPlan,
    damaged_audio_packets: usize,
    reader: VideoReader,
    faces: FaceSource,
    writer: VideoWriter,
    retention: FrameRetention,
    /// The results that are known in advance.
    summary: RunSummary,
}

/// Runs the whole job once. Leaves no files behind if it fails, except the journal of a resumable job.
///
/// `source_frames`: the length of the video, if a previous attempt found that the file declares a wrong one.
fn run_attempt(
    context: &JobContext,
    source_frames: Option<usize>,
    progress: &mut dyn Progress,
) -> Result<RunSummary, RunError> {
    progress.stage(Stage::AudioFeatures, 0, Some(1));
    let attempt = Attempt::prepare(context, source_frames)?;
    if attempt.audio.batch_chunks > 1 {
        progress.log(&format!("up to {} chunks per batch", attempt.audio.batch_chunks));
    }
    if attempt.summary.resumed_frames > 0 {
        progress.log(&format!("resuming after {} frames", attempt.summary.resumed_frames));
    }
    attempt.run_threads(context, progress)
}

impl Attempt {
    /// Loads the voice and opens the video, the source of the faces and the output.
    fn prepare(context: &JobContext, source_frames: Option<usize>) -> Result<Self> {
        let load = || load_speech_until(context.fetched.audio(), context.cancel);
        let speech = context.clock.time(Stage::AudioFeatures, load).map_err(in_input(InputRole::Voice))?;
        let reader = open_video(context, speech.duration_seconds)?;
        let video = reader.info();
        let damaged_audio_packets = speech.damaged;
        let audio = prepare_audio(context, speech, video, source_frames)?;
        let cache = context.face_cache(video)?;
        let faces = FaceSource::open(context, video, cache.as_ref(), &audio.lengths)?;
        let writer = open_writer(context, video, &audio.lengths, source_frames)?;
        let mut summary = RunSummary {
            fps: audio.frame_map.frames_per_second(),
            resumed_frames: writer.resumed_frames() as usize,
            faces_from_cache: faces.is_cached(),
            ..RunSummary::default()
        };
        summary.warnings.extend(writer.warning().map(str::to_string));
        summary.warnings.extend(truncation_warning(context, video));
        let new_cache_entry = match cache {
            Some(cache) if !summary.faces_from_cache => Some(cache.begin()?),
            _ => None,
        };
        let retention = FrameRetention::new(context, video, &audio.lengths, new_cache_entry)?;
        Ok(Self { audio, damaged_audio_packets, reader, faces, writer, retention, summary })
    }

    /// Runs the three threads and completes the output.
    fn run_threads(self, context: &JobContext, progress: &mut dyn Progress) -> Result<RunSummary, RunError> {
        let Self { audio, damaged_audio_packets, reader, faces, writer, retention, summary } = self;
        let lengths = audio.lengths;
        let counters = StageCounters::default();
        let steps = context.schedule.timesteps().len();
        let totals = Totals {
            source_frames: lengths.declared.min(lengths.max_source_frames()),
            frames: lengths.output_frames(),
            steps,
        };
        let mut progress = ProgressReporter::new(progress, &counters, totals);
        progress.report(Stage::AudioFeatures, 1);
        let (aligned_sender, aligned) = sync_channel(audio.batch_chunks * QUEUE_FRAMES);
        let (output_sender, output) = sync_channel(audio.batch_chunks * QUEUE_FRAMES);
        let stop = context.cancel.child();
        let source = SourceThread { context, reader, faces, aligned: aligned_sender, counters: &counters };
        let sink = SinkThread { context, writer, output, counters: &counters };
        let inference = Inference {
            context,
            audio: &audio,
            sources: SourceFrames::new(aligned, retention, lengths),
            output: output_sender,
            stop: &stop,
            batch_chunks: audio.batch_chunks,
            summary,
            progress: &mut progress,
        };
        let (mut summary, writer, source_warnings) = join(source, inference, sink)?;
        summary.add_input_warnings(context, damaged_audio_packets, source_warnings);
        context.cancel.check()?;
        progress.report_counters();
        context.clock.time(Stage::MuxVideo, || writer.finish(&|| context.cancel.is_cancelled()))?;
        progress.finish(Totals { source_frames: summary.source_frames, frames: summary.frames, steps });
        Ok(summary)
    }
}

/// Runs the three threads to their end. Completes the new entry of the face cache.
fn join(
    source: SourceThread,
    inference: Inference,
    sink: SinkThread,
) -> Result<(RunSummary, VideoWriter, Vec<String>), RunError> {
    let stop = inference.stop;
    thread::scope(|scope| {
        let source = scope.spawn(|| source.run());
        let sink = scope.spawn(|| {
            let written = sink.run();
            if written.is_err() {
                // The rest of the current chunk cannot be written.
                stop.cancel();
            }
            written
        });
        // The call drops its ends of both channels, which ends the two threads.
        let (result, new_cache_entry) = inference.run();
        let source_warnings = source.join().unwrap_or_else(|panic| resume_unwind(panic));
        // If the sink fails, its error is the cause: inference has only found the channel closed.
        let writer = sink.join().unwrap_or_else(|panic| resume_unwind(panic))?;
        let summary = result?;
        match new_cache_entry {
            // The damage may be a read error that does not occur the next time: the entry is not kept.
            Some(entry) if source_warnings.is_empty() => entry.finish()?,
            _ => {}
        }
        Ok((summary, writer, source_warnings))
    })
}

/// Warning about a video that ends before its declared duration.
fn truncation_warning(context: &JobContext, video: &VideoInfo) -> Option<String> {
    let VideoInfo { duration_seconds: end, missing_seconds: missing, .. } = video;
    let path = &context.fetched.requested().video;
    (*missing > MAX_MISSING_SECONDS).then(|| {
        format!("`{path}` is truncated: it ends at {end:.2} s, {missing:.2} s before its declared end")
    })
}

impl RunSummary {
    /// Adds the warnings that are known only when both inputs have been read. The order is: encoder and
    /// truncation, damaged audio, damaged video, missing faces, warnings of inference.
    fn add_input_warnings(
        &mut self,
        context: &JobContext,
        damaged_audio_packets: usize,
        source: Vec<String>,
    ) {
        if damaged_audio_packets > 0 {
            let path = &context.fetched.requested().audio;
            self.warnings.push(format!("{damaged_audio_packets} damaged audio packets in `{path}`"));
        }
        self.warnings.extend(source);
        if self.faces.frames_without_face == [FrameRange { first: 0, last: self.frames - 1 }] {
            self.warnings.push("no face was found in any frame: nothing was changed".into());
        }
        self.warnings.append(&mut self.inference_warnings);
    }
}
