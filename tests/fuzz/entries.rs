//! What is fuzzed: every parser that takes bytes from someone else, as a function of bytes. Shared by the fuzz
//! targets, which look for inputs that panic, hang or eat the memory, and by `tests/fuzz_corpus.rs`, which
//! repeats the inputs that were found. What the parsers return is of no interest here.

use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};
use latentsync::fuzzing;
use latentsync::input::local_path;
use latentsync::request::{Api, Request};
use latentsync::weights::Manifest;
use models::face::{ChannelOrder, InsightFace, ShapePredictor};
use models::unet::UNet3D;
use models::vae::{AutoencoderKL, AutoencoderKLConfig};
use models::whisper::{WhisperDims, WhisperEncoder};

/// A parser, fed with anything.
pub type Entry = fn(&[u8]);

/// The targets: each is a binary of the fuzz crate and a directory of the corpus.
pub const ENTRIES: [(&str, Entry); 8] = [
    ("request", request),
    ("anchors", anchors),
    ("manifest", manifest),
    ("network_config", network_config),
    ("pickle", pickle),
    ("tensor_file", tensor_file),
    ("onnx", onnx),
    ("shape_predictor", shape_predictor),
];

/// The bodies of the hosted APIs, as each of them and as the one that they look like.
pub fn request(bytes: &[u8]) {
    let Ok(body) = serde_json::from_slice(bytes) else { return };
    for api in Api::ALL.into_iter().map(Some).chain([None]) {
        if let Ok(request) = Request::from_json(&body, api) {
            let _ = local_path(&request.video, Path::new("/nowhere"));
            let _ = local_path(&request.audio, Path::new("/nowhere"));
        }
    }
}

/// Anchor files.
pub fn anchors(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = fuzzing::anchors(text);
    }
}

/// Lists of published files.
pub fn manifest(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = Manifest::from_json(text);
    }
}

/// `unet_config.yaml`, the VAE's `config.json` and Whisper's dimensions, and the networks that they describe, as
/// far as small weights go.
pub fn network_config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(config) = fuzzing::unet_config(text) {
        let _ = UNet3D::load(&config, small_weights());
    }
    if let Ok(config) = serde_json::from_str::<AutoencoderKLConfig>(text) {
        let _ = AutoencoderKL::load(&config, small_weights());
    }
    if let Ok(dims) = serde_json::from_str::<WhisperDims>(text) {
        let _ = WhisperEncoder::load(&dims, small_weights());
    }
}

/// The pickle inside a PyTorch checkpoint, without the archive, whose checksums hide it from a fuzzer.
pub fn pickle(bytes: &[u8]) {
    let _ = fuzzing::pickle(bytes);
}

/// PyTorch's archives and safetensors files, opened, and tensors copied out.
pub fn tensor_file(bytes: &[u8]) {
    let _ = fuzzing::tensor_file(in_a_file(bytes).path(), 8);
}

/// ONNX files.
pub fn onnx(bytes: &[u8]) {
    let file = in_a_file(bytes);
    let _ = InsightFace::open(file.path(), file.path(), ChannelOrder::Rgb);
}

/// dlib's shape predictors.
pub fn shape_predictor(bytes: &[u8]) {
    let _ = ShapePredictor::open(in_a_file(bytes).path());
}

fn in_a_file(bytes: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(bytes).expect("a written file");
    file
}

/// Weights that are zero, in any shape, until there were a quarter of a million of them.
fn small_weights() -> VarBuilder<'static> {
    let backend = SmallWeights { left: AtomicUsize::new(1 << 18) };
    VarBuilder::from_backend(Box::new(backend), DType::F32, Device::Cpu)
}

struct SmallWeights {
    left: AtomicUsize,
}

impl SimpleBackend for SmallWeights {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: Init,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        let count = shape.dims().iter().try_fold(1_usize, |count, &size| count.checked_mul(size));
        let left = self.left.load(Ordering::Relaxed);
        match count.and_then(|count| left.checked_sub(count)) {
            Some(rest) => self.left.store(rest, Ordering::Relaxed),
            None => candle_core::bail!("`{name}` is too large for a test"),
        }
        Tensor::zeros(shape, dtype, device)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        candle_core::bail!("`{name}` has no shape")
    }

    fn contains_tensor(&self, _: &str) -> bool {
        true
    }
}
