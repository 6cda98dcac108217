//! The networks that are measured: of the published shape with made-up weights, or a model's own.

use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use models::mouth_mask::MouthMask;
use models::synthetic::{Synthetic, unit_variance};
use models::unet::{UNet3D, UNet3DConfig};
use models::vae::{AutoencoderKL, AutoencoderKLConfig};
use models::whisper::{WhisperDims, WhisperEncoder};

use super::{Part, Size};
use crate::bench::{Error, Result};
use crate::error::compute;
use crate::face::finder::FaceFinder;
use crate::options::{LoadOptions, ModelChoice};
use crate::pipeline::LipSync;
use crate::weights::{
    Activations, Checkpoint, HubSettings, MemoryNeeds, Sizes, Stamps, published_unet_config,
    published_vae_config,
};

/// Of the training schedule; which one does not matter.
const TIMESTEP: usize = 401;
/// Rows of sound that a frame hears: five video frames', ten each.
const AUDIO_TOKENS: usize = 50;
/// Scale of the VAE's made-up weights at which its activations neither vanish nor grow.
const VAE_GAIN: f64 = 1.2;

/// What is measured.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    Synthetic(Size),
    Model(ModelChoice),
}

/// A call that is timed: one part, once.
pub type Work<'a> = Box<dyn Fn() -> candle_core::Result<()> + 'a>;

/// The networks' options, and the sizes of what they are given.
#[derive(Debug, Clone)]
pub struct Plan {
    pub unet: UNet3DConfig,
    pub vae: AutoencoderKLConfig,
    pub whisper: WhisperDims,
    pub frames: usize,
    pub resolution: usize,
}

impl Plan {
    /// What is not measured from a file.
    pub fn synthetic(size: Size) -> Result<Self> {
        let (published, vae) = (published_unet_config()?, published_vae_config());
        let frames = 16;
        Ok(match size {
            Size::Small => {
                let whisper = WhisperDims { n_audio_state: 48, ..WhisperDims::tiny() };
                let unet = UNet3DConfig {
                    block_out_channels: vec![32, 64, 64, 64],
                    cross_attention_dim: whisper.n_audio_state,
                    ..published
                };
                let vae = AutoencoderKLConfig { block_out_channels: vec![32, 64, 64, 64], ..vae };
                Self { unet, vae, whisper, frames, resolution: 128 }
            }
            Size::Pixels256 | Size::Pixels512 => Self {
                unet: published,
                vae,
                whisper: WhisperDims::tiny(),
                frames,
                resolution: if size == Size::Pixels256 { 256 } else { 512 },
            },
        })
    }

    /// Side of one frame of latents.
    pub fn latent_side(&self) -> usize {
        self.resolution >> (self.vae.block_out_channels.len() - 1)
    }

    fn sizes(&self) -> Sizes<'_> {
        Sizes {
            unet: &self.unet,
            vae: &self.vae,
            audio_tokens: AUDIO_TOKENS,
            frames: self.frames,
            resolution: self.resolution,
        }
    }
}

/// Loaded networks.
pub struct Subject {
    pub name: String,
    pub device: Device,
    pub dtype: DType,
    pub load_seconds: f64,
    source: Source,
    plan: Plan,
    unet: Option<UNet3D>,
    vae: Option<AutoencoderKL>,
}

/// Which networks are needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs {
    pub unet: bool,
    pub vae: bool,
}

