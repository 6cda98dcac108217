//! The networks at their published sizes, against the original's numbers. Ignored by default:
//!
//!     cargo test --release --test parity -- --ignored --nocapture full_size
//!
//! needs a machine with 12 GB to spare (the UNet alone has 1 267 M weights, made here tensor by tensor) and, on
//! two cores without a fast path, several minutes. One test runs at a time.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use candle_core::{DType, Device, Result, Shape, Tensor, bail};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use models::synthetic::{Synthetic, unit_variance};
use models::unet::{UNet3D, UNet3DConfig};
use models::vae::{AutoencoderKL, AutoencoderKLConfig};

use crate::common::{Golden, relative_error, to_channels_last};
use crate::networks::{image_channels_last, unet_config, vae_config};

/// First part of the full-size tensors' names.
const TAG: &str = "full";

/// The UNet's cases: the output's name, what the names of its inputs end in, and the step that was asked.
const UNET_CASES: [(&str, &str, usize); 2] = [("unet_output", "", 401), ("unet_output_5f", "_5f", 951)];

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// In f32 only the order of additions differs; in half precision every weight and every activation is
/// rounded to 8 bits or 11.
fn tolerance(dtype: DType) -> f64 {
    if dtype == DType::F32 { 1e-3 } else { 3e-2 }
}

/// What the golden set says of the full size; holds the other tests back while it lives.
struct FullSize {
    golden: Golden,
    dir: PathBuf,
    model: PathBuf,
    outputs: HashMap<String, Tensor>,
    _alone: MutexGuard<'static, ()>,
}

impl FullSize {
    fn open() -> Option<Self> {
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let golden = Golden::open()?;
        let (Some(dir), Some(model)) = (golden.manifest.full_size.clone(), golden.manifest.model.clone())
        else {
            eprintln!(
                "skipped: the golden set has no full-size outputs, or no small checkpoint to take the options from"
            );
            return None;
        };
        Some(Self {
            outputs: golden.tensors(dir.join("full_size_golden.safetensors"))?,
            model: golden.path(model),
            golden,
            dir,
            _alone: alone,
        })
    }

    /// Weights that are made as they are asked for, and refused where `{network}_shapes.json` has another shape.
    fn weights(&self, network: &str, gain: f64) -> Checked {
        let path = self.golden.path(&self.dir).join(format!("{network}_shapes.json"));
        let text = std::fs::read_to_string(path).unwrap();
        Checked {
            weights: Synthetic::new(format!("{TAG}.{network}."), gain),
            unused: Arc::new(Mutex::new(serde_json::from_str(&text).unwrap())),
        }
    }

    fn check(&self, name: &str, out: &Tensor, want: &Tensor, dtype: DType) -> Result<()> {
        let error = relative_error(out, want)?;
        eprintln!("full size: {name} in {dtype:?}: {error:.1e}");
        assert!(error <= tolerance(dtype), "{name} in {dtype:?}: {error:.1e}");
        Ok(())
    }
}

#[derive(Clone)]
struct Checked {
    weights: Synthetic,
    unused: Arc<Mutex<HashMap<String, Vec<usize>>>>,
}

impl Checked {
    fn shape(&self, key: &str) -> Vec<usize> {
        self.unused.lock().unwrap()[key].clone()
    }

    /// Output channels of `{prefix}.N.resnets.0.conv1`, level by level.
    fn levels(&self, prefix: &str) -> Vec<usize> {
        let shapes = self.unused.lock().unwrap();
        (0..)
            .map_while(|level| shapes.get(&format!("{prefix}.{level}.resnets.0.conv1.weight")))
            .map(|shape| shape[0])
            .collect()
    }

    fn var_builder(&self, dtype: DType) -> VarBuilder<'static> {
        VarBuilder::from_backend(Box::new(self.clone()), dtype, Device::Cpu)
    }

    fn assert_all_used(&self) {
        let unused = self.unused.lock().unwrap();
        assert!(unused.is_empty(), "never asked for: {:?}", unused.keys());
    }
}

