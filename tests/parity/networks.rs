//! UNet, VAE and Whisper encoder of the small model.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::{DType, Device, Result, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use models::synthetic::Synthetic;
use models::unet::{UNet3D, UNet3DConfig};
use models::vae::{AutoencoderKL, AutoencoderKLConfig};
use models::whisper::{WhisperDims, WhisperEncoder};
use serde::Deserialize;

use crate::golden::{GoldenSet, image_channels_last, relative_error, to_channels_last};
use crate::shared::checkpoint;

/// f32 against f32: only the order of the additions differs.
pub const TOLERANCE: f64 = 1e-4;
/// Gain of the VAE's generated weights.
pub const VAE_GAIN: f64 = 1.2;
/// Tokens of one frame's audio window: 10 rows of 5 layers.
const AUDIO_TOKENS: usize = 50;

pub fn unet_config(path: &Path) -> UNet3DConfig {
    #[derive(Deserialize)]
    struct File {
        model: UNet3DConfig,
    }
    let text = std::fs::read_to_string(path).unwrap();
    serde_saphyr::from_str::<File>(&text).unwrap().model
}

pub fn vae_config(path: &Path) -> AutoencoderKLConfig {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Generated weights of one network of the small model.
pub fn generated_weights(set: &GoldenSet, network: &str, gain: f64) -> Synthetic {
    Synthetic::new(format!("{}.{network}.", set.manifest.tag), gain)
}

pub fn load_unet(set: &GoldenSet, dtype: DType) -> Result<UNet3D> {
    let weights = match set.manifest.generated {
        true => generated_weights(set, "unet", 1.0).var_builder(dtype, &Device::Cpu),
        false => VarBuilder::from_tensors(checkpoint::unet_weights(set), dtype, &Device::Cpu),
    };
    UNet3D::load(&unet_config(&set.model_path("unet_config.yaml")), weights)
}

/// `directory`: `vae`, or another export of the same weights.
pub fn load_vae(set: &GoldenSet, directory: &str, dtype: DType) -> Result<AutoencoderKL> {
    let weights = match set.manifest.generated {
        true => generated_weights(set, "vae", VAE_GAIN).var_builder(dtype, &Device::Cpu),
        false => VarBuilder::from_tensors(checkpoint::vae_weights(set, directory), dtype, &Device::Cpu),
    };
    AutoencoderKL::load(&vae_config(&set.model_path(directory).join("config.json")), weights)
}

pub fn load_whisper(set: &GoldenSet) -> Result<WhisperEncoder> {
    if !set.manifest.generated {
        return checkpoint::load_whisper(set);
    }
    let path = set.model_path("whisper/dims.json");
    let dims: WhisperDims = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let weights = HalfPrecision(generated_weights(set, "whisper", 1.0));
    WhisperEncoder::load(&dims, VarBuilder::from_backend(Box::new(weights), DType::F32, Device::Cpu))
}

/// Generated weights rounded to f16, the format of OpenAI's checkpoints.
struct HalfPrecision(Synthetic);

impl SimpleBackend for HalfPrecision {
    fn get(&self, shape: Shape, name: &str, _: Init, dtype: DType, device: &Device) -> Result<Tensor> {
        self.0.tensor(name, &shape)?.to_dtype(DType::F16)?.to_dtype(dtype)?.to_device(device)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        self.0.get_unchecked(name, dtype, device)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.0.contains_tensor(name)
    }
}

/// One case of `unet_golden`: inputs, output, and the outputs of some blocks.
pub struct UnetCase {
    /// (b, f, h, w, c)
    pub sample: Tensor,
    /// (b, f, tokens, channels)
    pub audio: Tensor,
    pub timestep: usize,
    /// (b, f, h, w, c)
    pub output: Tensor,
    /// By name, in the original's axis order.
    pub blocks: BTreeMap<String, Tensor>,
}

/// The cases of `unet_golden` by name.
pub fn unet_cases(set: &GoldenSet) -> Result<BTreeMap<String, UnetCase>> {
    let mut tensors = BTreeMap::<String, BTreeMap<String, Tensor>>::new();
    for (key, tensor) in set.outputs("unet") {
        let (case, name) = key.split_once('.').unwrap();
        tensors.entry(case.to_string()).or_default().insert(name.to_string(), tensor);
    }
    assert!(!tensors.is_empty(), "unet_golden has no case");
    tensors.into_iter().map(|(name, tensors)| Ok((name.clone(), unet_case(set, &name, tensors)?))).collect()
}

fn unet_case(set: &GoldenSet, name: &str, mut tensors: BTreeMap<String, Tensor>) -> Result<UnetCase> {
    let output = tensors.remove("output").unwrap();
    let timestep = tensors.remove("timestep").unwrap().to_vec1::<i64>()?[0] as usize;
    let [sample, audio] = match set.manifest.generated {
        true => generated_unet_inputs(set, name, output.dims5()?)?,
        false => ["sample", "audio"].map(|input| tensors.remove(input).unwrap()),
    };
    Ok(UnetCase {
        sample: to_channels_last(&sample)?,
        audio,
        timestep,
        output: to_channels_last(&output)?,
        blocks: tensors,
    })
}

/// Sample and audio of the UNet case `name`, in the original's axis order.
pub fn generated_unet_inputs(
    set: &GoldenSet,
    name: &str,
    (batch, _, frames, height, width): (usize, usize, usize, usize, usize),
) -> Result<[Tensor; 2]> {
    let config = unet_config(&set.model_path("unet_config.yaml"));
    let sample =
        set.generated_input(&format!("{name}.sample"), (batch, config.in_channels, frames, height, width))?;
    let shape = (batch, frames, AUDIO_TOKENS, config.cross_attention_dim);
    let mut audio = set.generated_input(&format!("{name}.audio"), shape)?;
    if batch == 2 {
        // A batch of two is one of classifier-free guidance: its first half has zeros as audio.
        let cond = audio.narrow(0, 1, 1)?;
        audio = Tensor::cat(&[&cond.zeros_like()?, &cond], 0)?;
    }
    Ok([sample, audio])
}

/// Every case's output, and every block's output that the set has.
pub fn check_unet(set: &GoldenSet) -> Result<()> {
    let unet = load_unet(set, DType::F32)?;
    for (name, mut case) in unet_cases(set)? {
        let context = unet.context(&case.audio)?;
        let mut observe = |block: &str, x: &Tensor| {
            let Some(want) = case.blocks.remove(block) else {
                return Ok(());
            };
            let want = if want.rank() == 5 { to_channels_last(&want)? } else { want };
            let error = relative_error(x, &want)?;
            eprintln!("{name}: {block}: {error:.1e}");
            assert!(error <= TOLERANCE, "{name}: {block}: {error:.1e}");
            Ok(())
        };
        let (output, _) = unet.forward_observed(&case.sample, case.timestep, &context, &mut observe)?;
        let error = relative_error(&output, &case.output)?;
        eprintln!("{name}: output: {error:.1e}");
        assert!(error <= TOLERANCE, "{name}: output: {error:.1e}");
        let unseen: Vec<_> = case.blocks.keys().collect();
        assert!(unseen.is_empty(), "{name}: blocks that were not reached: {unseen:?}");
    }
    Ok(())
}

#[test]
fn the_unet_equals_the_original_block_by_block() -> Result<()> {
    let set = GoldenSet::in_repository();
    let blocks: usize = unet_cases(&set)?.values().map(|case| case.blocks.len()).sum();
    assert_eq!(blocks, 11, "conv_in, time embedding, 4 down blocks, mid block, 4 up blocks");
    check_unet(&set)
}

/// For the sample and the timestep of the full pass, DeepCache's shallow pass computes the same output.
#[test]
fn a_shallow_pass_repeats_the_full_pass() -> Result<()> {
    let set = GoldenSet::in_repository();
    let unet = load_unet(&set, DType::F32)?;
    let UnetCase { sample, audio, .. } = unet_cases(&set)?.remove("b1f16").unwrap();
    let context = unet.context(&audio)?;
    let (full, cached) = unet.forward_full(&sample, 500, &context)?;
    let shallow = unet.forward_shallow(&sample, 500, &context, &cached)?;
    assert!(relative_error(&shallow, &full)? <= 1e-6);
    // A shallow pass recomputes `conv_in`, so another sample must change its output. (Another timestep may not, in
    // a small model: a norm with one group per channel removes what the time embedding adds.)
    let other = unet.forward_shallow(&(sample * 0.5)?, 500, &context, &cached)?;
    let change = relative_error(&other, &full)?;
    assert!(change > 1e-2, "the sample has no effect: {change:.1e}");
    Ok(())
}

/// Inputs of `vae_golden`, (n, h, w, c): image, noise of the posterior sample, latents to decode.
pub struct VaeInputs {
    pub image: Tensor,
    pub noise: Tensor,
    pub latents: Tensor,
}

impl VaeInputs {
    pub fn of(set: &GoldenSet, tensors: &HashMap<String, Tensor>) -> Result<Self> {
        let [image, noise, latents] = match set.manifest.generated {
            true => generated_vae_inputs(set, tensors)?,
            false => ["image", "noise", "latent_in"].map(|name| tensors[name].clone()),
        };
        Ok(Self {
            image: image_channels_last(&image)?,
            noise: image_channels_last(&noise)?,
            latents: image_channels_last(&latents)?,
        })
    }
}

/// Image, noise and latents of `vae_golden`, in the original's axis order.
pub fn generated_vae_inputs(set: &GoldenSet, outputs: &HashMap<String, Tensor>) -> Result<[Tensor; 3]> {
    Ok([
        (set.generated_input("vae.image", outputs["decoded"].shape())? * 0.5)?,
        set.generated_input("vae.noise", outputs["mean"].shape())?,
        set.generated_input("vae.latent", outputs["mean"].shape())?,
    ])
}

pub fn check_vae(set: &GoldenSet, directory: &str) -> Result<()> {
    let tensors = set.outputs("vae");
    let vae = load_vae(set, directory, DType::F32)?;
    let inputs = VaeInputs::of(set, &tensors)?;
    let posterior = vae.encode(&inputs.image)?;
    let sample = posterior.sample(&inputs.noise)?;
    let decoded = vae.decode(&inputs.latents)?;
    for (name, out) in
        [("mean", &posterior.mean), ("logvar", &posterior.logvar), ("sample", &sample), ("decoded", &decoded)]
    {
        let error = relative_error(out, &image_channels_last(&tensors[name])?)?;
        eprintln!("{directory}: {name}: {error:.1e}");
        assert!(error <= TOLERANCE, "{directory}: {name}: {error:.1e}");
    }
    Ok(())
}

#[test]
fn the_vae_equals_the_original() -> Result<()> {
    check_vae(&GoldenSet::in_repository(), "vae")
}
