//! Opening checkpoints.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use latentsync::system;
use latentsync::weights::{BatchSize, Checkpoint, HubSettings, Package, Role, shape_predictor};
use latentsync::weights::{Error, MissingPart, Result};
use latentsync::{ErrorKind, ModelChoice};

use crate::pt;

const CPU: Device = Device::Cpu;

/// A `unet_config.yaml` with the keys that opening a checkpoint reads.
pub fn config(resolution: usize, audio_width: usize) -> String {
    format!(
        "data:\n  num_frames: 16\n  resolution: {resolution}\nmodel:\n  cross_attention_dim: {audio_width}\n  norm_eps: 1e-5\n"
    )
}

pub fn write(path: impl AsRef<Path>, bytes: impl AsRef<[u8]>) {
    fs::create_dir_all(path.as_ref().parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

pub fn safetensors(tensors: &[(&str, Tensor)], notes: &[(&str, &str)]) -> Vec<u8> {
    let notes: HashMap<String, String> =
        notes.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    safetensors::serialize(tensors.iter().map(|(key, tensor)| (*key, tensor.clone())), Some(notes)).unwrap()
}

/// One tensor of six numbers, as `latentsync_unet.pt` holds it.
pub fn unet_pt() -> Vec<u8> {
    let tensor = pt::Pickled {
        key: "conv_in.weight",
        class: "FloatStorage",
        storage: ("0", 6),
        offset: 0,
        shape: &[2, 3],
        strides: &[3, 1],
    };
    let numbers = pt::f32_bytes(&[0.1, 1.1, 2.1, 3.1, 4.1, 5.1]);
    pt::archive(&pt::pickle(Some("state_dict"), &[tensor]), &[("0", &numbers)])
}

/// A VAE of two attention layers with the old names of the published file; one weight is a 1 × 1 convolution.
fn old_vae() -> Vec<u8> {
    let linear = Tensor::arange(0f32, 4., &CPU).unwrap().reshape((2, 2)).unwrap();
    let convolution = linear.reshape((2, 2, 1, 1)).unwrap();
    let bias = Tensor::zeros(2, DType::F32, &CPU).unwrap();
    safetensors(
        &[
            ("decoder.mid_block.attentions.0.query.weight", convolution.clone()),
            ("decoder.mid_block.attentions.0.proj_attn.weight", linear),
            ("decoder.mid_block.attentions.0.proj_attn.bias", bias),
            ("quant_conv.weight", convolution),
        ],
        &[],
    )
}

pub fn whisper(width: usize) -> Vec<u8> {
    let numbers = Tensor::zeros(2, DType::F16, &CPU).unwrap();
    let dims = format!("{{\"n_audio_state\":{width}}}");
    let tensors = [("encoder.conv1.bias", numbers.clone()), ("decoder.ln.bias", numbers)];
    safetensors(&tensors, &[("dims", &dims)])
}

const VAE_CONFIG: &str = r#"{"scaling_factor": 0.18215, "block_out_channels": [32], "layers_per_block": 1,
    "down_block_types": ["DownEncoderBlock2D"], "up_block_types": ["UpDecoderBlock2D"]}"#;

/// Writes a complete checkpoint for faces of 128 × 128 pixels to `root`.
pub fn small_checkpoint(root: &Path) {
    write(root.join("latentsync_unet.pt"), unet_pt());
    write(root.join("unet_config.yaml"), config(128, 48));
    write(root.join("vae/config.json"), VAE_CONFIG);
    write(root.join("vae/diffusion_pytorch_model.safetensors"), old_vae());
    write(root.join("whisper/tiny.safetensors"), whisper(48));
}

/// Settings of an empty, offline cache.
pub fn no_hub(root: &Path) -> HubSettings {
    let home = root.join("home").to_str().unwrap().to_owned();
    HubSettings::from_vars(|name| match name {
        "HF_HOME" => Some(home.clone()),
        "HF_HUB_OFFLINE" => Some("1".into()),
        _ => None,
    })
}

pub fn open(root: &Path) -> Result<Checkpoint> {
    Checkpoint::open(&ModelChoice::Directory(root.to_owned()), &no_hub(root))
}

fn refusal(root: &Path) -> Error {
    open(root).unwrap_err()
}

#[test]
fn a_directory_is_opened_and_its_networks_are_built() {
    let dir = tempfile::tempdir().unwrap();
    small_checkpoint(dir.path());
    let checkpoint = open(dir.path()).unwrap();
    assert_eq!((checkpoint.resolution(), checkpoint.num_frames()), (128, 16));
    assert_eq!(checkpoint.audio_feat_length(), [2, 2]);
    let model: HashMap<String, f64> = checkpoint.unet_config().unwrap();
    assert_eq!(model["norm_eps"], 1e-5);
    let vae: HashMap<String, serde_json::Value> = checkpoint.vae_config().unwrap();
    assert_eq!(vae["scaling_factor"], 0.18215);
    let dims: HashMap<String, i64> = checkpoint.whisper_dims().unwrap();
    assert_eq!(dims["n_audio_state"], 48);

    let unet = checkpoint.load_unet(DType::F32, &CPU, |vb| vb.pp("conv_in").get((2, 3), "weight")).unwrap();
    assert_eq!(unet.to_vec2::<f32>().unwrap(), [[0.1, 1.1, 2.1], [3.1, 4.1, 5.1]]);
    let attention = checkpoint
        .load_vae(DType::F32, &CPU, |vb| {
            vb.get((2, 2, 1, 1), "quant_conv.weight")?;
            let vb = vb.pp("decoder.mid_block.attentions.0");
            vb.get(2, "to_out.0.bias")?;
            Ok([vb.get((2, 2), "to_q.weight")?, vb.get((2, 2), "to_out.0.weight")?])
        })
        .unwrap();
    for layer in attention {
        assert_eq!(layer.to_vec2::<f32>().unwrap(), [[0., 1.], [2., 3.]]);
    }
    // Keys of the decoder may stay unused, keys of the encoder may not.
    checkpoint.load_whisper(DType::F32, &CPU, |vb| vb.get(2, "encoder.conv1.bias")).unwrap();
    let unused = checkpoint.load_whisper(DType::F32, &CPU, |_| Ok(())).unwrap_err().to_string();
    assert!(unused.ends_with("tiny.safetensors`: unexpected key `encoder.conv1.bias`"), "{unused}");
}

#[test]
fn the_directory_layout_of_the_original_is_accepted() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path().join("checkpoints/latentsync_unet.pt"), unet_pt());
    write(dir.path().join("checkpoints/unet_config.yaml"), config(256, 384));
    write(dir.path().join("checkpoints/whisper/tiny.safetensors"), whisper(384));
    let error = refusal(dir.path());
    assert!(
        error.to_string().contains("has no VAE: looked for `vae/diffusion_pytorch_model.safetensors`"),
        "{error}"
    );
    assert!(matches!(error, Error::Incomplete { part: MissingPart::Vae, .. }), "{error:?}");

    write(dir.path().join("checkpoints/sd-vae-ft-mse/diffusion_pytorch_model.safetensors"), old_vae());
    write(dir.path().join("checkpoints/sd-vae-ft-mse/config.json"), VAE_CONFIG);
    assert_eq!(open(dir.path()).unwrap().resolution(), 256);
}

