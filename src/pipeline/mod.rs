//! A video's way through the engine: read this first.
//!
//! ```text
//! voice ── audio_features ───────────────────────────────┐
//!                                                          ▼
//! video ── decode_video ── align_faces ── encode_latents ── denoise_latents ── decode_latents ── blend_faces ── mux_video
//! ╰──────── source thread ────────╯╰──────────────── caller's thread ────────────────╯╰───── sink thread ─────╯
//! ```
//!
//! Three threads, joined by bounded channels: memory does not grow with the length of the job. The networks
//! stay on the caller's thread and work on chunks of 16 frames at 25 a second, as they were trained, on a GPU on several
//! of them together; which output frame shows which of their frames, at other rates, says `timing.rs`. Fifteen chunks are
//! a segment of the output: a job that was killed goes on after its last whole segment.

pub mod lip_sync;
mod job;
pub mod report;
mod progress;
mod preflight;
mod frame_map;
mod source_frames;
mod run_error;
mod reading;
mod generating;
mod writing;

pub use job::{FetchedJob, Job};
pub use lip_sync::LipSync;
pub use preflight::preflight;
pub use report::{Progress, Report, Stage};

use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Instant;

use candle_core::Tensor;
use models::ddim::DdimSchedule;

use crate::audio::{Speech, VoiceActivity, load_speech_until};
use crate::error::{InputRole, Result, compute, in_input};
use crate::face::cache::FaceCache;
use crate::face::record::FaceShape;
use crate::media::colour::ColourMode;
use crate::media::frame_store::{FrameStore, check_space};
use crate::media::journal::{Journal, JournalHead, Journalling, Resume};
use crate::options::FrameRange;
use crate::options::{
    BatchChunks, ColourMatch, DurationPolicy, FaceSelector, Options, SilenceMode, VideoLonger,
};
use crate::pipeline::frame_map::Timing;
use crate::pipeline::progress::{Counters, Meter, Totals};
use crate::pipeline::report::{Clock, FaceReport};
use crate::pipeline::run_error::RunError;
use crate::pipeline::source_frames::{Lasting, Lengths, SourceFrames, surely_longer};
use crate::stages::audio_features::{AudioFeatures, Windows};
use crate::stages::colour_match::ColourMatcher;
use crate::stages::decode_video::{CountDepth, VideoInfo, VideoOptions, VideoReader};
use crate::stages::mux_video::{Effort, OutputVideo, SoundEnd, VideoWriter};
use crate::stages::noise::{NoiseSource, SeededNoise};
use crate::system::cache_key::Identity;
use crate::system::cancel::CancelToken;
use crate::system::device::{device_name, dtype_name};
use crate::system::machine;
use crate::system::machine::peak_memory_bytes;
use crate::system::paths::directory_of;

/// Frames that wait between two threads, for each of the chunks that go through the networks together: so that the next
/// ones are read while these are computed, and the ones before are written.
const QUEUE: usize = 16;
/// The part of the machine's free memory that chunks which wait for others may take.
const HELD_PART: usize = 4;
/// What a journal remembers of a video whose length was found out the hard way.
const SOURCE_FRAMES: &str = "source_frames";
/// Seconds that a stream may end before its announced end: the last frames' rounding.
const CUT_OFF: f64 = 0.2;
/// Chunks of a segment: with 16 frames each, 9.6 seconds.
const CHUNKS_PER_SEGMENT: usize = 15;

/// Is shown a numbered tensor while a job runs.
pub type Look<'a> = dyn Fn(usize, &Tensor) + Sync + 'a;

/// What a caller can put in or look at while a job runs: the original's noise in the parity tests, say.
#[derive(Default)]
pub struct Hooks<'a> {
    /// Instead of [`SeededNoise`].
    pub noise: Option<&'a dyn NoiseSource>,
    /// Called with each chunk's number and final latents, (1, frames, height, width, channels).
    pub latents: Option<&'a Look<'a>>,
    /// Called with each output frame's number and RGB picture, (height, width, 3) u8, before it is encoded.
    pub frame: Option<&'a Look<'a>>,
}

impl LipSync {
    /// Makes the mouth in `job.video` follow `job.audio`, and writes `job.output`: all of it, or nothing.
    pub fn run(&self, job: &Job, progress: &mut dyn Progress, cancel: &CancelToken) -> Result<Report> {
        self.run_with(job, &Hooks::default(), progress, cancel)
    }

