//! The small model's checkpoint: its weights as the published files store them, and the generator's agreement with
//! them.

use std::collections::HashMap;

use candle_core::{DType, Device, Result, Tensor, pickle};
use latentsync::ModelChoice;
use latentsync::weights::{Checkpoint, HubSettings};
use models::whisper::{WhisperDims, WhisperEncoder};

use crate::golden::GoldenSet;
use crate::networks::{VAE_GAIN, generated_weights};

pub fn model(set: &GoldenSet) -> ModelChoice {
    ModelChoice::Directory(set.path(&set.manifest.model))
}

pub fn unet_weights(set: &GoldenSet) -> HashMap<String, Tensor> {
    let path = set.model_path("latentsync_unet.pt");
    let tensors = pickle::read_all_with_key(path, Some("state_dict")).unwrap();
    tensors.into_iter().collect()
}

/// The new name of an attention layer's key; the published VAE has the old ones.
fn rename_attention(key: String) -> String {
    if !key.contains(".attentions.") {
        return key;
    }
    [(".query.", ".to_q."), (".key.", ".to_k."), (".value.", ".to_v."), (".proj_attn.", ".to_out.0.")]
        .iter()
        .fold(key, |key, (old, new)| key.replace(old, new))
}

pub fn vae_weights(set: &GoldenSet, directory: &str) -> HashMap<String, Tensor> {
    let directory = set.model_path(directory);
    let path = directory.join("diffusion_pytorch_model.safetensors");
    if path.exists() {
        return candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    }
    let tensors = pickle::read_all(directory.join("diffusion_pytorch_model.bin")).unwrap();
    tensors.into_iter().map(|(key, tensor)| (rename_attention(key), tensor)).collect()
}

pub fn load_whisper(set: &GoldenSet) -> Result<WhisperEncoder> {
    let checkpoint = Checkpoint::open(&model(set), &HubSettings::from_env())
        .unwrap_or_else(|e| panic!("{}: {e}", set.dir.display()));
    let dims: WhisperDims = checkpoint.whisper_dims().map_err(candle_core::Error::wrap)?;
    checkpoint
        .load_whisper(DType::F32, &Device::Cpu, |vb| WhisperEncoder::load(&dims, vb))
        .map_err(candle_core::Error::wrap)
}

fn whisper_weights(set: &GoldenSet) -> HashMap<String, Tensor> {
    let path = set.model_path("whisper/tiny.pt");
    let tensors = pickle::read_all_with_key(path, Some("model_state_dict")).unwrap();
    tensors.into_iter().filter(|(key, _)| key.starts_with("encoder.")).collect()
}

/// The generator reproduces the weights of the checkpoint bit for bit, so that tests without it prove the same.
#[test]
#[ignore = "needs the shared material"]
fn generated_weights_equal_the_checkpoint() -> Result<()> {
    let set = GoldenSet::shared();
    for (network, gain, tensors) in [
        ("unet", 1.0, unet_weights(&set)),
        ("vae", VAE_GAIN, vae_weights(&set, "vae")),
        ("whisper", 1.0, whisper_weights(&set)),
    ] {
        let generated = generated_weights(&set, network, gain);
        assert!(!tensors.is_empty(), "{network}: no weights");
        for (key, want) in tensors {
            let out = generated.tensor(&key, want.shape())?.to_dtype(want.dtype())?;
            if key.ends_with(".pe") || key == "encoder.positional_embedding" {
                // A formula: PyTorch's sine may differ in the last bit.
                let error = (out - want)?.abs()?.max_all()?.to_dtype(DType::F32)?.to_scalar::<f32>()?;
                let tolerance = if network == "whisper" { 1e-3 } else { 1e-5 };
                assert!(error <= tolerance, "{network}: {key}: {error:.1e}");
            } else {
                let bits = |x: &Tensor| x.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>();
                assert!(bits(&out)? == bits(&want)?, "{network}: {key}");
            }
        }
    }
    Ok(())
}
