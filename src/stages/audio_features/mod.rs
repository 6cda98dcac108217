//! Stage 3: audio at 16 kHz → log-mel spectrogram → Whisper features → one window of features per model
//! frame.
//!
//! Features are computed in windows of 30 s when a frame needs them, and dropped when later frames no longer
//! do. Only the spectrogram (32 KB/s) of a long recording stays in memory, not its features (384 KB/s) or
//! samples (64 KB/s).

mod windows;

use std::sync::{Mutex, PoisonError};

use candle_core::Tensor;
use models::mel::{HOP, log_mel};
use models::whisper::WhisperEncoder;

use windows::WindowPlan;
pub use windows::Windows;

use crate::audio::Speech;
use crate::error::{Result, compute};
use crate::options::WHISPER_ROWS_PER_FRAME;

const STAGE: &str = "the audio features";
/// Number of windows whose features are cached: a frame at a seam needs two.
const CACHED_WINDOWS: usize = 2;

/// The audio input of the UNet for each model frame.
pub struct AudioFeatures {
    encoder: WhisperEncoder,
    /// (bands, mel frames) of the whole recording.
    mel: Tensor,
    /// Model frames of context before and after each frame.
    reach: [usize; 2],
    frames: usize,
    plan: WindowPlan,
    /// The cached windows by number, least recently computed first.
    recent: Mutex<Vec<(usize, Tensor)>>,
}

impl AudioFeatures {
    /// Computes the spectrogram; the encoder runs later. `reach`: `audio_feat_length` of the UNet's
    /// configuration, the model frames of context before and after each frame, [2, 2] in the published
    /// models.
    pub fn compute(
        encoder: &WhisperEncoder,
        speech: &Speech,
        reach: [usize; 2],
        windows: Windows,
    ) -> Result<Self> {
        // At least one row of features, 20 ms.
        let min_samples = 2 * HOP;
        let mel = if speech.samples.len() < min_samples {
            let mut padded = speech.samples.clone();
            padded.resize(min_samples, 0.0);
            log_mel(&padded, encoder.dims().n_mels)
        } else {
            log_mel(&speech.samples, encoder.dims().n_mels)
        };
        let mel = mel.map_err(compute(STAGE))?;
        let mel_frames = mel.dim(1).map_err(compute(STAGE))?;
        Ok(Self {
            encoder: encoder.clone(),
            plan: WindowPlan::new(mel_frames, encoder.window_frames(), windows),
            mel,
            reach,
            frames: speech.frames(),
            recent: Mutex::new(Vec::with_capacity(CACHED_WINDOWS)),
        })
    }

    /// Duration in model frames: ceil(duration × 25).
    pub fn frames(&self) -> usize {
        self.frames
    }

    /// Number of frames that the original generates for this audio, two more than its features cover.
    pub fn reference_frames(&self) -> usize {
        self.rows() / WHISPER_ROWS_PER_FRAME + 2
    }

    /// Rows of features, 20 ms each.
    pub fn rows(&self) -> usize {
        self.plan.rows()
    }

    /// The window of `frame`: rows 2 (frame − left) … 2 (frame + right) + 1, clamped to the recording, with
    /// all layers → (tokens, channels): (50, 384) with `tiny` and a reach of [2, 2].
    pub fn window(&self, frame: usize) -> Result<Tensor> {
        let [left, right] = self.reach;
        let first = (WHISPER_ROWS_PER_FRAME * frame) as isize - (WHISPER_ROWS_PER_FRAME * left) as isize;
        let rows: Vec<usize> = (0..WHISPER_ROWS_PER_FRAME * (left + 1 + right))
            .map(|i| (first + i as isize).clamp(0, self.rows() as isize - 1) as usize)
            .collect();
        self.gather(&rows).map_err(compute(STAGE))
    }

