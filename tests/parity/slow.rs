//! The networks at their published sizes. Ignored by default:
//!
//!     cargo test --release --test parity -- --ignored --nocapture slow::
//!
//! needs 12 GB of free memory (the UNet has 1 267 M weights, generated tensor by tensor) and, on two cores without AMX
//! or AVX-512, several minutes. The tests run one after another.

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

use crate::golden::{GoldenSet, image_channels_last, relative_error, to_channels_last};
use crate::networks::{VAE_GAIN, unet_config, vae_config};

/// First part of the names of the tensors at the published sizes.
const TAG: &str = "full";

/// Cases of the UNet: name of the output, suffix of the names of the inputs, timestep.
const UNET_CASES: [(&str, &str, usize); 2] = [("unet_output", "", 401), ("unet_output_5f", "_5f", 951)];

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// In f32 only the order of additions differs. In half precision every weight and every activation is rounded to 8 or
/// 11 bits.
fn tolerance(dtype: DType) -> f64 {
    if dtype == DType::F32 { 1e-3 } else { 3e-2 }
}

/// Golden outputs at the published sizes. Only one test at a time holds this.
struct FullSize {
    set: GoldenSet,
    dir: PathBuf,
    outputs: HashMap<String, Tensor>,
    _alone: MutexGuard<'static, ()>,
}

impl FullSize {
    fn open() -> Self {
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let set = GoldenSet::in_repository();
        let dir = set.manifest.full_size.clone().expect("outputs at the published sizes");
        Self { outputs: set.tensors(dir.join("full_size_golden.safetensors")), set, dir, _alone: alone }
    }

    /// Weights that are generated on demand. A shape other than that of `{network}_shapes.json` is an error.
    fn weights(&self, network: &str, gain: f64) -> CheckedWeights {
        let path = self.set.path(&self.dir).join(format!("{network}_shapes.json"));
        let text = std::fs::read_to_string(path).unwrap();
        CheckedWeights {
            weights: Synthetic::new(format!("{TAG}.{network}."), gain),
            unused: Arc::new(Mutex::new(serde_json::from_str(&text).unwrap())),
        }
    }

    fn check(&self, name: &str, out: &Tensor, dtype: DType) -> Result<()> {
        let want = &self.outputs[name];
        let want = if want.rank() == 5 { to_channels_last(want)? } else { image_channels_last(want)? };
        let error = relative_error(out, &want)?;
        eprintln!("full size: {name} in {dtype:?}: {error:.1e}");
        assert!(error <= tolerance(dtype), "{name} in {dtype:?}: {error:.1e}");
        Ok(())
    }
}

/// Generated weights that must have the shapes of the published checkpoint and must all be loaded.
#[derive(Clone)]
struct CheckedWeights {
    weights: Synthetic,
    unused: Arc<Mutex<HashMap<String, Vec<usize>>>>,
}

impl CheckedWeights {
    fn shape(&self, key: &str) -> Vec<usize> {
        self.unused.lock().unwrap()[key].clone()
    }

    /// Output channels of `{prefix}.N.resnets.0.conv1`, by level.
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
        assert!(unused.is_empty(), "not loaded: {:?}", unused.keys());
    }
}

impl SimpleBackend for CheckedWeights {
    fn get(&self, shape: Shape, name: &str, _: Init, dtype: DType, device: &Device) -> Result<Tensor> {
        match self.unused.lock().unwrap().remove(name) {
            Some(want) if want == shape.dims() => {}
            want => bail!("`{name}`: {shape:?} was requested, the checkpoint has {want:?}"),
        }
        self.weights.tensor(name, &shape)?.to_dtype(dtype)?.to_device(device)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
        bail!("`{name}` was requested without a shape")
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.unused.lock().unwrap().contains_key(name)
    }
}

/// The generated input `full.{name}`, in the original's axis order.
fn input(name: &str, shape: impl Into<Shape>) -> Result<Tensor> {
    unit_variance(&format!("{TAG}.{name}"), shape, &Device::Cpu)
}

fn check_unet(dtype: DType) -> Result<()> {
    let full = FullSize::open();
    let weights = full.weights("unet", 1.0);
    let audio_channels =
        weights.shape("down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight")[1];
    let cfg = UNet3DConfig {
        block_out_channels: weights.levels("down_blocks"),
        cross_attention_dim: audio_channels,
        ..unet_config(&full.set.model_path("unet_config.yaml"))
    };
    let unet = UNet3D::load(&cfg, weights.var_builder(dtype))?;
    weights.assert_all_used();

    for (case, suffix, timestep) in UNET_CASES {
        let (batch, _, frames, h, w) = full.outputs[case].dims5()?;
        let sample = input(&format!("unet_sample{suffix}"), (batch, cfg.in_channels, frames, h, w))?;
        let audio = input(&format!("unet_audio{suffix}"), (batch, frames, 50, audio_channels))?;
        let context = unet.context(&audio)?;
        let start = Instant::now();
        let out = unet.forward(&to_channels_last(&sample)?, timestep, &context)?;
        eprintln!("full size: {case} in {dtype:?}: {:.1?}", start.elapsed());
        full.check(case, &out, dtype)?;
    }
    Ok(())
}

fn check_vae(dtype: DType) -> Result<()> {
    let full = FullSize::open();
    let weights = full.weights("vae", VAE_GAIN);
    let cfg = AutoencoderKLConfig {
        block_out_channels: weights.levels("encoder.down_blocks"),
        ..vae_config(&full.set.model_path("vae/config.json"))
    };
    let vae = AutoencoderKL::load(&cfg, weights.var_builder(dtype))?;
    weights.assert_all_used();

    let image = (input("vae_image", full.outputs["vae_decoded"].shape())? * 0.5)?;
    let posterior = vae.encode(&image_channels_last(&image)?)?;
    full.check("vae_mean", &posterior.mean, dtype)?;
    let latents = input("vae_latent", full.outputs["vae_mean"].shape())?;
    full.check("vae_decoded", &vae.decode(&image_channels_last(&latents)?)?, dtype)
}

#[test]
#[ignore = "needs 12 GB of memory and minutes"]
fn the_full_size_unet_in_f32_equals_the_original() -> Result<()> {
    check_unet(DType::F32)
}

#[test]
#[ignore = "needs 8 GB of memory and minutes"]
fn the_full_size_unet_in_bf16_stays_close_to_the_original() -> Result<()> {
    check_unet(DType::BF16)
}

#[test]
#[ignore = "takes half a minute"]
fn the_full_size_vae_in_f32_equals_the_original() -> Result<()> {
    check_vae(DType::F32)
}

#[test]
#[ignore = "takes half a minute"]
fn the_full_size_vae_in_bf16_stays_close_to_the_original() -> Result<()> {
    check_vae(DType::BF16)
}