#[test]
fn missing_files_are_named() {
    let cases = [
        ("latentsync_unet.pt", "has no UNet"),
        ("unet_config.yaml", "has no UNet configuration: looked for `unet_config.yaml`"),
        ("vae/config.json", "has no VAE configuration"),
        ("vae/diffusion_pytorch_model.safetensors", "has no VAE"),
        ("whisper/tiny.safetensors", "has no Whisper: looked for `whisper/tiny.pt`"),
    ];
    for (file, expected) in cases {
        let dir = tempfile::tempdir().unwrap();
        small_checkpoint(dir.path());
        fs::remove_file(dir.path().join(file)).unwrap();
        let error = refusal(dir.path());
        assert!(error.to_string().contains(expected), "{file}: {error}");
        assert!(matches!(error, Error::Incomplete { .. }), "{file}: {error:?}");
    }
    let error = refusal(Path::new("latentsync-1.7"));
    assert!(error.to_string().contains("`latentsync-1.7`: there is no such directory"), "{error}");
}

#[test]
fn a_missing_published_model_names_the_command_that_fetches_it() {
    let dir = tempfile::tempdir().unwrap();
    let error = Checkpoint::open(&"latentsync-1.5".parse().unwrap(), &no_hub(dir.path())).unwrap_err();
    assert!(error.to_string().contains("`latentsync_unet.pt` of latentsync-1.5 is not in"), "{error}");
    assert!(matches!(error, Error::NotPulled { model, .. } if model == "latentsync-1.5"));
}

