//! The small checkpoint of the complete golden set, in the published formats.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use latentsync::ModelChoice;
use latentsync::weights::{ConvertOptions, convert};

use crate::checkpoint::{no_hub, open, write};
use crate::shared_material;

const CPU: Device = Device::Cpu;

fn golden_small() -> PathBuf {
    shared_material::directory().join("golden/small")
}

#[test]
#[ignore = "needs the shared material"]
fn networks_load_every_key_of_a_checkpoint_and_of_its_converted_copy() {
    let small = golden_small();
    let dir = tempfile::tempdir().unwrap();
    let options = ConvertOptions {
        source: ModelChoice::Directory(small.clone()),
        output: dir.path().join("bf16"),
        dtype: DType::BF16,
    };
    convert(&options, &no_hub(dir.path()), &mut |_| Ok(())).unwrap();
    for root in [small, options.output] {
        let checkpoint = open(&root).unwrap();
        checkpoint.unet(DType::F32, &CPU).unwrap();
        checkpoint.vae(DType::F32, &CPU).unwrap();
        checkpoint.whisper(DType::F32, &CPU).unwrap();
    }
}

#[test]
#[ignore = "needs the shared material"]
fn both_formats_of_a_vae_have_the_same_weights() {
    let small = golden_small();
    let checkpoint = open(&small).unwrap();
    let dims: HashMap<String, usize> = checkpoint.whisper_dims().unwrap();
    let model: HashMap<String, serde_json::Value> = checkpoint.unet_config().unwrap();
    assert_eq!(model["cross_attention_dim"], dims["n_audio_state"]);
    let old_names = small.join("vae_old_names");
    let dir = tempfile::tempdir().unwrap();
    for file in ["latentsync_unet.pt", "unet_config.yaml", "whisper/tiny.pt"] {
        write(dir.path().join(file), fs::read(small.join(file)).unwrap());
    }
    for file in ["config.json", "diffusion_pytorch_model.bin"] {
        write(dir.path().join("vae").join(file), fs::read(old_names.join(file)).unwrap());
    }
    let keys = {
        let bytes = fs::read(small.join("vae/diffusion_pytorch_model.safetensors")).unwrap();
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        header.tensors().into_iter().map(|(key, info)| (key, info.shape.clone())).collect::<Vec<_>>()
    };
    let load = |root: &Path| {
        let all = |vb: candle_nn::VarBuilder<'_>| {
            keys.iter()
                .map(|(key, shape)| vb.get(shape.as_slice(), key))
                .collect::<candle_core::Result<Vec<_>>>()
        };
        open(root).unwrap().load_vae(DType::F32, &CPU, all).unwrap()
    };
    for ((key, _), (new, old)) in keys.iter().zip(load(&small).into_iter().zip(load(dir.path()))) {
        let error = (new - old).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap();
        assert_eq!(error.to_scalar::<f32>().unwrap(), 0., "{key}");
    }
}
