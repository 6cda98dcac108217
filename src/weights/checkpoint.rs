//! A checkpoint, opened: its configurations, and its networks on demand.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use candle_nn::VarBuilder;
use models::unet::{MotionModuleConfig, UNet3D, UNet3DConfig};
use models::vae::{AutoencoderKL, AutoencoderKLConfig};
use models::whisper::{WhisperDims, WhisperEncoder};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::locate::{self, ModelFiles, UnetConfigText, incomplete};
use super::model_file::ModelFile;
use super::tensor_file::{SOURCE_SHA256, StoredTensor, TensorFile};
use super::vars::Wanted;
use super::{HubSettings, Package, Role, digest, hub};
use crate::options::ModelChoice;
use crate::weights::KnownFaces;
use crate::weights::LatentShape;
use crate::weights::{Error, MissingPart, Result};

/// The files of one LatentSync, found, matched with each other and ready to load.
#[derive(Debug)]
pub struct Checkpoint {
    data: DataSection,
    unet_config: UnetConfigText,
    vae_config: ModelFile,
    unet: TensorFile,
    vae: TensorFile,
    whisper: TensorFile,
    /// `None`: all.
    known_faces: Option<TensorFile>,
}

/// What tells a checkpoint's files from others, without reading them.
#[derive(Debug, Clone)]
pub struct Stamps {
    /// Sizes and times of change of all files, and the configuration.
    pub all: String,
    pub vae: String,
}

/// What the engine reads of `unet_config.yaml` beside the network's own section.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct DataSection {
    num_frames: usize,
    resolution: usize,
    #[serde(default = "two_before_two_after")]
    audio_feat_length: [usize; 2],
}

fn two_before_two_after() -> [usize; 2] {
    [2, 2]
}

impl DataSection {
    /// Refuses, by the key's name, what no job can be computed with.
    fn validate(&self, model: &ModelSection) -> Result<(), String> {
        let Self { num_frames, resolution, audio_feat_length } = self;
        let most = model.motion_module_kwargs.temporal_position_encoding_max_len.min(MOST_FRAMES);
        if !(1..=most).contains(num_frames) {
            return Err(format!("`data.num_frames` is {num_frames}: it must be 1 to {most}"));
        }
        if !RESOLUTIONS.contains(resolution) || resolution % 8 != 0 {
            let (least, most) = (RESOLUTIONS.start(), RESOLUTIONS.end());
            return Err(format!(
                "`data.resolution` is {resolution}: it must be a multiple of 8 from {least} to {most}"
            ));
        }
        if audio_feat_length.iter().any(|&length| length > MOST_AUDIO) {
            return Err(format!(
                "`data.audio_feat_length` is {audio_feat_length:?}: it must be at most {MOST_AUDIO} each"
            ));
        }
        Ok(())
    }
}

#[derive(Deserialize)]
struct WithModel<M> {
    model: M,
}

#[derive(Deserialize)]
struct WithData {
    data: DataSection,
}

/// What opening reads of the network's section.
#[derive(Deserialize)]
struct ModelSection {
    cross_attention_dim: usize,
    #[serde(default)]
    motion_module_kwargs: MotionModuleConfig,
}

/// Of `vae/config.json`, what decides the network's layers. diffusers has defaults for these, which are no
/// published VAE's.
const VAE_KEYS: [&str; 4] = ["block_out_channels", "down_block_types", "up_block_types", "layers_per_block"];

/// Sides of faces that can be computed; a side of the latents is an eighth.
const RESOLUTIONS: RangeInclusive<usize> = 64..=2048;
/// The most frames that are held at once, whatever the motion modules could number.
const MOST_FRAMES: usize = 256;
/// Two seconds: more than any model hears around a frame.
const MOST_AUDIO: usize = 50;

