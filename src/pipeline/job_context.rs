//! The constants of one job, shared by its three threads, and the keys that identify its results.

use std::path::Path;
use std::sync::OnceLock;

use candle_core::Tensor;
use models::ddim::DdimSchedule;

use crate::error::{InputRole, Result, in_input};
use crate::face::cache::FaceCache;
use crate::face::record::FaceShape;
use crate::options::{FaceSelector, Options};
use crate::pipeline::report::StageClock;
use crate::pipeline::{FetchedJob, Hooks, Job, LipSync};
use crate::stages::colour_match::ColourMatcher;
use crate::stages::decode_video::VideoInfo;
use crate::stages::noise::NoiseSource;
use crate::system::cache_key::{CacheKey, ContentDigest};
use crate::system::cancel::CancelToken;
use crate::system::device::{device_name, dtype_name};

/// Version of the fields in the key of a job's output.
const OUTPUT_KEY_VERSION: u32 = 1;
/// Version of the fields in the key of a face cache entry.
const FACE_CACHE_KEY_VERSION: u32 = 1;

/// Constants of one job.
pub(super) struct JobContext<'a> {
    pub model: &'a LipSync,
    pub fetched: &'a FetchedJob,
    /// The job with local inputs and effective options.
    pub job: &'a Job,
    pub hooks: &'a Hooks<'a>,
    pub cancel: &'a CancelToken,
    pub clock: &'a StageClock,
    pub seed: u64,
    pub noise: &'a dyn NoiseSource,
    pub schedule: DdimSchedule,
    /// Composition mask, (resolution, resolution, 1): 1 where the original face is kept.
    pub mask: Tensor,
    pub colour_matcher: Option<ColourMatcher>,
    /// Computed when the first key is needed.
    pub digests: OnceLock<InputDigests>,
}

/// Digests of the files that a job's output depends on.
pub(super) struct InputDigests {
    video: ContentDigest,
    audio: ContentDigest,
    anchors: Option<ContentDigest>,
    /// Reference picture of [`FaceSelector::Picture`].
    reference_face: Option<ContentDigest>,
}

impl JobContext<'_> {
    pub fn face_shape(&self) -> FaceShape {
        FaceShape { resolution: self.model.resolution, latents: self.model.latent_shape() }
    }

    /// Key of the job's output. A killed job can be resumed only by a job with an equal key.
    ///
    /// `source_frames`: the length of the video, if the file declares a wrong one.
    pub fn output_key(&self, source_frames: Option<usize>) -> Result<String> {
        let InputDigests { video, audio, anchors, reference_face } = self.digests()?;
        let options = Options { seed: Some(self.seed), ..self.job.options.clone() };
        let key = self
            .model_key("output", OUTPUT_KEY_VERSION, &self.model.files.all)
            .field("video", video)
            .field("audio", audio)
            .field("anchors", anchors)
            .field("reference_face", reference_face)
            .field("source_frames", source_frames);
        Ok(options.add_to_key(key).finish())
    }

    /// Cache entry of the faces of `video`, if the job has a cache.
    pub fn face_cache(&self, video: &VideoInfo) -> Result<Option<FaceCache>> {
        let Some(directory) = &self.job.cache else { return Ok(None) };
        let InputDigests { video: content, anchors, reference_face, audio: _ } = self.digests()?;
        let Options { face, on_missing_face, max_yaw, reference_compat, .. } = &self.job.options;
        let shape = self.face_shape();
        let key = self
            .model_key("faces", FACE_CACHE_KEY_VERSION, &self.model.files.vae)
            .field("video", content)
            .field("anchors", anchors)
            .field("reference_face", reference_face)
            .field("frame_rate", video.rate)
            .field("face", face.key_text())
            .field("on_missing_face", on_missing_face.name())
            .field("max_yaw", *max_yaw)
            .field("reference_compat", *reference_compat)
            .field("face_detector", self.model.face_finder.choice().name())
            .field("resolution", shape.resolution)
            .field("latent_height", shape.latents.height)
            .field("latent_width", shape.latents.width)
            .field("latent_channels", shape.latents.channels);
        Ok(Some(FaceCache::new(directory, &key.finish(), shape)?))
    }

    /// The fields that every result of the model depends on. `files`: fingerprint of the relevant model
    /// files.
    fn model_key(&self, kind: &str, version: u32, files: &str) -> CacheKey {
        CacheKey::new(kind, version)
            .field("model_files", files)
            .field("device", device_name(&self.model.device))
            .field("dtype", dtype_name(self.model.dtype))
            .field("cpu_isa", kernels::cpu::Isa::current().name())
    }

    /// Reads every input file at most once per job, the first time that a key is needed.
    fn digests(&self) -> Result<&InputDigests> {
        if let Some(digests) = self.digests.get() {
            return Ok(digests);
        }
        let digest = |path: &Path| ContentDigest::of_file(path, self.cancel);
        let digests = InputDigests {
            video: digest(self.fetched.video()).map_err(in_input(InputRole::Video))?,
            audio: digest(self.fetched.audio()).map_err(in_input(InputRole::Voice))?,
            anchors: self.job.anchors.as_deref().map(digest).transpose()?,
            reference_face: match &self.job.options.face {
                FaceSelector::Picture(path) => Some(digest(path)?),
                _ => None,
            },
        };
        Ok(self.digests.get_or_init(|| digests))
    }
}
