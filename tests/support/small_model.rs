//! A complete small model for faces of 128 × 128 pixels, with generated weights: a test of the whole engine needs no
//! download and no shared material. It is the model of `tests/data/golden`.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex};

use candle_core::{DType, Device, Result, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use models::synthetic::Synthetic;
use models::unet::{UNet3D, UNet3DConfig};
use models::vae::{AutoencoderKL, AutoencoderKLConfig};
use models::whisper::{WhisperDims, WhisperEncoder};

/// Directory of the model, as `--model` takes it. The first call writes it.
pub fn directory() -> PathBuf {
    static DIRECTORY: LazyLock<PathBuf> = LazyLock::new(|| write().expect("the small model is written"));
    DIRECTORY.clone()
}

#[derive(serde::Deserialize)]
struct UnetFile {
    model: UNet3DConfig,
}

fn write() -> Result<PathBuf> {
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden/small");
    let text = |file: &str| fs::read_to_string(config.join(file));
    let [unet, vae, whisper] = [("unet", 1.0), ("vae", 1.2), ("whisper", 1.0)].map(Recorder::new);

    let unet_file: UnetFile =
        serde_saphyr::from_str(&text("unet_config.yaml")?).expect("a UNet configuration");
    UNet3D::load(&unet_file.model, unet.var_builder())?;
    let vae_config: AutoencoderKLConfig =
        serde_json::from_str(&text("vae/config.json")?).expect("a VAE configuration");
    AutoencoderKL::load(&vae_config, vae.var_builder())?;
    let dims_text = text("whisper/dims.json")?;
    let dims: WhisperDims = serde_json::from_str(&dims_text).expect("dimensions of Whisper");
    WhisperEncoder::load(&dims, whisper.var_builder())?;

    // The name tells models with other weights apart.
    let mut hasher = DefaultHasher::new();
    [&unet, &vae, &whisper].into_iter().for_each(|network| network.hash_shapes(&mut hasher));
    let parent = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let directory = parent.join(format!("small-model-{:016x}", hasher.finish()));
    if directory.is_dir() {
        return Ok(directory);
    }
    // The directory gets its name when it is complete: another test program may be waiting for it.
    let unfinished = tempfile::tempdir_in(parent)?;
    let root = unfinished.path();
    fs::create_dir(root.join("vae"))?;
    fs::create_dir(root.join("whisper"))?;
    for file in ["unet_config.yaml", "vae/config.json"] {
        fs::copy(config.join(file), root.join(file))?;
    }
    unet.save(&root.join("latentsync_unet.safetensors"), None)?;
    vae.save(&root.join("vae/diffusion_pytorch_model.safetensors"), None)?;
    let metadata = HashMap::from([("dims".to_string(), dims_text)]);
    whisper.save(&root.join("whisper/tiny.safetensors"), Some(metadata))?;
    match fs::rename(root, &directory) {
        // Another test program was faster.
        Err(_) if directory.is_dir() => {}
        result => result?,
    }
    Ok(directory)
}

/// Generated weights that record which tensors a network loads.
#[derive(Clone)]
struct Recorder {
    weights: Synthetic,
    tensors: Arc<Mutex<HashMap<String, Tensor>>>,
}

impl Recorder {
    fn new((network, gain): (&str, f64)) -> Self {
        Self { weights: Synthetic::new(format!("golden.{network}."), gain), tensors: Arc::default() }
    }

    fn var_builder(&self) -> VarBuilder<'static> {
        VarBuilder::from_backend(Box::new(self.clone()), DType::F32, Device::Cpu)
    }

    /// Feeds the names and shapes of all tensors, in the order of their names.
    fn hash_shapes(&self, hasher: &mut impl Hasher) {
        let tensors = self.tensors.lock().unwrap();
        let shapes: BTreeMap<&str, &[usize]> =
            tensors.iter().map(|(name, tensor)| (name.as_str(), tensor.dims())).collect();
        shapes.hash(hasher);
    }

    fn save(&self, path: &Path, metadata: Option<HashMap<String, String>>) -> Result<()> {
        let tensors = self.tensors.lock().unwrap();
        Ok(safetensors::serialize_to_file(tensors.iter(), metadata, path)?)
    }
}

impl SimpleBackend for Recorder {
    fn get(&self, shape: Shape, name: &str, _: Init, dtype: DType, device: &Device) -> Result<Tensor> {
        let tensor = self.weights.tensor(name, &shape)?;
        self.tensors.lock().unwrap().insert(name.to_string(), tensor.clone());
        tensor.to_dtype(dtype)?.to_device(device)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        self.weights.get_unchecked(name, dtype, device)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.weights.contains_tensor(name)
    }
}
