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
//! stay on the caller's thread and work on chunks of 16 output frames, as they were trained.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Instant;

use candle_core::{Device, Tensor};
use kernels::warp_affine::Affine;
use models::ddim::DdimSchedule;

use crate::anchors::{AnchorFile, AnchorSource};
use crate::device::{device_name, dtype_name};
use crate::error::{Error, Result, compute};
use crate::frame_store::FrameStore;
use crate::lip_sync::LipSync;
use crate::media::colour::ColourMode;
use crate::media::picture::Picture;
use crate::meter::{Counters, Meter, Totals};
use crate::noise::{NoiseFor, NoiseSource, SeededNoise};
use crate::options::Job;
use crate::report::{CancelToken, Clock, FrameRange, Progress, Report, Stage, peak_memory_bytes};
use crate::source_frames::{AlignedFrame, EncodedFace, FaceShape, Kept, Next, SourceFrame, SourceFrames};
use crate::stages::FPS;
use crate::stages::align_faces::{AlignedFace, FaceAligner};
use crate::stages::audio_features::{AudioFeatures, load_speech_until};
use crate::stages::blend_faces::blend_face;
use crate::stages::decode_latents::decode_faces;
use crate::stages::decode_video::{FrameCount, VideoOptions, VideoReader};
use crate::stages::denoise_latents::{ChunkInputs, Denoiser};
use crate::stages::encode_latents::{ChunkFace, conditioning, encode_face};
use crate::stages::mux_video::{OutputVideo, Quality, VideoWriter, directory_of};

/// Frames that wait between two threads: one chunk, so that neither side stalls the other.
const QUEUE: usize = 16;

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
        let clock = Clock::default();
        let seed = job.options.seed_or_random();
        progress.log(&format!("seed {seed}"));

        progress.stage(Stage::AudioFeatures, 0, Some(1));
        let speech = clock.time(Stage::AudioFeatures, || load_speech_until(&job.audio, cancel))?;
        let audio = clock.time(Stage::AudioFeatures, || {
            AudioFeatures::compute(&self.whisper, &speech, self.audio_feat_length)
        })?;
        progress.stage(Stage::AudioFeatures, 1, Some(1));
        cancel.check()?;

        let seeded = SeededNoise { seed };
        let run = Run {
            model: self,
            job,
            hooks,
            cancel,
            clock: &clock,
            audio_frames: if job.options.reference_compat {
                audio.reference_frames()
            } else {
                audio.frames()
            },
            audio: &audio,
            noise: hooks.noise.unwrap_or(&seeded),
            schedule: DdimSchedule::new(job.options.steps).map_err(compute("the step schedule"))?,
        };
        let done = match run.once(Reuse::AsAnnounced, progress) {
            // A damaged or mislabelled file: its frames are needed again after all.
            Err(Error::VideoShorterThanAnnounced { .. }) => run.once(Reuse::Expected, progress)?,
            done => done?,
        };

        let mut warnings = done.warnings;
        if speech.damaged > 0 {
            warnings.push(format!("{} damaged pieces of sound in `{}`", speech.damaged, job.audio.display()));
        }
        let seconds = started.elapsed().as_secs_f64();
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
            fps: FPS as f64,
            frames_without_face: done.frames_without_face,
            stage_seconds: clock.times(),
            seconds,
            seconds_per_output_second: seconds * FPS as f64 / done.frames as f64,
            peak_memory_bytes: peak_memory_bytes(),
            warnings,
        })
    }
}

/// Whether frames are kept for a second use.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reuse {
    /// If the file announces fewer frames than the voice needs.
    AsAnnounced,
    Expected,
}

/// One job's constants.
struct Run<'a> {
    model: &'a LipSync,
    job: &'a Job,
    hooks: &'a Hooks<'a>,
    cancel: &'a CancelToken,
    clock: &'a Clock,
    audio: &'a AudioFeatures,
    audio_frames: usize,
    noise: &'a dyn NoiseSource,
    schedule: DdimSchedule,
}

/// What a finished run has to say.
#[derive(Default)]
struct Done {
    frames: usize,
    source_frames: usize,
    frames_without_face: Vec<FrameRange>,
    warnings: Vec<String>,
}

