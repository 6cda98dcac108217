//! Golden sets: their location, their manifest, and measures of the difference between two tensors.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Result, Shape, Tensor};
use models::synthetic::unit_variance;
use serde::Deserialize;

use crate::shared_material;

/// `manifest.json` of a golden set. Paths are relative to the directory of the set.
#[derive(Debug, Deserialize)]
pub struct Manifest {
    /// First part of the name of every generated tensor.
    pub tag: String,
    /// Directory of the small model: its configuration files and the outputs of its networks.
    pub model: PathBuf,
    /// The files hold outputs only: the weights and the inputs of the UNet and the VAE come from the generator.
    #[serde(default)]
    pub generated: bool,
    /// Recordings with Whisper features.
    #[serde(default)]
    pub audio: Vec<PathBuf>,
    /// Numbers of a job that was run by the original, without its video.
    pub job: Option<JobCase>,
    pub pipeline: Option<PipelineCase>,
    pub pipeline_deepcache: Option<PipelineCase>,
    /// Directory of the outputs at the published sizes.
    pub full_size: Option<PathBuf>,
}

/// A job without its video: the denoise stage starts from stored posteriors.
#[derive(Debug, Deserialize)]
pub struct JobCase {
    pub file: PathBuf,
    pub guidance_scale: f64,
    pub steps: usize,
    /// Steps of the run with DeepCache.
    pub deepcache_steps: usize,
    pub deepcache_interval: usize,
}

/// A whole job of the original, with its files.
#[derive(Debug, Deserialize)]
pub struct PipelineCase {
    pub dir: PathBuf,
    pub video: PathBuf,
    pub anchors: PathBuf,
    pub audio: PathBuf,
    pub steps: usize,
    pub guidance_scale: f64,
    pub deepcache_interval: Option<usize>,
}

/// A golden set: its directory and its manifest.
pub struct GoldenSet {
    pub dir: PathBuf,
    pub manifest: Manifest,
}

impl GoldenSet {
    /// The set of the repository.
    pub fn in_repository() -> Self {
        Self::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden"))
    }

    /// The complete set: the directory `LATENTSYNC_GOLDEN`, or `golden` in the shared material.
    pub fn shared() -> Self {
        Self::open(match std::env::var_os("LATENTSYNC_GOLDEN") {
            Some(dir) => dir.into(),
            None => shared_material::directory().join("golden"),
        })
    }

    fn open(dir: PathBuf) -> Self {
        let path = dir.join("manifest.json");
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let manifest = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        Self { dir, manifest }
    }

    pub fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.dir.join(relative)
    }

    /// Path of a file of the small model.
    pub fn model_path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.path(&self.manifest.model).join(relative)
    }

    /// A file of named tensors.
    pub fn tensors(&self, relative: impl AsRef<Path>) -> HashMap<String, Tensor> {
        let path = self.path(relative);
        candle_core::safetensors::load(&path, &Device::Cpu)
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }

    /// `{network}_golden.safetensors` of the small model.
    pub fn outputs(&self, network: &str) -> HashMap<String, Tensor> {
        self.tensors(self.manifest.model.join(format!("{network}_golden.safetensors")))
    }

    /// The generated input `{tag}.{name}`, of unit variance, in the original's axis order.
    pub fn generated_input(&self, name: &str, shape: impl Into<Shape>) -> Result<Tensor> {
        unit_variance(&format!("{}.{name}", self.manifest.tag), shape, &Device::Cpu)
    }
}

/// ‖out − want‖ / ‖want‖ over all elements.
pub fn relative_error(out: &Tensor, want: &Tensor) -> Result<f64> {
    assert_eq!(out.dims(), want.dims(), "shapes differ");
    let (out, want) = (out.to_dtype(DType::F64)?, want.to_dtype(DType::F64)?);
    let norm = |t: &Tensor| Ok::<_, candle_core::Error>(t.sqr()?.sum_all()?.to_scalar::<f64>()?.sqrt());
    Ok(norm(&(out - &want)?)? / norm(&want)?)
}

/// Peak signal-to-noise ratio of two u8 images, in dB; infinite if they are equal.
pub fn psnr(out: &Tensor, want: &Tensor) -> Result<f64> {
    assert_eq!(out.dims(), want.dims(), "shapes differ");
    let (out, want) = (out.to_dtype(DType::F64)?, want.to_dtype(DType::F64)?);
    let mse = (out - want)?.sqr()?.mean_all()?.to_scalar::<f64>()?;
    Ok(10.0 * (255.0 * 255.0 / mse).log10())
}

/// (b, c, f, h, w), the original's axis order, to (b, f, h, w, c).
pub fn to_channels_last(video: &Tensor) -> Result<Tensor> {
    video.permute((0, 2, 3, 4, 1))?.contiguous()
}

/// (n, c, h, w), the original's axis order, to (n, h, w, c).
pub fn image_channels_last(image: &Tensor) -> Result<Tensor> {
    image.permute((0, 2, 3, 1))?.contiguous()
}
