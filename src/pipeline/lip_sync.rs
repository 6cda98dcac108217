//! A loaded model and its central operation: [`LipSync::run`].

use std::sync::OnceLock;
use std::time::Instant;

use candle_core::{DType, Device};
use models::ddim::DdimSchedule;
use models::mouth_mask::MouthMask;
use models::unet::UNet3D;
use models::vae::AutoencoderKL;
use models::whisper::WhisperEncoder;

use crate::error::{Result, compute};
use crate::face::finder::FaceFinder;
use crate::media::journal::Journal;
use crate::options::{BatchChunks, ColourMatch, LoadOptions, ModelChoice};
use crate::pipeline::inference::RunSummary;
use crate::pipeline::job_context::JobContext;
use crate::pipeline::report::StageClock;
use crate::pipeline::run_error::RunError;
use crate::pipeline::{FetchedJob, Hooks, Job, Progress, Report, run_attempt};
use crate::stages::colour_match::ColourMatcher;
use crate::stages::noise::SeededNoise;
use crate::system::cancel::CancelToken;
use crate::system::device::{device_name, dtype_name};
use crate::system::machine::peak_memory_bytes;
use crate::weights::{Activations, BatchSize, Checkpoint, HubSettings, KnownFaces, LatentShape, Stamps};

/// A loaded model: the networks of one checkpoint on one device. Load it once and run many jobs.
pub struct LipSync {
    pub(crate) name: String,
    pub(crate) unet: UNet3D,
    pub(crate) vae: AutoencoderKL,
    pub(crate) whisper: WhisperEncoder,
    pub(crate) mask: MouthMask,
    /// Model frames per chunk of the UNet.
    pub(crate) chunk_frames: usize,
    /// Model frames of audio context before and after each frame.
    pub(crate) audio_feat_length: [usize; 2],
    pub(crate) resolution: usize,
    pub(crate) device: Device,
    pub(crate) dtype: DType,
    pub(crate) batch_chunks: BatchChunks,
    /// Estimated memory of a batch.
    pub(crate) activations: Activations,
    /// PCA of the training faces, for models trained on a narrow set of faces.
    pub(crate) known_faces: Option<KnownFaces>,
    pub(crate) face_finder: FaceFinder,
    /// Fingerprints of the model files.
    pub(crate) files: Stamps,
}

impl LipSync {
    /// Reads the files of a model and places its networks on a device.
    pub fn load(model: &ModelChoice, options: &LoadOptions) -> Result<Self> {
        let device = options.device.open()?;
        let dtype = options.dtype.resolve(&device);
        let settings = HubSettings::for_loading(options);
        let checkpoint = Checkpoint::open(model, &settings)?;
        let memory = checkpoint.memory_needs(dtype, &device)?;
        memory.check(&device)?;
        let vae = checkpoint.vae(dtype, &device)?;
        let latents = LatentShape::of(&vae, checkpoint.resolution());
        Ok(Self {
            name: model.to_string(),
            unet: checkpoint.unet(dtype, &device)?,
            vae,
            // The encoder is small, and every cross-attention amplifies its rounding errors.
            whisper: checkpoint.whisper(DType::F32, &device)?,
            mask: MouthMask::new(checkpoint.resolution()).map_err(compute("mouth mask"))?,
            chunk_frames: checkpoint.num_frames(),
            audio_feat_length: checkpoint.audio_feat_length(),
            resolution: checkpoint.resolution(),
            device,
            dtype,
            batch_chunks: options.batch_chunks,
            activations: memory.activations,
            known_faces: checkpoint.known_faces(latents)?,
            face_finder: FaceFinder::new(options, settings),
            files: checkpoint.stamps()?,
        })
    }

    /// Animates the mouth in `job.video` to match `job.audio` and writes `job.output`. If the job fails, the
    /// output does not exist.
    pub fn run(&self, job: &Job, progress: &mut dyn Progress, cancel: &CancelToken) -> Result<Report> {
        self.run_with(job, &Hooks::default(), progress, cancel)
    }

