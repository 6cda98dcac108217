//! A loaded model: the networks of one checkpoint on one device. What it does is in `pipeline.rs`.

use candle_core::{DType, Device};
use models::mouth_mask::MouthMask;
use models::unet::UNet3D;
use models::vae::AutoencoderKL;
use models::whisper::WhisperEncoder;

use crate::error::{Result, compute};
use crate::face::finder::FaceFinder;
use crate::options::{BatchChunks, LoadOptions, ModelChoice};
use crate::weights::KnownFaces;
use crate::weights::LatentShape;
use crate::weights::{Activations, BatchSize, Checkpoint, HubSettings, Stamps};

/// A loaded model. Load once, run many jobs.
pub struct LipSync {
    pub(crate) name: String,
    pub(crate) unet: UNet3D,
    pub(crate) vae: AutoencoderKL,
    pub(crate) whisper: WhisperEncoder,
    pub(crate) mask: MouthMask,
    /// Output frames that the UNet sees at a time.
    pub(crate) chunk_frames: usize,
    /// Windows of audio before and after each frame.
    pub(crate) audio_feat_length: [usize; 2],
    pub(crate) resolution: usize,
    pub(crate) device: Device,
    pub(crate) dtype: DType,
    /// How many chunks may be computed together, and what they take.
    pub(crate) batch_chunks: BatchChunks,
    pub(crate) activations: Activations,
    /// Of a model that does not know all faces.
    pub(crate) known_faces: Option<KnownFaces>,
    pub(crate) face_finder: FaceFinder,
    pub(crate) files: Stamps,
}

impl LipSync {
    /// Reads a model's files and puts its networks on a device.
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
            // Small, and what it says is amplified by every attention: not worth a rounding.
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

    /// How many chunks of a job may go through the UNet together, by what is free on the device now. `guided`: of a job
    /// with guidance, which takes twice as much.
    ///
    /// # Errors
    /// [`Memory`](crate::system::Error::Memory) where a GPU has no room for one.
    pub(crate) fn chunks_together(&self, guided: bool) -> Result<usize> {
        let most = BatchSize { chunks: self.batch_chunks.most_on(&self.device), guided };
        Ok(self.activations.fitting(most, &self.device)?)
    }

    /// Height, width and channels of one frame of latents.
    pub(crate) fn latent_shape(&self) -> LatentShape {
        LatentShape::of(&self.vae, self.resolution)
    }
}
