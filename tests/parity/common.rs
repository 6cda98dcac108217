//! Where the golden set is, what its manifest says, and how far two tensors are apart.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Result, Tensor};
use serde::Deserialize;

/// `manifest.json` of a golden set. Paths are relative to the set's directory.
#[derive(Debug, Deserialize)]
pub struct Manifest {
    /// The first part of every generated tensor's name.
    pub tag: String,
    /// Directory of the small checkpoint.
    pub model: Option<PathBuf>,
    #[serde(default)]
    pub audio: Vec<PathBuf>,
    pub pipeline: Option<PipelineCase>,
    pub pipeline_deepcache: Option<PipelineCase>,
    /// Directory of the full-size outputs.
    pub full_size: Option<PathBuf>,
}

/// One whole job of the original.
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
pub struct Golden {
    pub dir: PathBuf,
    pub manifest: Manifest,
}

impl Golden {
    /// `None`, said on stderr, where no set is present: the tests need nothing by default.
    pub fn open() -> Option<Self> {
        let dir =
            std::env::var_os("LATENTSYNC_GOLDEN").map_or_else(|| "../shared/golden".into(), PathBuf::from);
        let path = dir.join("manifest.json");
        let Ok(text) = std::fs::read_to_string(&path) else {
            eprintln!("skipped: no golden set at `{}` (set LATENTSYNC_GOLDEN)", dir.display());
            return None;
        };
        let manifest = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        Some(Self { dir, manifest })
    }

    pub fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.dir.join(relative)
    }

    /// A file of named tensors, or `None`, said on stderr, where the set lacks it.
    pub fn tensors(&self, relative: impl AsRef<Path>) -> Option<HashMap<String, Tensor>> {
        let path = self.path(relative);
        if !path.exists() {
            eprintln!("skipped: the golden set has no `{}`", path.display());
            return None;
        }
        Some(
            candle_core::safetensors::load(&path, &Device::Cpu)
                .unwrap_or_else(|e| panic!("{}: {e}", path.display())),
        )
    }
}

/// ‖out − want‖ / ‖want‖ over all elements.
pub fn relative_error(out: &Tensor, want: &Tensor) -> Result<f64> {
    assert_eq!(out.dims(), want.dims(), "shapes differ");
    let (out, want) = (out.to_dtype(DType::F64)?, want.to_dtype(DType::F64)?);
    let norm = |t: &Tensor| Ok::<_, candle_core::Error>(t.sqr()?.sum_all()?.to_scalar::<f64>()?.sqrt());
    Ok(norm(&(out - &want)?)? / norm(&want)?)
}

/// Peak signal-to-noise ratio of two u8 images, in dB; infinite where they are equal.
pub fn psnr(out: &Tensor, want: &Tensor) -> Result<f64> {
    assert_eq!(out.dims(), want.dims(), "shapes differ");
    let (out, want) = (out.to_dtype(DType::F64)?, want.to_dtype(DType::F64)?);
    let mse = (out - want)?.sqr()?.mean_all()?.to_scalar::<f64>()?;
    Ok(10.0 * (255.0 * 255.0 / mse).log10())
}

/// (b, c, f, h, w), the original's order, to (b, f, h, w, c), ours.
pub fn to_channels_last(video: &Tensor) -> Result<Tensor> {
    video.permute((0, 2, 3, 4, 1))?.contiguous()
}