/// Frames of the output that go through the UNet together.
struct Chunk<'a> {
    number: usize,
    /// Output frame of the first of `frames`.
    first: usize,
    frames: &'a [SourceFrame],
}

/// An output frame on its way to the sink.
struct SyncedFrame {
    picture: Picture,
    /// The generated face and where it belongs; absent where the frame passes through.
    face: Option<(Tensor, Affine)>,
}

impl Run<'_> {
    /// Runs the whole job. Nothing is left behind if it fails.
    fn once(&self, reuse: Reuse, progress: &mut dyn Progress) -> Result<Done> {
        let job = self.job;
        let colour = match job.options.reference_compat {
            true => ColourMode::ReferenceBt601,
            false => ColourMode::Tagged,
        };
        let reader = VideoReader::open(&job.video, VideoOptions { colour })?;
        let FrameCount { frames: announced, exact } = reader.info().count;
        let announced = announced as usize;
        // Modes that cannot be computed are refused here, before the work.
        let frames = job.options.duration.output_frames(announced, self.audio_frames)?;
        let source_frames = announced.min(frames);
        let anchors = self.anchors(exact.then_some(source_frames))?;
        let writer = VideoWriter::create(&OutputVideo {
            path: &job.output,
            video: reader.info(),
            audio: &job.audio,
            // Where the output ends with the video, the sound must suffice for more than was announced.
            frames: if exact { frames } else { self.audio_frames } as u64,
            quality: Quality::default(),
        })?;
        let kept = self.kept(reader.info().count, frames, reuse)?;

        let counters = Counters::default();
        let steps = self.schedule.timesteps().len();
        let mut meter = Meter::new(progress, &counters, Totals { source_frames, frames, steps });
        let stop = self.cancel.child();
        thread::scope(|scope| {
            let (aligned_sender, aligned) = sync_channel(QUEUE);
            let (synced_sender, synced) = sync_channel(QUEUE);
            let source = scope.spawn(|| self.read_frames(reader, anchors, aligned_sender, &counters));
            let sink = scope.spawn(|| {
                let written = self.write_frames(writer, synced, &counters);
                if written.is_err() {
                    // Nobody waits for the rest of a chunk that cannot be written.
                    stop.cancel();
                }
                written
            });
            let shape = FaceShape { resolution: self.model.resolution, latents: self.model.latent_shape() };
            let sources = SourceFrames::new(aligned, kept, shape, job.options.duration, self.audio_frames);
            // Dropping its ends of the channels lets both threads run out.
            let done = self.sync_frames(sources, synced_sender, &stop, &mut meter);
            let warnings = source.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            let writer = sink.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            // The sink's failure is the cause where the middle only found the channel closed.
            let writer = writer?;
            let done = Done { warnings, ..done? };
            self.cancel.check()?;
            meter.forward();
            self.clock.time(Stage::MuxVideo, || writer.finish(&|| self.cancel.is_cancelled()))?;
            meter.end(Totals { source_frames: done.source_frames, frames: done.frames, steps });
            Ok(done)
        })
    }

    /// Where frames wait that will be shown again, if any will.
    fn kept(&self, count: FrameCount, frames: usize, reuse: Reuse) -> Result<Option<Kept>> {
        let announced = count.frames as usize;
        let source_frames = (count.exact && reuse == Reuse::AsAnnounced).then_some(announced);
        let needed = match source_frames {
            Some(announced) => announced < frames,
            None => reuse == Reuse::Expected || !surely_longer(announced, frames),
        };
        if !needed {
            return Ok(None);
        }
        Ok(Some(Kept { store: FrameStore::create(directory_of(&self.job.output))?, source_frames }))
    }

    /// The source thread: stages 1 and 2. Ends when the video does or nobody listens any more.
    fn read_frames(
        &self,
        mut reader: VideoReader,
        mut anchors: AnchorSource,
        aligned: SyncSender<Result<AlignedFrame>>,
        counters: &Counters,
    ) -> Vec<String> {
        let mut aligner = FaceAligner::new(self.model.resolution);
        for index in 0.. {
            let frame = self.read_frame(index, &mut reader, &mut anchors, &mut aligner, counters);
            let failed = frame.is_err();
            let Some(frame) = frame.transpose() else { break };
            if aligned.send(frame).is_err() || failed {
                break;
            }
        }
        match reader.damaged() {
            0 => Vec::new(),
            damaged => vec![format!("{damaged} damaged packets or frames in `{}`", self.job.video.display())],
        }
    }

    fn read_frame(
        &self,
        index: usize,
        reader: &mut VideoReader,
        anchors: &mut AnchorSource,
        aligner: &mut FaceAligner,
        counters: &Counters,
    ) -> Result<Option<AlignedFrame>> {
        self.cancel.check()?;
        let Some(picture) = self.clock.time(Stage::DecodeVideo, || reader.next())? else {
            return Ok(None);
        };
        let rgb = self.clock.time(Stage::DecodeVideo, || picture.to_rgb())?;
        counters.add(Stage::DecodeVideo);
        let face = self.clock.time(Stage::AlignFaces, || match anchors.next(index, &rgb)? {
            Some(anchors) => aligner.align(&rgb, &anchors).map(Some).map_err(compute("align_faces")),
            // The smoothing must not reach across a gap: the face may come back elsewhere.
            None => {
                aligner.reset();
                Ok(None)
            }
        })?;
        counters.add(Stage::AlignFaces);
        Ok(Some(AlignedFrame { picture, face }))
    }

    /// The caller's thread: stages 4 to 6, chunk by chunk.
    fn sync_frames(
        &self,
        mut sources: SourceFrames,
        synced: SyncSender<SyncedFrame>,
        stop: &CancelToken,
        meter: &mut Meter,
    ) -> Result<Done> {
        let mut done = Done::default();
        for number in 0.. {
            let chunk = self.next_chunk(&mut sources, done.frames, stop, meter)?;
            let first = done.frames;
            done.frames += chunk.len();
            if chunk.is_empty() {
                break;
            }
            let mut faces = self.generate(&Chunk { number, first, frames: &chunk }, stop, meter)?.into_iter();
            for (output, frame) in (first..).zip(chunk) {
                let face = frame.face.and_then(|face| Some((faces.next()?, face.aligned.matrix)));
                if face.is_none() {
                    FrameRange::push(&mut done.frames_without_face, output);
                }
                if synced.send(SyncedFrame { picture: frame.picture, face }).is_err() {
                    return Ok(done);
                }
                meter.forward();
            }
        }
        if done.frames == 0 {
            return Err(Error::NoFrames { path: self.job.video.clone(), damaged: 0 });
        }
        done.source_frames = sources.seen();
        Ok(done)
    }

    /// The next frames of the output, at most as many as the UNet sees at a time; none at the end.
    fn next_chunk(
        &self,
        sources: &mut SourceFrames,
        first: usize,
        stop: &CancelToken,
        meter: &mut Meter,
    ) -> Result<Vec<SourceFrame>> {
        let mut chunk = Vec::with_capacity(self.model.chunk_frames);
        for output in first..first + self.model.chunk_frames {
            stop.check()?;
            meter.forward();
            let frame = match sources.next(output)? {
                Next::End => break,
                Next::Again(frame) => frame,
                Next::New(AlignedFrame { picture, face }) => {
                    let frame =
                        SourceFrame { picture, face: face.map(|face| self.encode(face)).transpose()? };
                    sources.keep(output, &frame)?;
                    meter.tell(Stage::EncodeLatents, sources.seen());
                    frame
                }
            };
            chunk.push(frame);
        }
        Ok(chunk)
    }

    fn encode(&self, aligned: AlignedFace) -> Result<EncodedFace> {
        let LipSync { vae, device, mask, .. } = self.model;
        let posteriors =
            self.clock.time(Stage::EncodeLatents, || encode_face(vae, device, mask, &aligned.crop));
        Ok(EncodedFace { aligned, posteriors: posteriors.map_err(compute("encode_latents"))? })
    }

    /// New faces for the frames of one chunk that have one, in their order.
    fn generate(&self, chunk: &Chunk, stop: &CancelToken, meter: &mut Meter) -> Result<Vec<Tensor>> {
        let LipSync { unet, vae, mask, .. } = self.model;
        let steps = self.schedule.timesteps().len();
        let (first, end) = (chunk.first, chunk.first + chunk.frames.len());
        let faces: Vec<(usize, &EncodedFace)> = (first..)
            .zip(chunk.frames)
            .filter_map(|(output, frame)| Some((output, frame.face.as_ref()?)))
            .collect();
        if faces.is_empty() {
            meter.tell(Stage::DenoiseLatents, end * steps);
            meter.tell(Stage::DecodeLatents, end);
            return Ok(Vec::new());
        }
        let inputs = self.chunk_inputs(&faces)?;
        let denoiser = Denoiser {
            unet,
            schedule: &self.schedule,
            guidance_scale: self.job.options.guidance_scale,
            deepcache: self.job.options.deepcache,
            device: &self.model.device,
            cancel: stop,
        };
        let latents = self.clock.time(Stage::DenoiseLatents, || {
            denoiser.run(&inputs, |step| {
                meter.tell(Stage::DenoiseLatents, first * steps + step * (end - first));
                meter.forward();
            })
        })?;
        if let Some(look) = self.hooks.latents {
            look(chunk.number, &latents);
        }
        let crops: Vec<_> = faces.iter().map(|&(output, face)| (output, &face.aligned.crop)).collect();
        let decoded = self
            .clock
            .time(Stage::DecodeLatents, || decode_faces(vae, mask, &latents, &crops, || stop.check()))?;
        meter.tell(Stage::DecodeLatents, end);
        Ok(decoded)
    }

    /// Noise, conditioning and audio of the faces of one chunk, each with its output frame's number.
    fn chunk_inputs(&self, faces: &[(usize, &EncodedFace)]) -> Result<ChunkInputs> {
        let shape = self.model.latent_shape();
        // The encoder of the voice runs when a window is asked for.
        let windows = self.clock.time(Stage::AudioFeatures, || {
            faces.iter().map(|&(output, _)| self.audio.window(output)).collect::<Result<Vec<_>>>()
        })?;
        let faces: Vec<_> = faces
            .iter()
            .map(|&(output_frame, face)| ChunkFace { output_frame, posteriors: &face.posteriors })
            .collect();
        let stacked = || {
            let noise = self.noise.frame(NoiseFor::InitialLatents, 0, shape);
            let noise =
                Tensor::from_vec(noise, (1, 1, shape.height, shape.width, shape.channels), &Device::Cpu)?;
            Ok(ChunkInputs {
                noise: noise.repeat((1, faces.len(), 1, 1, 1))?,
                conditioning: conditioning(&self.model.vae, &self.model.mask, &faces, self.noise)?,
                audio: Tensor::stack(&windows, 0)?.unsqueeze(0)?,
            })
        };
        self.clock.time(Stage::EncodeLatents, stacked).map_err(compute("encode_latents"))
    }

    /// The sink thread: stages 7 and 8. Gives the writer back for the caller to finish, once all is well.
    fn write_frames(
        &self,
        mut writer: VideoWriter,
        synced: Receiver<SyncedFrame>,
        counters: &Counters,
    ) -> Result<VideoWriter> {
        for (output, SyncedFrame { mut picture, face }) in (0..).zip(synced) {
            self.cancel.check()?;
            if let Some((face, matrix)) = face {
                self.clock.time(Stage::BlendFaces, || {
                    let patch =
                        blend_face(&picture.to_rgb()?, &face, &matrix).map_err(compute("blend_faces"))?;
                    if let Some(look) = self.hooks.frame {
                        look(output, &patch.applied_to(&picture.to_rgb()?).map_err(compute("blend_faces"))?);
                    }
                    picture.paste(&patch)
                })?;
            } else if let Some(look) = self.hooks.frame {
                look(output, &picture.to_rgb()?);
            }
            counters.add(Stage::BlendFaces);
            self.clock.time(Stage::MuxVideo, || writer.push(&picture))?;
            counters.add(Stage::MuxVideo);
        }
        Ok(writer)
    }

    /// `frames`: how many a file must have, where that is known.
    fn anchors(&self, frames: Option<usize>) -> Result<AnchorSource> {
        match &self.job.anchors {
            Some(path) => Ok(AnchorSource::File(AnchorFile::read(path, frames.unwrap_or(0))?)),
            None => Ok(AnchorSource::Tracker(self.model.face_finder.tracker(&self.job.options)?)),
        }
    }
}

/// Whether a video that claims to have `announced` frames, without being exact, has more than `frames`.
fn surely_longer(announced: usize, frames: usize) -> bool {
    announced > frames + frames / 50 + 50
}
