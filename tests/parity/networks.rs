//! UNet, VAE, schedule and synthetic weights of the small checkpoint, against the original's numbers.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Result, Tensor, pickle};
use candle_nn::VarBuilder;
use models::ddim::DdimSchedule;
use models::synthetic::Synthetic;
use models::unet::{UNet3D, UNet3DConfig};
use models::vae::{AutoencoderKL, AutoencoderKLConfig};
use serde::Deserialize;

use crate::common::{Golden, relative_error, to_channels_last};

/// f32 against f32: only the order of additions differs.
const TOLERANCE: f64 = 1e-4;

/// The files of the small checkpoint, or `None`, said on stderr, where the set has none.
pub fn small(golden: &Golden) -> Option<PathBuf> {
    if golden.manifest.model.is_none() {
        eprintln!("skipped: the golden set has no small checkpoint");
    }
    golden.manifest.model.clone()
}

/// (n, c, h, w), the original's order, to (n, h, w, c), ours.
pub fn image_channels_last(image: &Tensor) -> Result<Tensor> {
    image.permute((0, 2, 3, 1))?.contiguous()
}

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

fn unet_weights(dir: &Path) -> HashMap<String, Tensor> {
    let path = dir.join("latentsync_unet.pt");
    let tensors = pickle::read_all_with_key(path, Some("state_dict")).unwrap();
    tensors.into_iter().collect()
}

pub fn load_unet(golden: &Golden, model: &Path, dtype: DType) -> Result<UNet3D> {
    let dir = golden.path(model);
    let vb = VarBuilder::from_tensors(unet_weights(&dir), dtype, &Device::Cpu);
    UNet3D::load(&unet_config(&dir.join("unet_config.yaml")), vb)
}

/// One case of `unet_golden`: an input and what is known of the way to its output.
#[derive(Default)]
struct UnetCase {
    inputs: HashMap<String, Tensor>,
    blocks: BTreeMap<String, Tensor>,
}

fn unet_cases(tensors: HashMap<String, Tensor>) -> BTreeMap<String, UnetCase> {
    let mut cases = BTreeMap::<String, UnetCase>::new();
    for (key, tensor) in tensors {
        let (case, name) = key.split_once('.').unwrap();
        let case = cases.entry(case.to_string()).or_default();
        match name {
            "sample" | "audio" | "timestep" | "output" => case.inputs.insert(name.to_string(), tensor),
            block => case.blocks.insert(block.to_string(), tensor),
        };
    }
    cases
}

#[test]
fn unet_small() -> Result<()> {
    let Some(golden) = Golden::open() else {
        return Ok(());
    };
    let Some(model) = small(&golden) else {
        return Ok(());
    };
    let Some(tensors) = golden.tensors(model.join("unet_golden.safetensors")) else {
        return Ok(());
    };
    let unet = load_unet(&golden, &model, DType::F32)?;
    let cases = unet_cases(tensors);
    assert!(!cases.is_empty(), "unet_golden has no case");
    for (name, mut case) in cases {
        let sample = to_channels_last(&case.inputs["sample"])?;
        let timestep = case.inputs["timestep"].to_vec1::<i64>()?[0] as usize;
        let context = unet.context(&case.inputs["audio"])?;
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
        let (output, _) = unet.forward_observed(&sample, timestep, &context, &mut observe)?;
        let error = relative_error(&output, &to_channels_last(&case.inputs["output"])?)?;
        eprintln!("{name}: output: {error:.1e}");
        assert!(error <= TOLERANCE, "{name}: output: {error:.1e}");
        let unseen: Vec<_> = case.blocks.keys().collect();
        assert!(unseen.is_empty(), "{name}: blocks never reached: {unseen:?}");
    }
    Ok(())
}

/// On the sample and the step of the full pass itself, DeepCache's shallow pass computes the same thing.
#[test]
fn unet_shallow_pass_repeats_the_full_one() -> Result<()> {
    let Some(golden) = Golden::open() else {
        return Ok(());
    };
    let Some(model) = small(&golden) else {
        return Ok(());
    };
    let Some(tensors) = golden.tensors(model.join("unet_golden.safetensors")) else {
        return Ok(());
    };
    let unet = load_unet(&golden, &model, DType::F32)?;
    let Some((_, case)) = unet_cases(tensors).pop_first() else {
        panic!("unet_golden has no case");
    };
    let sample = to_channels_last(&case.inputs["sample"])?;
    let context = unet.context(&case.inputs["audio"])?;
    let (full, cached) = unet.forward_full(&sample, 500, &context)?;
    let shallow = unet.forward_shallow(&sample, 500, &context, &cached)?;
    assert!(relative_error(&shallow, &full)? <= 1e-6);
    // What is fresh in it is `conv_in`. (A small checkpoint may not show the step: a norm with a group for
    // every channel takes away what the time embedding adds.)
    let other = unet.forward_shallow(&(sample * 0.5)?, 500, &context, &cached)?;
    let change = relative_error(&other, &full)?;
    assert!(change > 1e-2, "the sample has no effect: {change:.1e}");
    Ok(())
}