impl Checkpoint {
    /// Finds the files of `model`, reads their configurations and directories, and refuses a checkpoint whose
    /// configuration is another model's. Loads no weights yet.
    pub fn open(model: &ModelChoice, settings: &HubSettings) -> Result<Self> {
        let ModelFiles { unet, unet_config, vae, vae_config } = locate::model_files(model, settings)?;
        let unet = TensorFile::open(unet)?;
        let unet_config = matching_config(&unet, unet_config, model, settings)?;
        let (data, width) = data_section(&unet_config)?;
        check_vae_config(&vae_config)?;
        let whisper = TensorFile::open(locate::whisper(model, width, settings)?)?;
        check_whisper(&whisper, width, &unet_config)?;
        let vae = TensorFile::open(vae)?.rename(current_vae_name)?;
        let known_faces = locate::known_faces(model)?.map(TensorFile::open).transpose()?;
        Ok(Self { data, unet_config, vae_config, unet, vae, whisper, known_faces })
    }

    /// Side of the square faces, in pixels.
    pub fn resolution(&self) -> usize {
        self.data.resolution
    }

    /// Frames that the UNet sees at once.
    pub fn num_frames(&self) -> usize {
        self.data.num_frames
    }

    /// Video frames before and after the one being drawn whose sound the UNet hears.
    pub fn audio_feat_length(&self) -> [usize; 2] {
        self.data.audio_feat_length
    }

    /// Words that change when the files do: those of all of the networks, and of the VAE alone.
    pub fn stamps(&self) -> Result<Stamps> {
        let vae = format!("{} {}", self.vae.file().stamp()?, self.vae_config.stamp()?);
        let others = [self.unet.file().stamp()?, self.whisper.file().stamp()?];
        Ok(Stamps { all: format!("{} {vae} {}", others.join(" "), self.unet_config.yaml), vae })
    }

    /// The `model` section of the UNet's configuration.
    pub fn unet_config<C: DeserializeOwned>(&self) -> Result<C> {
        model_section(&self.unet_config)
    }

    /// The VAE's `config.json`.
    pub fn vae_config<C: DeserializeOwned>(&self) -> Result<C> {
        serde_json::from_slice(&self.vae_json()?).map_err(|error| Error::File {
            path: self.vae_config.path().to_owned(),
            problem: error.to_string(),
        })
    }

    /// The dimensions that the Whisper file carries.
    pub fn whisper_dims<C: DeserializeOwned>(&self) -> Result<C> {
        let dims = serde_json::to_value(self.whisper.dims()).and_then(serde_json::from_value);
        dims.map_err(|error| Error::File {
            path: self.whisper.path().to_owned(),
            problem: format!("its dimensions: {error}"),
        })
    }

    /// The noise predictor, with every tensor in `dtype` on `device`.
    pub fn unet(&self, dtype: DType, device: &Device) -> Result<UNet3D> {
        let config: UNet3DConfig = self.unet_config()?;
        self.load_unet(dtype, device, |vb| UNet3D::load(&config, vb))
    }

    /// The VAE, with every tensor in `dtype` on `device`.
    pub fn vae(&self, dtype: DType, device: &Device) -> Result<AutoencoderKL> {
        let config: AutoencoderKLConfig = self.vae_config()?;
        self.load_vae(dtype, device, |vb| AutoencoderKL::load(&config, vb))
    }

    /// Whisper's encoder, with every tensor in `dtype` on `device`.
    pub fn whisper(&self, dtype: DType, device: &Device) -> Result<WhisperEncoder> {
        let dims: WhisperDims = self.whisper_dims()?;
        self.load_whisper(dtype, device, |vb| WhisperEncoder::load(&dims, vb))
    }

    /// Which faces the model knows, where those are not all; their latents are of `shape`.
    pub(crate) fn known_faces(&self, shape: LatentShape) -> Result<Option<KnownFaces>> {
        let Some(file) = &self.known_faces else { return Ok(None) };
        let wanted = Wanted { dtype: DType::F32, device: &Device::Cpu, unused: |_| false };
        file.load(&wanted, |vb| KnownFaces::load(shape, vb)).map(Some)
    }