    /// `rows`: ascending → (rows × layers, channels).
    fn gather(&self, rows: &[usize]) -> candle_core::Result<Tensor> {
        let sources: Vec<_> = rows.iter().map(|&row| (row, self.plan.source(row))).collect();
        let parts = sources
            .chunk_by(|(_, a), (_, b)| a.window == b.window && (a.next > 0.0) == (b.next > 0.0))
            .map(|part| {
                let window = part[0].1.window;
                let rows: Vec<usize> = part.iter().map(|&(row, _)| row).collect();
                let features = self.rows_of(window, &rows)?;
                if part[0].1.next == 0.0 {
                    return features.flatten(0, 1);
                }
                let shares: Vec<f32> = part.iter().map(|(_, source)| source.next).collect();
                let shares = Tensor::from_vec(shares, (rows.len(), 1, 1), features.device())?
                    .to_dtype(features.dtype())?;
                let change = (self.rows_of(window + 1, &rows)? - &features)?;
                (features + change.broadcast_mul(&shares)?)?.flatten(0, 1)
            })
            .collect::<candle_core::Result<Vec<_>>>()?;
        Tensor::cat(&parts, 0)
    }

    /// Rows of the recording from one window → (rows, layers, channels).
    fn rows_of(&self, window: usize, rows: &[usize]) -> candle_core::Result<Tensor> {
        let features = self.window_features(window)?;
        let first = self.plan.first_row(window);
        let index: Vec<u32> = rows.iter().map(|row| (row - first) as u32).collect();
        features.index_select(&Tensor::new(index, features.device())?, 0)
    }

