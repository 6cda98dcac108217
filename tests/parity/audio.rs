//! Log-mel, Whisper's residual stream and the windows of the UNet, on every audio file of the set.
//!
//! The references were made by the original: FFmpeg's command line to 16 kHz, its own spectrogram, and its
//! encoder on the set's small checkpoint.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use candle_core::{DType, Device, Result, Tensor};
use latentsync::ModelChoice;
use latentsync::audio::load_speech;
use latentsync::stages::audio_features::{AudioFeatures, Windows};
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

    let windows = AudioFeatures::compute(encoder, &speech, [2, 2], Windows::EndToEnd)
        .unwrap_or_else(|e| panic!("{name}: {e}"));
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

/// Rows of features as one tensor, (rows, layers × channels), by way of windows without neighbours.
fn rows(features: &AudioFeatures, rows: Range<usize>) -> Result<Tensor> {
    let frames = rows.start / 2..rows.end.div_ceil(2);
    let parts = frames
        .map(|frame| {
            let two = features.window(frame).map_err(candle_core::Error::wrap)?;
            two.reshape((2, two.elem_count() / 2))
        })
        .collect::<Result<Vec<_>>>()?;
    Tensor::cat(&parts, 0)?.narrow(0, rows.start % 2, rows.len())
}

/// How far each row is from the one before it.
fn steps(rows: &Tensor) -> Result<Vec<f32>> {
    let n = rows.dim(0)? - 1;
    (rows.narrow(0, 1, n)? - rows.narrow(0, 0, n)?)?.sqr()?.sum(1)?.sqrt()?.to_vec1()
}

fn median(values: &[f32]) -> f32 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f32::total_cmp);
    sorted[sorted.len() / 2]
}

/// The steps between neighbouring rows, as multiples of the usual one, at the seams of both ways to divide a recording,
/// and how far the rows there are from those of windows that have each row in their middle.
#[test]
fn overlapping_windows_take_the_jump_out_of_long_recordings() -> Result<()> {
    let Some(set) = Golden::open() else {
        return Ok(());
    };
    let long = set.manifest.audio.iter().find(|path| path.ends_with("speech_48s.wav"));
    let (Some(model), Some(path)) = (&set.manifest.model, long) else {
        eprintln!("skipped: the golden set has no small checkpoint or no `speech_48s.wav`");
        return Ok(());
    };
    let encoder = load_encoder(&set.path(model)).unwrap_or_else(|e| panic!("{}: {e}", model.display()));
    let speech = load_speech(set.path(path)).unwrap_or_else(|e| panic!("{e}"));
    let mel = log_mel(&speech.samples, encoder.dims().n_mels)?;
    let compute = |windows| AudioFeatures::compute(&encoder, &speech, [0, 0], windows).unwrap();
    let [apart, overlapping] = [Windows::EndToEnd, Windows::Overlapping].map(compute);
    let half = encoder.window_frames() / 2;
    let centred = |range: Range<usize>| {
        let row = |row: usize| {
            let features = encoder.window_features(&mel, 2 * row - half..2 * row + half)?;
            features.narrow(0, half / 2, 1)?.flatten_from(1)
        };
        Tensor::cat(&range.map(row).collect::<Result<Vec<_>>>()?, 0)
    };
    let usual = median(&steps(&rows(&overlapping, 0..overlapping.rows())?)?);
    // 30 s, where the original's first window ends, and 24 s, the middle of what two windows of 30 s share in 48 s.
    for (name, seam) in [("30 s", 1500), ("24 s", 1200)] {
        let around = seam - 50..seam + 50;
        let truth = centred(around.clone())?;
        let figures = |which: &str, got: Tensor| {
            let steps = steps(&got)?;
            let at = steps[around.len() / 2 - 1] / usual;
            let largest = steps.iter().copied().fold(0.0, f32::max) / usual;
            let error = relative_error(&got, &truth)?;
            eprintln!(
                "{name}, {which}: {at:.2} usual steps, largest nearby {largest:.2}, error {error:.3} against centred"
            );
            Ok::<_, candle_core::Error>((at, largest, error))
        };
        figures("centred", truth.clone())?;
        let (jump, _, error_apart) = figures("end to end", rows(&apart, around.clone())?)?;
        let (_, largest, error) = figures("overlapping", rows(&overlapping, around.clone())?)?;
        assert!(seam != 1500 || jump > 3.0, "end to end jumps by {jump} usual steps at {name}");
        assert!(largest < 2.0, "overlapping windows jump by {largest} usual steps near {name}");
        assert!(error < error_apart, "{name}: {error}, end to end {error_apart}");
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
fn load_encoder(model: &Path) -> latentsync::weights::Result<WhisperEncoder> {
    let source = ModelChoice::Directory(model.to_path_buf());
    let checkpoint = Checkpoint::open(&source, &HubSettings::from_env())?;
    let dims: WhisperDims = checkpoint.whisper_dims()?;
    checkpoint.load_whisper(DType::F32, &Device::Cpu, |vb| WhisperEncoder::load(&dims, vb))
}