/// The old names of the VAE's attention, as the published file has them.
fn rename_attention(key: String) -> String {
    if !key.contains(".attentions.") {
        return key;
    }
    [(".query.", ".to_q."), (".key.", ".to_k."), (".value.", ".to_v."), (".proj_attn.", ".to_out.0.")]
        .iter()
        .fold(key, |key, (old, new)| key.replace(old, new))
}

pub fn vae_weights(dir: &Path) -> HashMap<String, Tensor> {
    let path = dir.join("diffusion_pytorch_model.safetensors");
    if path.exists() {
        return candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    }
    let tensors = pickle::read_all(dir.join("diffusion_pytorch_model.bin")).unwrap();
    tensors.into_iter().map(|(key, tensor)| (rename_attention(key), tensor)).collect()
}

fn vae_small(directory: &str) -> Result<()> {
    let Some(golden) = Golden::open() else {
        return Ok(());
    };
    let Some(model) = small(&golden) else {
        return Ok(());
    };
    let Some(tensors) = golden.tensors(model.join("vae_golden.safetensors")) else {
        return Ok(());
    };
    let dir = golden.path(&model).join(directory);
    if !dir.exists() {
        eprintln!("skipped: the golden set has no `{}`", dir.display());
        return Ok(());
    }
    let vb = VarBuilder::from_tensors(vae_weights(&dir), DType::F32, &Device::Cpu);
    let vae = AutoencoderKL::load(&vae_config(&dir.join("config.json")), vb)?;
    let golden_tensor = |name: &str| image_channels_last(&tensors[name]);

    let posterior = vae.encode(&golden_tensor("image")?)?;
    let sample = posterior.sample(&golden_tensor("noise")?)?;
    let decoded = vae.decode(&golden_tensor("latent_in")?)?;
    for (name, out) in
        [("mean", &posterior.mean), ("logvar", &posterior.logvar), ("sample", &sample), ("decoded", &decoded)]
    {
        let error = relative_error(out, &golden_tensor(name)?)?;
        eprintln!("{directory}: {name}: {error:.1e}");
        assert!(error <= TOLERANCE, "{directory}: {name}: {error:.1e}");
    }
    Ok(())
}

#[test]
fn vae_small_new_names() -> Result<()> {
    vae_small("vae")
}

#[test]
fn vae_small_old_names() -> Result<()> {
    vae_small("vae_old_names")
}

#[test]
fn ddim() -> Result<()> {
    let Some(golden) = Golden::open() else {
        return Ok(());
    };
    let Some(model) = small(&golden) else {
        return Ok(());
    };
    let Some(tensors) = golden.tensors(model.join("ddim_golden.safetensors")) else {
        return Ok(());
    };
    let mut schedules = 0;
    for (key, timesteps) in &tensors {
        let Some(steps) = key.strip_prefix("timesteps_") else {
            continue;
        };
        let schedule = DdimSchedule::new(steps.parse().unwrap())?;
        let want: Vec<usize> = timesteps.to_vec1::<i64>()?.into_iter().map(|t| t as usize).collect();
        assert_eq!(schedule.timesteps(), want, "{steps} steps");
        schedules += 1;

        let mut sample = tensors[&format!("x_start_{steps}")].clone();
        for (i, &timestep) in schedule.timesteps().iter().enumerate() {
            let Some(noise) = tensors.get(&format!("eps_{steps}_{i}")) else {
                assert!(i > 0, "{steps} steps: no step to compare");
                break;
            };
            sample = schedule.step(noise, timestep, &sample)?;
            let error = relative_error(&sample, &tensors[&format!("x_{steps}_{i}")])?;
            eprintln!("{steps} steps, step {i}: {error:.1e}");
            assert!(error <= 1e-5, "{steps} steps, step {i}: {error:.1e}");
        }
    }
    assert!(schedules > 0, "ddim_golden has no schedule");
    Ok(())
}

/// The generator makes the small checkpoint's weights again, bit for bit.
#[test]
fn synthetic_weights_are_the_golden_ones() -> Result<()> {
    let Some(golden) = Golden::open() else {
        return Ok(());
    };
    let Some(model) = small(&golden) else {
        return Ok(());
    };
    let dir = golden.path(&model);
    let tag = &golden.manifest.tag;
    for (part, gain, tensors) in
        [("unet", 1.0, unet_weights(&dir)), ("vae", 1.2, vae_weights(&dir.join("vae")))]
    {
        let synthetic = Synthetic::new(format!("{tag}.{part}."), gain);
        assert!(!tensors.is_empty(), "{part}: no weights");
        for (key, want) in tensors {
            let out = synthetic.tensor(&key, want.shape())?;
            if key.ends_with(".pe") {
                // A formula, not the generator: PyTorch's sine differs in the last bit.
                let error = (out - want)?.abs()?.max_all()?.to_scalar::<f32>()?;
                assert!(error <= 1e-5, "{part}: {key}: {error:.1e}");
            } else {
                let (out, want) = (out.flatten_all()?, want.flatten_all()?);
                assert!(out.to_vec1::<f32>()? == want.to_vec1::<f32>()?, "{part}: {key}");
            }
        }
    }
    Ok(())
}