    /// Features of a 30 s window → (rows, layers, channels).
    fn window_features(&self, number: usize) -> candle_core::Result<Tensor> {
        // Entries are complete even if a thread panicked while it held the lock.
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, features)) = recent.iter().find(|(n, _)| *n == number) {
            return Ok(features.clone());
        }
        let features = self.encoder.window_features(&self.mel, self.plan.mel_frames(number))?;
        if recent.len() == CACHED_WINDOWS {
            recent.remove(0);
        }
        recent.push((number, features.clone()));
        Ok(features)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};
    use candle_nn::{VarBuilder, VarMap};
    use models::whisper::WhisperDims;

    use super::*;

    /// An encoder with windows of 30 s, like the real one, but few channels.
    fn encoder() -> candle_core::Result<WhisperEncoder> {
        let dims = WhisperDims {
            n_mels: 80,
            n_audio_ctx: 1500,
            n_audio_state: 4,
            n_audio_head: 1,
            n_audio_layer: 1,
        };
        let vars = VarMap::new();
        WhisperEncoder::load(&dims, VarBuilder::from_varmap(&vars, DType::F32, &Device::Cpu))
    }

    fn noise(seconds: f64) -> Speech {
        let samples = (seconds * 16_000.0) as usize;
        let noise = |i: usize| (i.wrapping_mul(2_654_435_761) >> 7 & 0xffff) as f32 / 65_536.0 - 0.5;
        Speech {
            samples: (0..samples).map(noise).collect(),
            duration_seconds: samples as f64 / 16_000.0,
            damaged: 0,
        }
    }

    /// The expected rows of frame `frame`, with two layers each.
    fn expected(all: &Tensor, frame: isize, reach: [isize; 2]) -> candle_core::Result<Tensor> {
        let last = all.dim(0)? as isize - 1;
        let rows: Vec<u32> = (2 * (frame - reach[0])..2 * (frame + reach[1] + 1))
            .map(|row| row.clamp(0, last) as u32)
            .collect();
        all.index_select(&Tensor::new(rows, all.device())?, 0)?.flatten(0, 1)
    }

    fn assert_same(got: &Tensor, want: &Tensor, what: &str) -> candle_core::Result<()> {
        assert_eq!(got.dims(), want.dims(), "{what}");
        assert_eq!(got.to_vec2::<f32>()?, want.to_vec2::<f32>()?, "{what}");
        Ok(())
    }

    #[test]
    fn windows_are_clamped_at_both_ends() -> anyhow::Result<()> {
        let (encoder, speech) = (encoder()?, noise(1.0));
        let all = encoder.features(&log_mel(&speech.samples, 80)?)?;
        for reach in [[2, 2], [1, 3]] {
            let features = AudioFeatures::compute(&encoder, &speech, reach, Windows::default())?;
            assert_eq!((features.frames(), features.rows(), features.reference_frames()), (25, 50, 27));
            for frame in [0, 1, 12, 24, 26] {
                let want = expected(&all, frame, reach.map(|n| n as isize))?;
                assert_eq!(want.dims(), [20, 4]);
                assert_same(&features.window(frame as usize)?, &want, &format!("frame {frame}"))?;
            }
        }
        Ok(())
    }

    #[test]
    fn a_recording_of_31_seconds_has_continuous_features() -> anyhow::Result<()> {
        let (encoder, speech) = (encoder()?, noise(31.0));
        let all = encoder.features(&log_mel(&speech.samples, 80)?)?;
        assert_eq!(all.dims(), [1550, 2, 4]);
        let features = AudioFeatures::compute(&encoder, &speech, [2, 2], Windows::EndToEnd)?;
        assert_eq!((features.frames(), features.rows()), (775, 1550));
        // Frames 748 to 751 have context on both sides of the boundary. The order of calls does not matter.
        for frame in [774, 0, 751, 748, 749, 750, 0] {
            let want = expected(&all, frame, [2, 2])?;
            assert_same(&features.window(frame as usize)?, &want, &format!("frame {frame}"))?;
        }
        Ok(())
    }

    #[test]
    fn overlapping_windows_cover_every_frame() -> anyhow::Result<()> {
        // Windows from 0, 10.3 and 20.6 s; their rows cross-fade about 20.1 and 30.4 s.
        let (encoder, speech) = (encoder()?, noise(50.6));
        let features = AudioFeatures::compute(&encoder, &speech, [2, 2], Windows::Overlapping)?;
        assert_eq!((features.frames(), features.rows()), (1265, 2530));
        let mel = log_mel(&speech.samples, 80)?;
        let window = |start: usize| encoder.window_features(&mel, start..start + 3000);
        let [first, middle, last] = [window(0)?, window(1030)?, window(2060)?];
        for (frame, from, row) in [(700, &middle, 515), (20, &first, 0), (1200, &last, 1030), (5, &first, 0)]
        {
            let want = from.narrow(0, 2 * (frame - 2) - row, 10)?.flatten(0, 1)?;
            assert_same(&features.window(frame)?, &want, &format!("frame {frame}"))?;
        }
        // The middle of a cross-fade has half of each window.
        let seam = (3000 + 1030) / 4;
        let row = |from: &Tensor, first: usize| from.get(seam - first)?.get(0)?.to_vec1::<f32>();
        let got = features.window(seam / 2)?.get(2 * (4 + seam % 2))?.to_vec1::<f32>()?;
        for ((got, a), b) in got.iter().zip(row(&first, 0)?).zip(row(&middle, 515)?) {
            assert!((got - (0.49 * a + 0.51 * b)).abs() < 1e-5, "{got}: between {a} and {b}");
        }
        Ok(())
    }

    #[test]
    fn silence_has_finite_features() -> anyhow::Result<()> {
        let silence = Speech { samples: vec![0.0; 16_000], duration_seconds: 1.0, damaged: 0 };
        let features = AudioFeatures::compute(&encoder()?, &silence, [2, 2], Windows::default())?;
        let window = features.window(12)?.flatten_all()?.to_vec1::<f32>()?;
        assert!(window.iter().all(|x| x.is_finite()));
        Ok(())
    }

    #[test]
    fn three_frames_and_three_milliseconds_have_windows() -> anyhow::Result<()> {
        let encoder = encoder()?;
        for (seconds, frames) in [(0.12, 3), (0.1, 3), (0.003, 1)] {
            let features = AudioFeatures::compute(&encoder, &noise(seconds), [2, 2], Windows::default())?;
            assert_eq!(features.frames(), frames);
            for frame in 0..frames {
                let window = features.window(frame)?;
                assert_eq!(window.dims(), [20, 4]);
                assert!(window.flatten_all()?.to_vec1::<f32>()?.iter().all(|x| x.is_finite()));
            }
        }
        Ok(())
    }
}
