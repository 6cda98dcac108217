//! The fuzzed functions: every parser of untrusted bytes. The fuzz targets search for inputs that panic, hang or
//! exhaust the memory; `tests/fuzz_corpus.rs` repeats the inputs that they found. Results of the parsers are ignored.

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

/// A parser of arbitrary bytes.
pub type Entry = fn(&[u8]);

/// The targets by name: each is a binary of the fuzz crate and a directory of the corpus.
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

/// Request bodies of the hosted APIs, parsed as each API and with detection of the API.
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

/// Manifests of published files.
pub fn manifest(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = Manifest::from_json(text);
    }
}

/// `unet_config.yaml`, the VAE's `config.json` and Whisper's dimensions, and loading of the networks that they
/// describe with a limited number of weights.
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

/// The pickle of a PyTorch checkpoint, without the archive: its checksums would block a fuzzer.
pub fn pickle(bytes: &[u8]) {
    let _ = fuzzing::pickle(bytes);
}

/// PyTorch archives and safetensors files, and reading of their tensors.
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

/// Zero weights of any shape, up to 2¹⁸ elements in total.
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