    /// [`Self::run`] with a look inside.
    pub fn run_with(
        &self,
        job: &Job,
        hooks: &Hooks,
        progress: &mut dyn Progress,
        cancel: &CancelToken,
    ) -> Result<Report> {
        job.options.validate()?;
        let started = Instant::now();
        let fetched = job.fetch(cancel)?;
        let report = fetched.name_in(self.sync(&fetched, hooks, progress, cancel))?;
        Ok(report.timed(started.elapsed()))
    }

    /// [`Self::run`] for a job whose inputs were fetched before.
    pub fn run_fetched(
        &self,
        fetched: &FetchedJob,
        progress: &mut dyn Progress,
        cancel: &CancelToken,
    ) -> Result<Report> {
        fetched.job().options.validate()?;
        let started = Instant::now();
        let report = fetched.name_in(self.sync(fetched, &Hooks::default(), progress, cancel))?;
        Ok(report.timed(started.elapsed()))
    }

    /// The job once its inputs are files. The caller times it.
    fn sync(
        &self,
        fetched: &FetchedJob,
        hooks: &Hooks,
        progress: &mut dyn Progress,
        cancel: &CancelToken,
    ) -> Result<Report> {
        let clock = Clock::default();
        let job = fetched.job();
        let killed = job.resume.then(|| Journal::peek(&job.output)).flatten();
        let seed = killed.as_ref().map(|head| head.seed);
        let seed = job.options.seed.or(seed).unwrap_or_else(random_seed);
        let known = killed.and_then(|head| head.extra[SOURCE_FRAMES].as_u64());
        progress.log(&format!("seed {seed}"));
        let seeded = SeededNoise { seed };
        let run = Run {
            model: self,
            fetched,
            job,
            hooks,
            cancel,
            clock: &clock,
            seed,
            noise: hooks.noise.unwrap_or(&seeded),
            schedule: DdimSchedule::new(job.options.steps).map_err(compute("the step schedule"))?,
            mask: self
                .mask
                .softened(job.options.mask_feather.pixels(self.resolution))
                .map_err(compute("the mouth mask"))?,
            colours: match job.options.colour_match {
                ColourMatch::Off => None,
                ColourMatch::On => Some(ColourMatcher::new(&self.mask).map_err(compute("the colour match"))?),
            },
        };
        let done = match run.once(known.map(|frames| frames as usize), progress) {
            // A damaged or mislabelled file: now its length is known, and what was made for another is no use.
            Err(RunError::VideoShorter { frames }) => {
                Journal::discard(&job.output);
                run.once(Some(frames), progress).map_err(RunError::into_error)?
            }
            done => done.map_err(RunError::into_error)?,
        };

        Ok(Report {
            output: job.output.clone(),
            model: self.name.clone(),
            device: device_name(&self.device),
            dtype: dtype_name(self.dtype).to_string(),
            seed,
            steps: job.options.steps,
            guidance_scale: job.options.guidance_scale,
            deepcache: job.options.deepcache,
            frames: done.frames,
            source_frames: done.source_frames,
            fps: done.fps,
            resumed_frames: done.resumed_frames,
            faces_from_cache: done.faces_from_cache,
            batch_chunks: done.batch_chunks,
            faces: done.faces,
            stage_seconds: clock.times(),
            seconds: 0.0,
            seconds_per_output_second: 0.0,
            peak_memory_bytes: peak_memory_bytes(),
            warnings: done.warnings,
        })
    }
}

/// Fresh seeds have 32 bits, so that a person can copy them and every JSON reader keeps them exact.
fn random_seed() -> u64 {
    u64::from(rand::random::<u32>())
}

/// One job's constants.
struct Run<'a> {
    model: &'a LipSync,
    fetched: &'a FetchedJob,
    /// Its inputs are files.
    job: &'a Job,
    hooks: &'a Hooks<'a>,
    cancel: &'a CancelToken,
    clock: &'a Clock,
    seed: u64,
    noise: &'a dyn NoiseSource,
    schedule: DdimSchedule,
    /// 1 where a face is kept, (resolution, resolution, 1).
    mask: Tensor,
    colours: Option<ColourMatcher>,
}

