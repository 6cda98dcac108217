//! Whisper features and the audio windows of the UNet, from the log-mel spectrogram on. The spectrogram needs the
//! recording, so `shared::audio` checks it.

use candle_core::{Result, Tensor};

use crate::golden::{GoldenSet, relative_error};
use crate::networks::load_whisper;

/// Relative error of features and windows.
pub const TOLERANCE: f64 = 1e-3;
/// The recording of the repository's set.
const RECORDING: &str = "speech_3s";

/// Whisper features of the recording, (rows, layers, channels), from the original's log-mel.
pub fn recorded_features(set: &GoldenSet) -> Result<Tensor> {
    let mel = &set.outputs("whisper")[&format!("{RECORDING}.mel")];
    load_whisper(set)?.features(mel)
}

/// Audio window of one video frame, (tokens, channels): rows 2 × frame − 4 to 2 × frame + 5, each clamped to the
/// recording, with all their layers.
pub fn window(features: &Tensor, frame: usize) -> Result<Tensor> {
    let last = features.dim(0)? as i64 - 1;
    let first = 2 * frame as i64 - 4;
    let rows: Vec<u32> = (first..first + 10).map(|row| row.clamp(0, last) as u32).collect();
    features.index_select(&Tensor::new(rows, features.device())?, 0)?.flatten(0, 1)
}

#[test]
fn features_and_windows_equal_the_original() -> Result<()> {
    let set = GoldenSet::in_repository();
    let golden = set.outputs("whisper");
    let features = recorded_features(&set)?;
    let shape = |key: &str| -> Result<Vec<usize>> {
        let sizes: Vec<i64> = golden[&format!("{RECORDING}.{key}")].to_vec1()?;
        Ok(sizes.into_iter().map(|size| size as usize).collect())
    };
    assert_eq!(features.dims(), shape("features_shape")?);
    let rows = features.dim(0)?;
    let windows = shape("chunks_shape")?[0];
    let compare = |key: &str, got: Tensor| {
        let error = relative_error(&got, &golden[&format!("{RECORDING}.{key}")])?;
        eprintln!("{key}: {error:.2e}");
        assert!(error <= TOLERANCE, "{key}: {error:.2e} > {TOLERANCE:.0e}");
        Ok::<_, candle_core::Error>(())
    };
    compare("features_head", features.narrow(0, 0, 100)?)?;
    compare("features_tail", features.narrow(0, rows - 20, 20)?)?;
    compare("chunk_0", window(&features, 0)?)?;
    compare("chunk_mid", window(&features, windows / 2)?)?;
    compare("chunk_last", window(&features, windows - 1)?)
}