impl SimpleBackend for Checked {
    fn get(&self, shape: Shape, name: &str, _: Init, dtype: DType, device: &Device) -> Result<Tensor> {
        match self.unused.lock().unwrap().remove(name) {
            Some(want) if want == shape.dims() => {}
            want => bail!("`{name}`: asked for {shape:?}, the checkpoint has {want:?}"),
        }
        self.weights.tensor(name, &shape)?.to_dtype(dtype)?.to_device(device)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
        bail!("`{name}`: asked for without a shape")
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.unused.lock().unwrap().contains_key(name)
    }
}

/// The input `full.{name}` in the original's order.
fn input(name: &str, shape: impl Into<Shape>) -> Result<Tensor> {
    unit_variance(&format!("{TAG}.{name}"), shape, &Device::Cpu)
}

fn unet(dtype: DType) -> Result<()> {
    let Some(full) = FullSize::open() else {
        return Ok(());
    };
    let weights = full.weights("unet", 1.0);
    let audio_channels =
        weights.shape("down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight")[1];
    let cfg = UNet3DConfig {
        block_out_channels: weights.levels("down_blocks"),
        cross_attention_dim: audio_channels,
        ..unet_config(&full.model.join("unet_config.yaml"))
    };
    let unet = UNet3D::load(&cfg, weights.var_builder(dtype))?;
    weights.assert_all_used();

    for (case, suffix, timestep) in UNET_CASES {
        let Some(want) = full.outputs.get(case) else {
            eprintln!("skipped: the golden set has no full-size `{case}`");
            continue;
        };
        let (batch, _, frames, h, w) = want.dims5()?;
        let sample = input(&format!("unet_sample{suffix}"), (batch, cfg.in_channels, frames, h, w))?;
        let audio = input(&format!("unet_audio{suffix}"), (batch, frames, 50, audio_channels))?;
        let context = unet.context(&audio)?;
        let start = Instant::now();
        let out = unet.forward(&to_channels_last(&sample)?, timestep, &context)?;
        eprintln!("full size: {case} in {dtype:?}: {:.1?}", start.elapsed());
        full.check(case, &out, &to_channels_last(want)?, dtype)?;
    }
    Ok(())
}

fn vae(dtype: DType) -> Result<()> {
    let Some(full) = FullSize::open() else {
        return Ok(());
    };
    let weights = full.weights("vae", 1.2);
    let cfg = AutoencoderKLConfig {
        block_out_channels: weights.levels("encoder.down_blocks"),
        ..vae_config(&full.model.join("vae/config.json"))
    };
    let vae = AutoencoderKL::load(&cfg, weights.var_builder(dtype))?;
    weights.assert_all_used();

    let (mean, decoded) = (&full.outputs["vae_mean"], &full.outputs["vae_decoded"]);
    let image = (input("vae_image", decoded.shape())? * 0.5)?;
    let posterior = vae.encode(&image_channels_last(&image)?)?;
    full.check("vae_mean", &posterior.mean, &image_channels_last(mean)?, dtype)?;
    let out = vae.decode(&image_channels_last(&input("vae_latent", mean.shape())?)?)?;
    full.check("vae_decoded", &out, &image_channels_last(decoded)?, dtype)
}

#[test]
#[ignore = "needs 12 GB and minutes"]
fn full_size_unet_f32() -> Result<()> {
    unet(DType::F32)
}

#[test]
#[ignore = "needs 8 GB and minutes"]
fn full_size_unet_bf16() -> Result<()> {
    unet(DType::BF16)
}

#[test]
#[ignore = "takes half a minute"]
fn full_size_vae_f32() -> Result<()> {
    vae(DType::F32)
}

#[test]
#[ignore = "takes half a minute"]
fn full_size_vae_bf16() -> Result<()> {
    vae(DType::BF16)
}
