//! Log-mel, Whisper's residual stream and the windows of the UNet, on every audio file of the set.
//!
//! The references were made by the original: FFmpeg's command line to 16 kHz, its own spectrogram, and its
//! encoder on the set's small checkpoint.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Result, Tensor};
use latentsync::ModelChoice;
use latentsync::stages::audio_features::{AudioFeatures, load_speech};
use latentsync::weights::{Checkpoint, HubSettings};
use models::mel::log_mel;
use models::whisper::{WhisperDims, WhisperEncoder};

use crate::common::{Golden, relative_error};

/// Log-mel, absolute.
const MEL_TOLERANCE: f64 = 1e-4;
/// Features and windows, relative.
const EXACT_TOLERANCE: f64 = 1e-3;
/// The same where the sound was compressed or of another rate, so that resamplers differ.
const RESAMPLED_TOLERANCE: f64 = 2e-2;
/// What an AAC encoder appends to fill its last frame, at most, in mel frames: the engine leaves it out of MP4s,
/// FFmpeg 5, and so the original, does not.
const PADDING_FRAMES: usize = 13;

struct Case<'a> {
    name: &'a str,
    golden: &'a HashMap<String, Tensor>,
    /// 16 kHz mono PCM: nothing but the networks stands between the file and the reference.
    exact: bool,
}

impl Case<'_> {
    fn want(&self, key: &str) -> Option<&Tensor> {
        let want = self.golden.get(&format!("{}.{key}", self.name));
        if want.is_none() {
            eprintln!("skipped: the golden set has no `{}.{key}`", self.name);
        }
        want
    }

    fn shape(&self, key: &str) -> Result<Option<Vec<usize>>> {
        let Some(want) = self.want(key) else {
            return Ok(None);
        };
        let sizes: Vec<i64> = want.to_vec1()?;
        Ok(Some(sizes.into_iter().map(|size| size as usize).collect()))
    }

    fn compare_features(&self, key: &str, got: impl FnOnce(usize) -> Result<Tensor>) -> Result<()> {
        let Some(want) = self.want(key) else {
            return Ok(());
        };
        let error = relative_error(&got(want.dim(0)?)?, want)?;
        let tolerance = if self.exact { EXACT_TOLERANCE } else { RESAMPLED_TOLERANCE };
        eprintln!("{}.{key}: {error:.2e}", self.name);
        assert!(error <= tolerance, "{}.{key}: {error:.2e} > {tolerance:.0e}", self.name);
        Ok(())
    }

    fn compare_mel(&self, key: &str, got: impl FnOnce(usize) -> Result<Tensor>) -> Result<()> {
        let Some(want) = self.want(key) else {
            return Ok(());
        };
        let got = got(want.dim(1)?)?;
        assert_eq!(got.dims(), want.dims(), "{}.{key}", self.name);
        let error = f64::from((got - want)?.abs()?.max_all()?.to_scalar::<f32>()?);
        eprintln!("{}.{key}: {error:.2e} absolute", self.name);
        assert!(!self.exact || error <= MEL_TOLERANCE, "{}.{key}: {error:.2e}", self.name);
        Ok(())
    }
}

#[test]
fn log_mel_whisper_features_and_windows() -> Result<()> {
    let Some(set) = Golden::open() else {
        return Ok(());
    };
    let Some(model) = &set.manifest.model else {
        eprintln!("skipped: the golden set has no small checkpoint");
        return Ok(());
    };
    let Some(golden) = set.tensors(model.join("whisper_golden.safetensors")) else {
        return Ok(());
    };
    let encoder = load_encoder(&set.path(model)).unwrap_or_else(|e| panic!("{}: {e}", model.display()));
    assert!(!set.manifest.audio.is_empty(), "the manifest names no audio");
    for file in &set.manifest.audio {
        let path = set.path(file);
        let name = file.file_stem().and_then(|stem| stem.to_str()).expect("a file name");
        let case = Case { name, golden: &golden, exact: is_16_khz_mono(&path) };
        compare(&case, &path, &encoder)?;
    }
    Ok(())
}

