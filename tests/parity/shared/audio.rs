//! Log-mel, Whisper features and the audio windows of the UNet, on every recording of the set.
//!
//! The original computed the golden outputs: FFmpeg's command line to 16 kHz, its own spectrogram, and its encoder with
//! the set's small checkpoint.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use candle_core::{Result, Tensor};
use latentsync::audio::load_speech;
use latentsync::stages::audio_features::{AudioFeatures, Windows};
use models::mel::log_mel;
use models::whisper::WhisperEncoder;

use crate::audio::TOLERANCE as EXACT_TOLERANCE;
use crate::golden::{GoldenSet, relative_error};
use crate::networks::load_whisper;

/// Absolute error of the log-mel spectrogram.
const MEL_TOLERANCE: f64 = 1e-4;
/// Relative error of features and windows of a recording that was compressed or has another sample rate: resamplers
/// differ.
const RESAMPLED_TOLERANCE: f64 = 2e-2;
/// Mel frames that an AAC encoder may append to fill its last frame. The engine skips this padding in MP4 files;
/// FFmpeg 5, and so the original, does not.
const MAX_PADDING_FRAMES: usize = 13;

struct Case<'a> {
    name: &'a str,
    golden: &'a HashMap<String, Tensor>,
    /// The file is 16 kHz mono PCM, so it needs no resampling.
    exact: bool,
}

impl Case<'_> {
    /// `None` if the set does not have this tensor for this recording.
    fn want(&self, key: &str) -> Option<&Tensor> {
        let want = self.golden.get(&format!("{}.{key}", self.name));
        if want.is_none() {
            eprintln!("not compared: the golden set has no `{}.{key}`", self.name);
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
#[ignore = "needs the shared material"]
fn log_mel_features_and_windows_equal_the_original() -> Result<()> {
    let set = GoldenSet::shared();
    let golden = set.outputs("whisper");
    let encoder = load_whisper(&set)?;
    assert!(!set.manifest.audio.is_empty(), "the manifest lists no audio");
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
    if !case.exact && (1..=MAX_PADDING_FRAMES).contains(&padding) {
        eprintln!(
            "not compared: the end of `{name}`, where the original kept {padding} mel frames of padding"
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
    eprintln!("{name}: {:.2} s of audio encoded in {:.2?}", speech.duration_seconds, started.elapsed());
    let rows = features.dim(0)?;
    if let Some(want) = case.shape("features_shape")? {
        assert_eq!(features.dims()[1..], want[1..], "{name}: features");
        assert!(!whole || rows == want[0], "{name}: {rows} rows, {} expected", want[0]);
    }
    case.compare_features("features_head", |n| features.narrow(0, 0, n))?;
    if whole {
        case.compare_features("features_tail", |n| features.narrow(0, rows - n, n))?;
    }
    // Rows from the middle: `features_A_B` are the rows A to B.
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

/// A range of feature rows, (rows, layers × channels), read through windows of one frame.
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

/// Euclidean distance of each row from the previous one.
fn steps(rows: &Tensor) -> Result<Vec<f32>> {
    let n = rows.dim(0)? - 1;
    (rows.narrow(0, 1, n)? - rows.narrow(0, 0, n)?)?.sqr()?.sum(1)?.sqrt()?.to_vec1()
}

fn median(values: &[f32]) -> f32 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f32::total_cmp);
    sorted[sorted.len() / 2]
}

/// Compares end-to-end and overlapping windows near their seams: the steps between neighbouring rows as multiples of
/// the median step, and the error against windows that are centred on each row.
#[test]
#[ignore = "needs the shared material"]
fn overlapping_windows_take_the_jump_out_of_long_recordings() -> Result<()> {
    let set = GoldenSet::shared();
    let path = set.manifest.audio.iter().find(|path| path.ends_with("speech_48s.wav"));
    let encoder = load_whisper(&set)?;
    let speech =
        load_speech(set.path(path.expect("the recording of 48 s"))).unwrap_or_else(|e| panic!("{e}"));
    let mel = log_mel(&speech.samples, encoder.dims().n_mels)?;
    let compute = |windows| AudioFeatures::compute(&encoder, &speech, [0, 0], windows).unwrap();
    let [end_to_end, overlapping] = [Windows::EndToEnd, Windows::Overlapping].map(compute);
    let half = encoder.window_frames() / 2;
    let centred = |range: Range<usize>| {
        let row = |row: usize| {
            let features = encoder.window_features(&mel, 2 * row - half..2 * row + half)?;
            features.narrow(0, half / 2, 1)?.flatten_from(1)
        };
        Tensor::cat(&range.map(row).collect::<Result<Vec<_>>>()?, 0)
    };
    let median_step = median(&steps(&rows(&overlapping, 0..overlapping.rows())?)?);
    // 30 s is the end of the original's first window; 24 s is the middle of the overlap of two windows of 30 s in 48 s.
    for (name, seam) in [("30 s", 1500), ("24 s", 1200)] {
        let near = seam - 50..seam + 50;
        let truth = centred(near.clone())?;
        let figures = |which: &str, got: Tensor| {
            let steps = steps(&got)?;
            let at_seam = steps[near.len() / 2 - 1] / median_step;
            let largest = steps.iter().copied().fold(0.0, f32::max) / median_step;
            let error = relative_error(&got, &truth)?;
            eprintln!(
                "{name}, {which}: {at_seam:.2} median steps at the seam, at most {largest:.2} near it, error {error:.3} against centred windows"
            );
            Ok::<_, candle_core::Error>((at_seam, largest, error))
        };
        figures("centred", truth.clone())?;
        let (jump, _, end_to_end_error) = figures("end to end", rows(&end_to_end, near.clone())?)?;
        let (_, largest, error) = figures("overlapping", rows(&overlapping, near.clone())?)?;
        assert!(seam != 1500 || jump > 3.0, "end to end jumps by {jump} median steps at {name}");
        assert!(largest < 2.0, "overlapping windows jump by {largest} median steps near {name}");
        assert!(error < end_to_end_error, "{name}: {error}, end to end {end_to_end_error}");
    }
    Ok(())
}

/// Whether the original read the samples of this file without resampling.
fn is_16_khz_mono(path: &Path) -> bool {
    hound::WavReader::open(path).is_ok_and(|wav| {
        let spec = wav.spec();
        (spec.sample_rate, spec.channels, spec.bits_per_sample) == (16_000, 1, 16)
    })
}