/// The voice as the model hears it, and what follows from the sizes of voice, video and memory.
struct Heard {
    features: AudioFeatures,
    /// Where the original mouth stays while the voice is silent.
    activity: Option<VoiceActivity>,
    lengths: Lengths,
    timing: Timing,
    /// Chunks that go through the networks together, where there are so many.
    together: usize,
}

/// What a finished run has to say.
#[derive(Default)]
struct Done {
    frames: usize,
    source_frames: usize,
    fps: f64,
    resumed_frames: usize,
    faces_from_cache: bool,
    /// The most chunks that went through the UNet together.
    batch_chunks: usize,
    faces: FaceReport,
    /// The model was asked whether it knows such faces.
    likeness_checked: bool,
    warnings: Vec<String>,
}

impl Run<'_> {
    /// Runs the whole job. Nothing is left behind if it fails. `source_frames`: the video's length, if an earlier run
    /// has found that the file lies.
    fn once(&self, source_frames: Option<usize>, progress: &mut dyn Progress) -> Result<Done, RunError> {
        progress.stage(Stage::AudioFeatures, 0, Some(1));
        let speech =
            self.clock.time(Stage::AudioFeatures, || load_speech_until(self.fetched.audio(), self.cancel));
        let speech = speech.map_err(in_input(InputRole::Voice))?;
        let reader = self.reader(speech.duration_seconds)?;
        let damaged_sound = speech.damaged;
        let heard = self.listen(speech, reader.info(), source_frames)?;
        let (timing, lengths) = (heard.timing, heard.lengths);
        if heard.together > 1 {
            progress.log(&format!("up to {} chunks together", heard.together));
        }
        let frames = lengths.output_frames();
        let cached = self.face_cache(reader.info())?;
        let faces = self.faces(reader.info(), cached.as_ref(), &lengths)?;
        let writer = self.writer(reader.info(), &lengths, source_frames)?;
        let mut warnings: Vec<String> = writer.warning().map(str::to_string).into_iter().collect();
        if reader.info().missing_seconds > CUT_OFF {
            let (video, info) = (&self.fetched.asked().video, reader.info());
            let (end, missing) = (info.duration_seconds, info.missing_seconds);
            warnings.push(format!("`{video}` is cut off: it ends at {end:.2} s, {missing:.2} s too early"));
        }
        let done = Done {
            fps: timing.frames_per_second(),
            resumed_frames: writer.resumed_frames() as usize,
            faces_from_cache: faces.are_cached(),
            ..Done::default()
        };
        if done.resumed_frames > 0 {
            progress.log(&format!("{} frames are there already", done.resumed_frames));
        }
        let lasting = Lasting {
            store: self.store(reader.info(), &lengths)?,
            cache: match &cached {
                Some(cache) if !done.faces_from_cache => Some(cache.begin()?),
                _ => None,
            },
            shape: self.face_shape(),
        };

        let counters = Counters::default();
        let source_frames = lengths.announced.min(lengths.source_frames_needed());
        let steps = self.schedule.timesteps().len();
        let mut meter = Meter::new(progress, &counters, Totals { source_frames, frames, steps });
        meter.tell(Stage::AudioFeatures, 1);
        let stop = self.cancel.child();
        thread::scope(|scope| {
            let (aligned_sender, aligned) = sync_channel(heard.together * QUEUE);
            let (synced_sender, synced) = sync_channel(heard.together * QUEUE);
            let source = scope.spawn(|| self.read_frames(reader, faces, aligned_sender, &counters));
            let sink = scope.spawn(|| {
                let written = self.write_frames(writer, synced, &counters);
                if written.is_err() {
                    // Nobody waits for the rest of a chunk that cannot be written.
                    stop.cancel();
                }
                written
            });
            let mut sources = SourceFrames::new(aligned, lasting, lengths);
            // Dropping its ends of the channels lets both threads run out.
            let done = self.sync_frames(&heard, &mut sources, synced_sender, &stop, done, &mut meter);
            // Whoever reads ahead need not wait for anybody to listen.
            let cache = sources.into_cache();
            let damage = source.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            if damaged_sound > 0 {
                warnings.push(format!(
                    "{damaged_sound} damaged pieces of sound in `{}`",
                    self.fetched.asked().audio
                ));
            }
            let writer = sink.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            // The sink's failure is the cause where the middle only found the channel closed.
            let writer = writer?;
            let done = done?;
            match cache {
                // Damage may be the disk's, and gone the next time.
                Some(cache) if damage.is_empty() => cache.finish()?,
                _ => {}
            }
            warnings.extend(damage);
            if done.faces.frames_without_face == [FrameRange { first: 0, last: done.frames - 1 }] {
                warnings.push("no face was found in any frame: nothing was changed".into());
            }
            warnings.extend(done.warnings);
            let done = Done { warnings, ..done };
            self.cancel.check()?;
            meter.forward();
            self.clock.time(Stage::MuxVideo, || writer.finish(&|| self.cancel.is_cancelled()))?;
            meter.end(Totals { source_frames: done.source_frames, frames: done.frames, steps });
            Ok(done)
        })
    }

    /// Opens the video. How many frames it has must not depend on how fast the disk is: it is counted in full, unless
    /// there are more than the voice needs in any case.
    fn reader(&self, voice_seconds: f64) -> Result<VideoReader> {
        let options = &self.job.options;
        let colour = match options.reference_compat {
            true => ColourMode::ReferenceBt601,
            false => ColourMode::Tagged,
        };
        let open = |count| {
            let options = VideoOptions { colour, rate: options.fps, decoder: options.decoder, count };
            VideoReader::open(self.fetched.video(), options).map_err(in_input(InputRole::Video))
        };
        let reader = open(CountDepth::Quick)?;
        let VideoInfo { rate, count, .. } = reader.info();
        let suffices = surely_longer(count.frames as usize, Timing::new(*rate).frames_of(voice_seconds));
        match count.exact || (suffices && options.duration.video_longer == VideoLonger::Trim) {
            true => Ok(reader),
            false => open(CountDepth::Full),
        }
    }

    /// Stage 3, and the lengths of everything.
    fn listen(&self, speech: Speech, video: &VideoInfo, source_frames: Option<usize>) -> Result<Heard> {
        let options = &self.job.options;
        let timing = Timing::new(video.rate);
        let policy = if video.still { DurationPolicy::STILL } else { options.duration };
        let announced = source_frames.unwrap_or(video.count.frames as usize);
        let mut lengths = Lengths {
            policy,
            source_frames: source_frames.or(video.count.exact.then_some(announced)),
            announced,
            audio_frames: timing.frames_of(speech.duration_seconds).max(1),
        };
        let hear = || -> Result<_> {
            let mut speech = match policy.video_longer {
                VideoLonger::PadSilence => speech.padded_to(timing.model_frames(announced)),
                VideoLonger::Trim | VideoLonger::Speed => speech,
            };
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
            let LipSync { whisper, audio_feat_length, .. } = self.model;
            Ok((AudioFeatures::compute(whisper, &speech, *audio_feat_length, windows)?, activity))
        };
        let (features, activity) = self.clock.time(Stage::AudioFeatures, hear)?;
        if options.reference_compat {
            lengths.audio_frames = timing.frames_of_model(features.reference_frames());
        }
        Ok(Heard { features, activity, lengths, timing, together: self.together(video, &timing)? })
    }

    /// How many chunks go through the networks together: as many as the device's memory holds, unless their pictures
    /// would take too much of the machine's.
    fn together(&self, video: &VideoInfo, timing: &Timing) -> Result<usize> {
        let together = self.model.chunks_together(self.job.options.guidance().is_enabled())?;
        let side = self.model.resolution;
        // 4:2:0 at 8 bits is the least that a picture takes; its face, as it was and as it is made, goes with it.
        let frame = video.width * video.height * 3 / 2 + side * side * 3 * (1 + size_of::<f32>());
        // Before the networks, in them, and after them.
        let held = 3 * frame * timing.frames_of_model(self.model.chunk_frames).max(1);
        let free = machine::memory_available_bytes().map_or(usize::MAX, |bytes| bytes as usize);
        let together = together.min(free / HELD_PART / held).max(1);
        if let BatchChunks::AtMost(asked) = self.model.batch_chunks
            && together < asked.get()
        {
            tracing::warn!("there is memory for {together} chunks together, not for {asked}");
        }
        Ok(together)
    }

    /// `known`: the video's length, where an earlier run has found it out.
    fn writer(&self, video: &VideoInfo, lengths: &Lengths, known: Option<usize>) -> Result<VideoWriter> {
        let head = JournalHead {
            key: self.name_of_result(known)?,
            seed: self.seed,
            extra: serde_json::json!({ SOURCE_FRAMES: known }),
        };
        VideoWriter::create(&OutputVideo {
            path: &self.job.output,
            video,
            audio: self.fetched.audio(),
            // Where the output ends with the video, the sound must suffice for more than was announced.
            frames: match lengths.source_frames {
                Some(_) => lengths.output_frames(),
                None => lengths.output_frames().max(lengths.audio_frames),
            } as u64,
            rate: (video.rate.numerator(), video.rate.denominator()),
            sound: match lengths.policy.video_longer {
                VideoLonger::PadSilence => SoundEnd::Pad,
                VideoLonger::Trim | VideoLonger::Speed => SoundEnd::Cut,
            },
            encoding: self.job.options.encoding,
            effort: Effort::default(),
            journal: Some(Journalling {
                head: &head,
                resume: if self.job.resume { Resume::Yes } else { Resume::No },
            }),
        })
    }

    /// The name of what this job computes: only a job of the same name can be gone on with.
    fn name_of_result(&self, known: Option<usize>) -> Result<String> {
        let job = self.job;
        let mut identity = self
            .model
            .identity("video", &self.model.files.all)
            .with_content("video", self.fetched.video(), self.cancel)
            .map_err(in_input(InputRole::Video))?
            .with_content("audio", self.fetched.audio(), self.cancel)
            .map_err(in_input(InputRole::Voice))?;
        if let Some(anchors) = &job.anchors {
            identity = identity.with_content("anchors", anchors, self.cancel)?;
        }
        if let FaceSelector::Picture(picture) = &job.options.face {
            identity = identity.with_content("picture", picture, self.cancel)?;
        }
        let options = Options { seed: Some(self.seed), ..job.options.clone() };
        Ok(identity.with("options", format!("{options:?}")).with("length", format!("{known:?}")).name())
    }

    /// Where this video's faces are cached, if they are to be.
    fn face_cache(&self, video: &VideoInfo) -> Result<Option<FaceCache>> {
        let Some(directory) = &self.job.cache else { return Ok(None) };
        let options = &self.job.options;
        let mut identity = self
            .model
            .identity("faces", &self.model.files.vae)
            .with_content("video", self.fetched.video(), self.cancel)
            .map_err(in_input(InputRole::Video))?
            .with("rate", format!("{:?}", video.rate))
            .with("face", format!("{:?}", options.face))
            .with("missing", options.on_missing_face)
            .with("max_yaw", options.max_yaw)
            .with("compat", options.reference_compat)
            .with("shape", format!("{:?}", self.face_shape()))
            .with("detector", format!("{:?}", self.model.face_finder.choice()));
        if let Some(anchors) = &self.job.anchors {
            identity = identity.with_content("anchors", anchors, self.cancel)?;
        }
        if let FaceSelector::Picture(picture) = &options.face {
            identity = identity.with_content("picture", picture, self.cancel)?;
        }
        Ok(Some(FaceCache::new(directory, &identity.name(), self.face_shape())?))
    }

    /// Where frames wait that will be shown again, if any will.
    fn store(&self, video: &VideoInfo, lengths: &Lengths) -> Result<Option<FrameStore>> {
        let frames = lengths.frames_that_come_back();
        if frames == 0 {
            return Ok(None);
        }
        let directory = directory_of(&self.job.output);
        // 4:2:0 at 8 bits is the least that a picture takes; a crop goes with it.
        let side = self.model.resolution;
        check_space(directory, frames, video.width * video.height * 3 / 2 + side * side * 3)?;
        Ok(Some(FrameStore::create(directory)?))
    }

    fn face_shape(&self) -> FaceShape {
        FaceShape { resolution: self.model.resolution, latents: self.model.latent_shape() }
    }
}

impl LipSync {
    /// What every result of this model depends on; `files` are those of its parts that matter.
    fn identity(&self, of: &str, files: &str) -> Identity {
        Identity::new(of)
            .with("files", files)
            .with("device", device_name(&self.device))
            .with("dtype", dtype_name(self.dtype))
            .with("cpu", format!("{:?}", kernels::cpu::Isa::current()))
    }
}