    /// Builds the UNet from its file, all of whose keys `build` must take. The positions `pe` are a formula,
    /// and may be left.
    pub fn load_unet<T>(
        &self,
        dtype: DType,
        device: &Device,
        build: impl FnOnce(VarBuilder<'_>) -> candle_core::Result<T>,
    ) -> Result<T> {
        let unused = |key: &str| key.ends_with(".pos_encoder.pe");
        self.unet.load(&Wanted { dtype, device, unused }, build)
    }

    /// Builds the VAE from its file, all of whose keys, under their current names, `build` must take.
    pub fn load_vae<T>(
        &self,
        dtype: DType,
        device: &Device,
        build: impl FnOnce(VarBuilder<'_>) -> candle_core::Result<T>,
    ) -> Result<T> {
        let unused = |_: &str| false;
        self.vae.load(&Wanted { dtype, device, unused }, build)
    }

    /// Builds Whisper's encoder from its file. The decoder and the encoder's last norm are not used.
    pub fn load_whisper<T>(
        &self,
        dtype: DType,
        device: &Device,
        build: impl FnOnce(VarBuilder<'_>) -> candle_core::Result<T>,
    ) -> Result<T> {
        let unused = |key: &str| key.starts_with("decoder.") || key.starts_with("encoder.ln_post.");
        self.whisper.load(&Wanted { dtype, device, unused }, build)
    }

    pub(super) fn files(&self) -> [&TensorFile; 3] {
        [&self.unet, &self.vae, &self.whisper]
    }

    pub(super) fn known_faces_file(&self) -> Option<&ModelFile> {
        self.known_faces.as_ref().map(TensorFile::file)
    }

    pub(super) fn unet_yaml(&self) -> &str {
        &self.unet_config.yaml
    }

    pub(super) fn vae_json(&self) -> Result<Cow<'static, [u8]>> {
        self.vae_config.read()
    }
}

/// The configuration that goes with the UNet: the one beside it, unless the UNet is known to be another model's,
/// or the built-in one of the published model that it is.
fn matching_config(
    unet: &TensorFile,
    beside: Option<UnetConfigText>,
    model: &ModelChoice,
    settings: &HubSettings,
) -> Result<UnetConfigText> {
    let ModelChoice::Directory(directory) = model else {
        return beside.ok_or_else(|| no_config(unet.path()));
    };
    let known =
        known_unet(unet, settings)?.and_then(|package| Some((package, package.manifest().resolution?)));
    let Some(config) = beside else {
        let (_, resolution) = known.ok_or_else(|| no_config(directory))?;
        return Ok(UnetConfigText::published(resolution));
    };
    let says = parse_yaml::<WithData>(&config)?.data.resolution;
    match known {
        Some((package, is)) if is != says => Err(Error::ResolutionConflict {
            path: unet.path().to_owned(),
            model: package.name(),
            is,
            config: config.origin,
            says,
        }),
        _ => Ok(config),
    }
}

fn no_config(directory: &Path) -> Error {
    incomplete(directory, MissingPart::UnetConfig, "`unet_config.yaml`")
}

/// Which published UNet a file is: by what a converted file says it was made from, or by its hash. Hashing 5 GB
/// takes seconds, so only files of exactly a published size are hashed, and once.
fn known_unet(unet: &TensorFile, settings: &HubSettings) -> Result<Option<Package>> {
    let published = Package::ALL.into_iter().filter_map(|package| {
        let file = package.manifest().file(Role::Unet)?;
        Some((package, file.bytes, file.sha256.as_deref()?))
    });
    let published: Vec<_> = published.collect();
    let bytes = fs::metadata(unet.path()).map_or(0, |metadata| metadata.len());
    let hash = match (unet.note(SOURCE_SHA256), hub::hash_in_name(unet.path())) {
        (Some(hash), _) => hash.to_owned(),
        (None, Some(hash)) => hash,
        (None, None) if published.iter().any(|(_, size, _)| *size == bytes) => {
            digest::remembered_sha256(unet.path(), settings, &mut |_| Ok(()))?
        }
        (None, None) => return Ok(None),
    };
    Ok(published.into_iter().find(|(_, _, known)| *known == hash).map(|(package, ..)| package))
}

/// The `data` section, and how many channels of sound the network listens to.
pub(super) fn data_section(config: &UnetConfigText) -> Result<(DataSection, usize)> {
    let WithData { data } = parse_yaml(config)?;
    let WithModel { model: section } = parse_yaml::<WithModel<ModelSection>>(config)?;
    data.validate(&section).map_err(|problem| config_problem(config, problem))?;
    Ok((data, section.cross_attention_dim))
}

/// The network's own section.
pub(super) fn model_section<C: DeserializeOwned>(config: &UnetConfigText) -> Result<C> {
    Ok(parse_yaml::<WithModel<C>>(config)?.model)
}

/// The UNet of every published LatentSync.
pub fn published_unet_config() -> Result<UNet3DConfig> {
    model_section(&UnetConfigText::published(512))
}

/// Stable Diffusion 1.5's VAE, which every published LatentSync uses.
pub fn published_vae_config() -> AutoencoderKLConfig {
    AutoencoderKLConfig {
        down_block_types: vec!["DownEncoderBlock2D".to_string(); 4],
        up_block_types: vec!["UpDecoderBlock2D".to_string(); 4],
        block_out_channels: vec![128, 256, 512, 512],
        layers_per_block: 2,
        ..Default::default()
    }
}

fn parse_yaml<C: DeserializeOwned>(config: &UnetConfigText) -> Result<C> {
    serde_saphyr::from_str(&config.yaml).map_err(|error| config_problem(config, error.to_string()))
}

fn config_problem(config: &UnetConfigText, problem: String) -> Error {
    Error::File { path: PathBuf::from(config.origin.trim_matches('`')), problem }
}

/// Refuses a configuration that leaves open what the VAE is.
fn check_vae_config(file: &ModelFile) -> Result<()> {
    let refuse = |problem: String| Error::File { path: file.path().to_owned(), problem };
    let text = file.read()?;
    let config: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(&text).map_err(|error| refuse(error.to_string()))?;
    match VAE_KEYS.iter().find(|key| !config.contains_key(**key)) {
        Some(key) => Err(refuse(format!("`{key}` is missing"))),
        None => Ok(()),
    }
}

/// The UNet listens to as many channels as Whisper gives.
fn check_whisper(whisper: &TensorFile, width: usize, config: &UnetConfigText) -> Result<()> {
    let problem = match whisper.dims().get("n_audio_state") {
        Some(&state) if usize::try_from(state) == Ok(width) => return Ok(()),
        Some(state) => {
            format!(
                "its features have {state} channels, but {} wants {width} (`cross_attention_dim`)",
                config.origin
            )
        }
        None => "it has no `dims`: not a checkpoint of OpenAI's Whisper".into(),
    };
    Err(Error::File { path: whisper.path().to_owned(), problem })
}

/// The VAE's attention layers in their current names and shapes: published files call them `query`, `key`,
/// `value` and `proj_attn`, and some keep their weights as 1×1 convolutions, (out, in, 1, 1).
fn current_vae_name(key: &str, tensor: &mut StoredTensor) -> String {
    let renames =
        BTreeMap::from([("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0")]);
    let parts: Vec<&str> = key.split('.').collect();
    let Some(attention) = parts.iter().position(|part| *part == "attentions") else {
        return key.to_owned();
    };
    // `attentions.N.LAYER…`
    if let ([out, input, 1, 1], Some(&"weight")) = (tensor.shape.as_slice(), parts.last()) {
        tensor.shape = vec![*out, *input];
    }
    let rename = |(index, part): (usize, &&str)| match renames.get(part) {
        Some(current) if index == attention + 2 => (*current).to_owned(),
        _ => (*part).to_owned(),
    };
    parts.iter().enumerate().map(rename).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_configuration_is_the_published_unets() {
        for resolution in [256, 512] {
            let config = UnetConfigText::published(resolution);
            let parsed: WithData = parse_yaml(&config).unwrap();
            assert_eq!(parsed.data.resolution, resolution);
            let unet = parse_yaml::<WithModel<UNet3DConfig>>(&config).unwrap().model;
            assert_eq!(unet.block_out_channels, [320, 640, 1280, 1280]);
            assert_eq!(unet.cross_attention_dim, 384);
        }
    }
}