fn compare(case: &Case, path: &Path, encoder: &WhisperEncoder) -> Result<()> {
    let name = case.name;
    let speech = load_speech(path).unwrap_or_else(|e| panic!("{name}: {e}"));
    let mel = log_mel(&speech.samples, encoder.dims().n_mels)?;
    let mel_frames = mel.dim(1)?;
    let want_frames = case.shape("mel_frames")?.map(|want| want[0]);
    let padding = want_frames.map_or(0, |want| want.saturating_sub(mel_frames));
    if !case.exact && (1..=PADDING_FRAMES).contains(&padding) {
        eprintln!(
            "skipped: the ends of `{name}`, {padding} mel frames of padding that the original took for sound"
        );
    } else if let Some(want) = want_frames {
        assert_eq!(mel_frames, want, "{name}: mel frames");
    }
    let whole = padding == 0;
    case.compare_mel("mel", |frames| mel.narrow(1, 0, frames))?;
    if whole {
        case.compare_mel("mel_tail", |frames| mel.narrow(1, mel_frames - frames, frames))?;
    }

    let started = std::time::Instant::now();
    let features = encoder.features(&mel)?;
    eprintln!("{name}: {:.2} s of sound encoded in {:.2?}", speech.duration_seconds, started.elapsed());
    let rows = features.dim(0)?;
    if let Some(want) = case.shape("features_shape")? {
        assert_eq!(features.dims()[1..], want[1..], "{name}: features");
        assert!(!whole || rows == want[0], "{name}: {rows} rows, {} expected", want[0]);
    }
    case.compare_features("features_head", |n| features.narrow(0, 0, n))?;
    if whole {
        case.compare_features("features_tail", |n| features.narrow(0, rows - n, n))?;
    }
    // Stretches from the middle: `features_A_B` are the rows A to B.
    let prefix = format!("{name}.features_");
    for key in case.golden.keys().filter_map(|key| key.strip_prefix(&prefix)) {
        let bounds: Option<Vec<usize>> = key.split('_').map(|bound| bound.parse().ok()).collect();
        if let Some([first, end]) = bounds.as_deref() {
            case.compare_features(&format!("features_{key}"), |_| features.narrow(0, *first, end - first))?;
        }
    }

    let windows = AudioFeatures::compute(encoder, &speech, [2, 2]).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert_eq!(windows.rows(), rows, "{name}: rows");
    let window = |frame: usize| windows.window(frame).map_err(candle_core::Error::wrap);
    let count = windows.reference_frames();
    let first = window(0)?;
    let want = case.shape("chunks_shape")?;
    if let Some(want) = &want {
        assert_eq!(first.dims(), &want[1..], "{name}: windows");
        assert!(!whole || count == want[0], "{name}: {count} windows, {} expected", want[0]);
    }
    case.compare_features("chunk_0", |_| Ok(first))?;
    case.compare_features("chunk_mid", |_| window(want.map_or(count, |want| want[0]) / 2))?;
    if whole {
        case.compare_features("chunk_last", |_| window(count - 1))?;
    }
    Ok(())
}

/// Whether the original read the samples of this file as they are.
fn is_16_khz_mono(path: &Path) -> bool {
    hound::WavReader::open(path).is_ok_and(|wav| {
        let spec = wav.spec();
        (spec.sample_rate, spec.channels, spec.bits_per_sample) == (16_000, 1, 16)
    })
}

/// The Whisper of the set's checkpoint.
fn load_encoder(model: &Path) -> latentsync::Result<WhisperEncoder> {
    let source = ModelChoice::Directory(model.to_path_buf());
    let checkpoint = Checkpoint::open(&source, &HubSettings::from_env())?;
    let dims: WhisperDims = checkpoint.whisper_dims()?;
    checkpoint.load_whisper(DType::F32, &Device::Cpu, |vb| WhisperEncoder::load(&dims, vb))
}