#[test]
fn a_truncated_published_file_is_detected_by_its_size() {
    let dir = tempfile::tempdir().unwrap();
    let file = Package::LatentSync16.manifest().file(Role::Unet).unwrap();
    let repository = dir.path().join("home/hub/models--ByteDance--LatentSync-1.6");
    write(repository.join("snapshots").join(&file.revision).join(&file.path), "PK\x03\x04");
    let error = Checkpoint::open(&"latentsync-1.6".parse().unwrap(), &no_hub(dir.path())).unwrap_err();
    assert!(error.to_string().ends_with("is truncated: 4 bytes, expected 5072222488"), "{error}");
    assert!(matches!(error, Error::Truncated { model: Some(model), .. } if model == "latentsync-1.6"));
}

/// A converted UNet, with the hash of its source in the metadata.
fn converted_unet(package: Package) -> Vec<u8> {
    let hash = package.manifest().file(Role::Unet).unwrap().sha256.as_deref().unwrap();
    let weight = Tensor::zeros(1, DType::F32, &CPU).unwrap();
    safetensors(&[("conv_in.weight", weight)], &[("source_sha256", hash)])
}

#[test]
fn a_checkpoint_with_the_configuration_of_another_model_is_refused() {
    for (package, is, says) in [(Package::LatentSync15, 256, 512), (Package::LatentSync16, 512, 256)] {
        let dir = tempfile::tempdir().unwrap();
        small_checkpoint(dir.path());
        write(dir.path().join("unet_config.yaml"), config(says, 48));
        write(dir.path().join("latentsync_unet.safetensors"), converted_unet(package));
        let error = refusal(dir.path());
        assert!(
            matches!(&error, Error::ResolutionConflict { is: i, says: s, .. } if (*i, *s) == (is, says)),
            "{error}"
        );
        let message = error.to_string();
        assert!(message.contains(&format!("is {package}, for {is}-pixel faces, but")), "{message}");
        assert!(message.contains(&format!("says {says} pixels")), "{message}");

        write(dir.path().join("unet_config.yaml"), config(is, 48));
        assert_eq!(open(dir.path()).unwrap().resolution(), is);
    }
}

#[cfg(unix)]
#[test]
fn a_link_into_the_cache_is_identified_by_its_blob() {
    let dir = tempfile::tempdir().unwrap();
    small_checkpoint(dir.path());
    let hash = Package::LatentSync15.manifest().file(Role::Unet).unwrap().sha256.clone().unwrap();
    let blob = dir.path().join("blobs").join(hash);
    write(&blob, unet_pt());
    let unet = dir.path().join("latentsync_unet.pt");
    fs::remove_file(&unet).unwrap();
    std::os::unix::fs::symlink(&blob, &unet).unwrap();
    assert!(matches!(refusal(dir.path()), Error::ResolutionConflict { is: 256, says: 128, .. }));

    // Without a configuration file that of the identified model is used, which needs the published Whisper.
    fs::remove_file(dir.path().join("unet_config.yaml")).unwrap();
    write(dir.path().join("whisper/tiny.safetensors"), whisper(384));
    let checkpoint = open(dir.path()).unwrap();
    assert_eq!(checkpoint.resolution(), 256);
    let model: HashMap<String, serde_json::Value> = checkpoint.unet_config().unwrap();
    assert_eq!(model["block_out_channels"], serde_json::json!([320, 640, 1280, 1280]));
}

#[test]
fn a_whisper_of_another_width_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    small_checkpoint(dir.path());
    write(dir.path().join("whisper/tiny.safetensors"), whisper(384));
    let error = refusal(dir.path()).to_string();
    assert!(error.contains("its features have 384 channels") && error.contains("wants 48"), "{error}");
}

#[test]
fn an_unreadable_configuration_is_named() {
    let dir = tempfile::tempdir().unwrap();
    small_checkpoint(dir.path());
    for bad in ["data: {num_frames: 16}", "data: [", "data:\n  num_frames: many\n  resolution: 128\n"] {
        write(dir.path().join("unet_config.yaml"), bad);
        let error = refusal(dir.path()).to_string();
        assert!(error.contains("unet_config.yaml`: "), "{error}");
    }
}