    /// [`Self::run`] with hooks.
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
        let report = fetched.name_in(self.run_local(&fetched, hooks, progress, cancel))?;
        Ok(report.timed(started.elapsed()))
    }

    /// [`Self::run`] for a job whose inputs have been fetched already.
    pub fn run_fetched(
        &self,
        fetched: &FetchedJob,
        progress: &mut dyn Progress,
        cancel: &CancelToken,
    ) -> Result<Report> {
        fetched.job().options.validate()?;
        let started = Instant::now();
        let report = fetched.name_in(self.run_local(fetched, &Hooks::default(), progress, cancel))?;
        Ok(report.timed(started.elapsed()))
    }

    /// Runs a job with local inputs. The caller sets the times of the report.
    fn run_local(
        &self,
        fetched: &FetchedJob,
        hooks: &Hooks,
        progress: &mut dyn Progress,
        cancel: &CancelToken,
    ) -> Result<Report> {
        let job = fetched.job();
        let clock = StageClock::default();
        let killed_job = job.resume.then(|| Journal::peek(&job.output)).flatten();
        let journal_seed = killed_job.as_ref().map(|head| head.seed);
        let seed = job.options.seed.or(journal_seed).unwrap_or_else(random_seed);
        progress.log(&format!("seed {seed}"));
        let seeded_noise = SeededNoise { seed };
        let mask_feather = job.options.mask_feather.pixels(self.resolution);
        let context = JobContext {
            model: self,
            fetched,
            job,
            hooks,
            cancel,
            clock: &clock,
            seed,
            noise: hooks.noise.unwrap_or(&seeded_noise),
            schedule: DdimSchedule::new(job.options.steps).map_err(compute("the step schedule"))?,
            mask: self.mask.softened(mask_feather).map_err(compute("the mouth mask"))?,
            colour_matcher: match job.options.colour_match {
                ColourMatch::Off => None,
                ColourMatch::On => Some(ColourMatcher::new(&self.mask).map_err(compute("the colour match"))?),
            },
            digests: OnceLock::new(),
        };
        let source_frames = killed_job.and_then(|head| head.source_frames);
        let summary = match run_attempt(&context, source_frames, progress) {
            // The file is damaged or declares a wrong length. Now that the length is known, the job starts
            // again; the segments made for the declared length are unusable.
            Err(RunError::VideoShorter { frames }) => {
                Journal::discard(&job.output);
                run_attempt(&context, Some(frames), progress).map_err(RunError::into_error)?
            }
            summary => summary.map_err(RunError::into_error)?,
        };
        Ok(self.report(&context, summary))
    }

    fn report(&self, context: &JobContext, summary: RunSummary) -> Report {
        let JobContext { job, seed, clock, .. } = context;
        Report {
            output: job.output.clone(),
            model: self.name.clone(),
            device: device_name(&self.device),
            dtype: dtype_name(self.dtype).to_string(),
            seed: *seed,
            steps: job.options.steps,
            guidance_scale: job.options.guidance_scale,
            deepcache: job.options.deepcache,
            frames: summary.frames,
            source_frames: summary.source_frames,
            fps: summary.fps,
            resumed_frames: summary.resumed_frames,
            faces_from_cache: summary.faces_from_cache,
            batch_chunks: summary.batch_chunks,
            faces: summary.faces,
            stage_seconds: clock.times(),
            seconds: 0.0,
            seconds_per_output_second: 0.0,
            peak_memory_bytes: peak_memory_bytes(),
            warnings: summary.warnings,
        }
    }

    /// Maximum number of chunks per UNet batch for the device memory that is free now. `guided`: with
    /// classifier-free guidance, which doubles the batch.
    ///
    /// # Errors
    /// [`Memory`](crate::system::Error::Memory) if a GPU has too little memory for one chunk.
    pub(crate) fn max_batch_chunks(&self, guided: bool) -> Result<usize> {
        let limit = BatchSize { chunks: self.batch_chunks.max_on(&self.device), guided };
        Ok(self.activations.fitting(limit, &self.device)?)
    }

    /// Height, width and channels of one frame of latents.
    pub(crate) fn latent_shape(&self) -> LatentShape {
        LatentShape::of(&self.vae, self.resolution)
    }
}

/// Random seed of 32 bits: short enough to copy by hand, and exact in every JSON reader.
fn random_seed() -> u64 {
    u64::from(rand::random::<u32>())
}