impl Subject {
    /// Loads what `needs` names.
    pub fn load(source: Source, needs: Needs, options: &LoadOptions) -> Result<Self> {
        let device = options.device.open()?;
        let dtype = options.dtype.resolve(&device);
        let started = Instant::now();
        let (name, plan, unet, vae) = match &source {
            Source::Synthetic(size) => {
                let plan = Plan::synthetic(*size)?;
                let (unet, vae) = make(&plan, *size, needs, (dtype, &device))?;
                (format!("synthetic-{size}"), plan, unet, vae)
            }
            Source::Model(model) => {
                let checkpoint = Checkpoint::open(model, &HubSettings::for_loading(options))?;
                checkpoint.check_memory(dtype, &device)?;
                let plan = Plan {
                    unet: checkpoint.unet_config()?,
                    vae: checkpoint.vae_config()?,
                    whisper: checkpoint.whisper_dims()?,
                    frames: checkpoint.num_frames(),
                    resolution: checkpoint.resolution(),
                };
                let unet = needs.unet.then(|| checkpoint.unet(dtype, &device)).transpose()?;
                let vae = needs.vae.then(|| checkpoint.vae(dtype, &device)).transpose()?;
                (model.to_string(), plan, unet, vae)
            }
        };
        let load_seconds = started.elapsed().as_secs_f64();
        Ok(Self { name, device, dtype, load_seconds, source, plan, unet, vae })
    }

    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The call that `part` is, with its inputs made. The network must have been loaded.
    pub fn work(&self, part: Part) -> Result<Work<'_>> {
        let work = match (part, &self.unet, &self.vae) {
            (Part::UnetStep, Some(unet), _) => self.unet_step(unet),
            (Part::VaeEncode, _, Some(vae)) => self.vae_encode(vae),
            (Part::VaeDecode, _, Some(vae)) => self.vae_decode(vae),
            _ => return Err(Error::Internal(format!("the network of {} was not loaded", part.name()))),
        };
        Ok(work.map_err(compute(part.name()))?)
    }

    /// What is made once per chunk is not timed: the audio's keys and values, and what mask and reference give to the
    /// first convolution.
    fn unet_step<'a>(&'a self, unet: &'a UNet3D) -> candle_core::Result<Work<'a>> {
        let Plan { unet: cfg, frames, .. } = &self.plan;
        let side = self.plan.latent_side();
        let frame = |name, channels| self.input(name, &[1, *frames, side, side, channels]);
        let conditioning = cfg.in_channels.saturating_sub(cfg.out_channels);
        let sample = frame("unet_sample", cfg.in_channels - conditioning)?;
        let audio = self.input("unet_audio", &[1, *frames, AUDIO_TOKENS, cfg.cross_attention_dim])?;
        let mut context = unet.context(&audio)?;
        if conditioning > 0 {
            context = unet.conditioned(context, &frame("unet_conditioning", conditioning)?)?;
        }
        Ok(Box::new(move || {
            unet.forward(&sample, TIMESTEP, &context)?;
            self.device.synchronize()
        }))
    }

    fn vae_encode<'a>(&'a self, vae: &'a AutoencoderKL) -> candle_core::Result<Work<'a>> {
        let (side, channels) = (self.plan.resolution, self.plan.vae.in_channels);
        let image = (self.input("vae_image", &[1, side, side, channels])? * 0.5)?;
        Ok(Box::new(move || {
            vae.encode(&image)?;
            self.device.synchronize()
        }))
    }

    fn vae_decode<'a>(&'a self, vae: &'a AutoencoderKL) -> candle_core::Result<Work<'a>> {
        let (side, channels) = (self.plan.latent_side(), self.plan.vae.latent_channels);
        let latents = self.input("vae_latent", &[1, side, side, channels])?;
        Ok(Box::new(move || {
            vae.decode(&latents)?;
            self.device.synchronize()
        }))
    }

    fn input(&self, name: &str, shape: &[usize]) -> candle_core::Result<Tensor> {
        unit_variance(&format!("bench.{name}"), shape, &self.device)
    }

    /// The whole engine around these networks, which must both be loaded.
    pub fn into_lip_sync(self, options: &LoadOptions) -> Result<LipSync> {
        if let Source::Model(model) = &self.source {
            let model = model.clone();
            // Loaded again by the engine's own way; both at once need not fit.
            drop(self);
            return Ok(LipSync::load(&model, options)?);
        }
        let (Some(unet), Some(vae)) = (self.unet, self.vae) else {
            return Err(Error::Internal("a job needs both networks".into()));
        };
        let whisper = Synthetic::new("bench.whisper.", 1.0).var_builder(DType::F32, &self.device);
        let activations = Activations::new(&self.plan.sizes(), self.dtype, &self.device)?;
        Ok(LipSync {
            name: self.name.clone(),
            unet,
            vae,
            whisper: WhisperEncoder::load(&self.plan.whisper, whisper).map_err(compute("whisper"))?,
            mask: MouthMask::new(self.plan.resolution).map_err(compute("mouth mask"))?,
            chunk_frames: self.plan.frames,
            audio_feat_length: [2, 2],
            resolution: self.plan.resolution,
            device: self.device,
            dtype: self.dtype,
            batch_chunks: options.batch_chunks,
            activations,
            known_faces: None,
            face_finder: FaceFinder::new(options, HubSettings::for_loading(options)),
            files: Stamps { all: self.name.clone(), vae: self.name },
        })
    }
}

/// Networks with made-up weights.
fn make(
    plan: &Plan,
    size: Size,
    needs: Needs,
    (dtype, device): (DType, &Device),
) -> Result<(Option<UNet3D>, Option<AutoencoderKL>)> {
    check_memory(size, needs, dtype, device)?;
    let unet = needs.unet.then(|| {
        let weights = Synthetic::new("bench.unet.", 1.0).var_builder(dtype, device);
        UNet3D::load(&plan.unet, weights)
    });
    let vae = needs.vae.then(|| {
        let weights = Synthetic::new("bench.vae.", VAE_GAIN).var_builder(dtype, device);
        AutoencoderKL::load(&plan.vae, weights)
    });
    Ok((
        unet.transpose().map_err(compute("making the UNet"))?,
        vae.transpose().map_err(compute("making the VAE"))?,
    ))
}

/// Refuses what does not fit, as loading a model's files does. Without the UNet there is little to fit.
fn check_memory(size: Size, needs: Needs, dtype: DType, device: &Device) -> Result<()> {
    let resolution = match size {
        Size::Pixels256 if needs.unet => 256,
        Size::Pixels512 if needs.unet => 512,
        _ => return Ok(()),
    };
    Ok(MemoryNeeds::published(resolution, dtype, device)?.check(device)?)
}