#[test]
fn an_invalid_configuration_is_refused_by_key() {
    let dir = tempfile::tempdir().unwrap();
    small_checkpoint(dir.path());
    let good = config(128, 48);
    let feat = "resolution: 128\n  audio_feat_length: [2, 51]";
    for (from, to, message) in [
        ("num_frames: 16", "num_frames: 0", "`data.num_frames` is 0: it must be 1 to 24"),
        ("num_frames: 16", "num_frames: 25", "`data.num_frames` is 25: it must be 1 to 24"),
        ("resolution: 128", "resolution: 0", "`data.resolution` is 0: it must be a multiple of 8 from 64"),
        ("resolution: 128", "resolution: 100", "`data.resolution` is 100"),
        ("resolution: 128", "resolution: 1048576", "`data.resolution` is 1048576"),
        ("resolution: 128", feat, "`data.audio_feat_length` is [2, 51]"),
    ] {
        write(dir.path().join("unet_config.yaml"), good.replace(from, to));
        let error = refusal(dir.path()).to_string();
        assert!(error.contains("unet_config.yaml`: ") && error.contains(message), "{error}");
    }
    write(dir.path().join("unet_config.yaml"), good);
    write(dir.path().join("vae/config.json"), "{}");
    let error = refusal(dir.path()).to_string();
    assert!(error.contains("config.json`: `block_out_channels` is missing"), "{error}");
}

#[test]
fn the_memory_of_a_model_is_estimated_before_loading() {
    let dir = tempfile::tempdir().unwrap();
    small_checkpoint(dir.path());
    // One latent for each square of 8 pixels, as in the published model.
    let levels = |one: &str| format!("[{}]", [one; 4].join(", "));
    let vae = VAE_CONFIG.replace("[32]", &levels("32"));
    let vae = vae.replace(r#"["DownEncoderBlock2D"]"#, &levels(r#""DownEncoderBlock2D""#));
    let vae = vae.replace(r#"["UpDecoderBlock2D"]"#, &levels(r#""UpDecoderBlock2D""#));
    write(dir.path().join("vae/config.json"), vae);
    let tensor = Tensor::zeros((1000, 1000), DType::F32, &CPU).unwrap();
    fs::remove_file(dir.path().join("latentsync_unet.pt")).unwrap();
    write(dir.path().join("latentsync_unet.safetensors"), safetensors(&[("w", tensor)], &[]));
    let needed = |resolution: usize, dtype| {
        write(dir.path().join("unet_config.yaml"), config(resolution, 48));
        open(dir.path()).unwrap().memory_needs(dtype, &CPU).unwrap().bytes(BatchSize::ONE)
    };
    let small = needed(64, DType::F32);
    // 4 MB of weights in the file, and 236 MB for the CPU's packed weights of the upsampling convolutions, by the
    // configuration.
    assert!((240_000_000..280_000_000).contains(&small), "{small}");
    assert!(needed(64, DType::BF16) < small * 6 / 10);
    assert!(needed(512, DType::F32) - small > 500_000_000, "larger faces are more to compute with");
    let error = system::Error::Memory { needed: 8_500_000_000, available: 4_000_000_000 };
    assert_eq!(error.to_string(), "not enough memory: 8.5 GB needed, 4.0 GB available");
    assert_eq!(latentsync::Error::from(error).kind(), ErrorKind::Device);
}

#[test]
fn a_pickle_with_code_is_refused_and_not_executed() {
    let dir = tempfile::tempdir().unwrap();
    small_checkpoint(dir.path());
    let marker = dir.path().join("ran");
    let command = format!("touch {}", marker.display());
    let mut malicious = b"\x80\x02cposix\nsystem\nX".to_vec();
    malicious.extend((command.len() as u32).to_le_bytes());
    malicious.extend(command.bytes());
    malicious.extend(b"\x85R.");
    write(dir.path().join("latentsync_unet.pt"), pt::archive(&malicious, &[]));
    let error = refusal(dir.path());
    assert!(matches!(&error, Error::Code { name, .. } if name == "posix.system"), "{error}");
    assert!(!marker.exists());
}

#[test]
fn the_landmark_model_is_found_or_the_command_that_fetches_it_is_named() {
    let dir = tempfile::tempdir().unwrap();
    match shape_predictor(&no_hub(dir.path())) {
        Ok(path) => assert_eq!(fs::metadata(path).unwrap().len(), 99_693_937),
        Err(error) => assert!(matches!(error, Error::NotPulled { model, .. } if model == "dlib")),
    }
}
