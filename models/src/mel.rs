//! Whisper's log-mel spectrogram: 16 kHz mono samples → (bands, frames), 100 frames per second.
//!
//! Computed in f64 and rounded once, so that the only difference from the original is the original's f32
//! rounding. candle-transformers' `pcm_to_mel` is not equivalent: it does not centre frames or pad by
//! reflection, it appends 30 s of silence (which changes the frames and the maximum), and it counts the
//! mirror image of each bin.
//!
//! Origin: `log_mel_spectrogram` of openai/whisper (`whisper/audio.py`) and `librosa.filters.mel`.

use std::f64::consts::PI;
use std::sync::Arc;

use candle_core::{Device, Result, Tensor, bail};
use rayon::prelude::*;
use realfft::num_complex::Complex;
use realfft::{RealFftPlanner, RealToComplex};

/// Samples per second of the input.
pub const SAMPLE_RATE: usize = 16_000;
/// Samples between consecutive frames: 10 ms.
pub const HOP: usize = 160;
/// Samples per frame.
const N_FFT: usize = 400;
const N_BINS: usize = N_FFT / 2 + 1;
/// Minimum power, which limits the logarithm.
const POWER_FLOOR: f64 = 1e-10;
/// Dynamic range in decades: values are clamped at this distance below the maximum of the whole file.
const RANGE_DECADES: f64 = 8.0;

/// Log-mel spectrogram of a whole recording, on the CPU.
///
/// `samples`: 16 kHz mono, at least one hop, all finite → (`bands`, samples / 160) in f32. The maximum over
/// the whole recording determines the floor of all frames.
pub fn log_mel(samples: &[f32], bands: usize) -> Result<Tensor> {
    let frames = samples.len() / HOP;
    if frames == 0 || bands == 0 {
        bail!(
            "log-mel: {} samples and {bands} bands, expected at least {HOP} samples and 1 band",
            samples.len()
        );
    }
    let spectrogram = Spectrogram {
        samples,
        fft: RealFftPlanner::<f64>::new().plan_fft_forward(N_FFT),
        window: hann_window(),
        filters: Filters::new(bands),
    };

    // Two passes: the maximum must be known before the first value is rounded, and keeping the f64 values of
    // the whole recording would take more memory than its samples.
    let max_power = (0..frames)
        .into_par_iter()
        .map_init(
            || (spectrogram.buffers(), vec![0f64; bands]),
            |(buffers, powers), frame| {
                spectrogram.band_powers(frame, buffers, powers)?;
                Ok::<_, candle_core::Error>(powers.iter().copied().fold(POWER_FLOOR, f64::max))
            },
        )
        .try_reduce(|| POWER_FLOOR, |a, b| Ok(a.max(b)))?;
    let floor = max_power.log10() - RANGE_DECADES;

    let mut by_frame = vec![0f32; frames * bands];
    by_frame.par_chunks_mut(bands).enumerate().try_for_each_init(
        || (spectrogram.buffers(), vec![0f64; bands]),
        |(buffers, powers), (frame, out)| {
            spectrogram.band_powers(frame, buffers, powers)?;
            for (out, power) in out.iter_mut().zip(powers) {
                *out = ((power.max(POWER_FLOOR).log10().max(floor) + 4.0) / 4.0) as f32;
            }
            Ok::<_, candle_core::Error>(())
        },
    )?;
    // Frame-major in memory, so that a window of frames is contiguous.
    Tensor::from_vec(by_frame, (frames, bands), &Device::Cpu)?.t()
}

/// Samples and tables that all frames of a recording share.
struct Spectrogram<'a> {
    samples: &'a [f32],
    fft: Arc<dyn RealToComplex<f64>>,
    window: [f64; N_FFT],
    filters: Filters,
}

/// Buffers of one thread: windowed samples, spectrum, scratch space of the FFT.
type Buffers = (Vec<f64>, Vec<Complex<f64>>, Vec<Complex<f64>>);

impl Spectrogram<'_> {
    fn buffers(&self) -> Buffers {
        (self.fft.make_input_vec(), self.fft.make_output_vec(), self.fft.make_scratch_vec())
    }

    /// Computes the power of every band of frame `frame`.
    fn band_powers(
        &self,
        frame: usize,
        (input, spectrum, scratch): &mut Buffers,
        out: &mut [f64],
    ) -> Result<()> {
        let start = (frame * HOP) as isize - (N_FFT / 2) as isize;
        for (i, (x, w)) in input.iter_mut().zip(&self.window).enumerate() {
            *x = f64::from(self.samples[reflect(start + i as isize, self.samples.len())]) * w;
        }
        self.fft.process_with_scratch(input, spectrum, scratch).map_err(candle_core::Error::wrap)?;
        let power: [f64; N_BINS] = std::array::from_fn(|bin| spectrum[bin].norm_sqr());
        self.filters.apply(&power, out);
        Ok(())
    }
}

/// Sample index for position `i` under reflect padding. A recording shorter than half a window is reflected
/// more than once.
fn reflect(i: isize, len: usize) -> usize {
    // The common case, much faster than a division.
    if (0..len as isize).contains(&i) {
        return i as usize;
    }
    if len == 1 {
        return 0;
    }
    let last = len - 1;
    let folded = i.rem_euclid(2 * last as isize) as usize;
    folded.min(2 * last - folded)
}

/// The periodic Hann window.
fn hann_window() -> [f64; N_FFT] {
    std::array::from_fn(|i| 0.5 - 0.5 * (2.0 * PI * i as f64 / N_FFT as f64).cos())
}

/// Triangular filters, evenly spaced on Slaney's mel scale from 0 Hz to 8 kHz, each of unit area over
/// frequency (`librosa.filters.mel` with its defaults).
struct Filters {
    /// First bin and non-zero weights of every band.
    bands: Vec<(usize, Vec<f64>)>,
}

impl Filters {
    fn new(bands: usize) -> Self {
        let nyquist = SAMPLE_RATE as f64 / 2.0;
        let edge = |i: usize| mel_to_hz(hz_to_mel(nyquist) * i as f64 / (bands + 1) as f64);
        let bands = (0..bands)
            .map(|band| {
                let (low, peak, high) = (edge(band), edge(band + 1), edge(band + 2));
                let weight = |bin: usize| {
                    let hz = bin as f64 * SAMPLE_RATE as f64 / N_FFT as f64;
                    let triangle = ((hz - low) / (peak - low)).min((high - hz) / (high - peak));
                    triangle.max(0.0) * 2.0 / (high - low)
                };
                let first = (0..N_BINS).find(|&bin| weight(bin) > 0.0).unwrap_or(0);
                let weights = (first..N_BINS).map(weight).take_while(|&weight| weight > 0.0).collect();
                (first, weights)
            })
            .collect();
        Self { bands }
    }

    /// `power`: power spectrum of one frame → `out`: power per band.
    fn apply(&self, power: &[f64; N_BINS], out: &mut [f64]) {
        for ((first, weights), out) in self.bands.iter().zip(out) {
            *out = weights.iter().zip(&power[*first..]).map(|(w, p)| w * p).sum();
        }
    }
}

// Slaney's mel scale: linear up to 1 kHz (15 mel), then logarithmic with 27 mel per factor of 6.4.
const HZ_PER_MEL: f64 = 200.0 / 3.0;
const BREAK_HZ: f64 = 1000.0;
const BREAK_MEL: f64 = BREAK_HZ / HZ_PER_MEL;

fn log_step() -> f64 {
    6.4f64.ln() / 27.0
}

fn hz_to_mel(hz: f64) -> f64 {
    if hz < BREAK_HZ { hz / HZ_PER_MEL } else { BREAK_MEL + (hz / BREAK_HZ).ln() / log_step() }
}

fn mel_to_hz(mel: f64) -> f64 {
    if mel < BREAK_MEL { mel * HZ_PER_MEL } else { BREAK_HZ * (log_step() * (mel - BREAK_MEL)).exp() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_have_unit_area_and_cover_the_spectrum() {
        let filters = Filters::new(80);
        assert_eq!(filters.bands.len(), 80);
        let bin_hz = SAMPLE_RATE as f64 / N_FFT as f64;
        for (band, (first, weights)) in filters.bands.iter().enumerate() {
            assert!(!weights.is_empty(), "band {band} has no bin");
            assert!(first + weights.len() <= N_BINS, "band {band} exceeds the spectrum");
            // Only wide bands: narrow ones have too few bins for an accurate area.
            if weights.len() > 8 {
                let area = weights.iter().sum::<f64>() * bin_hz;
                assert!((area - 1.0).abs() < 0.02, "band {band} has area {area}");
            }
        }
        // Every bin except the first and last belongs to a band.
        for bin in 1..N_BINS - 1 {
            let contains =
                |(first, weights): &(usize, Vec<f64>)| (*first..first + weights.len()).contains(&bin);
            assert!(filters.bands.iter().any(contains), "bin {bin} is in no band");
        }
    }

    /// Some values of `librosa.filters.mel(sr=16000, n_fft=400, n_mels=80)`.
    #[test]
    fn filters_equal_librosas() {
        let filters = Filters::new(80);
        for (band, bin, want) in LIBROSA {
            let (first, weights) = &filters.bands[band];
            let got = weights[bin - first];
            assert!((got - want).abs() < 1e-8, "band {band}, bin {bin}: {got}, librosa {want}");
        }
    }

    /// (band, bin, weight), rounded to f32 by librosa.
    const LIBROSA: [(usize, usize, f64); 7] = [
        (0, 1, 0.02486259490251541),
        (3, 4, 0.018890129402279854),
        (20, 20, 0.013890394009649754),
        (31, 31, 0.011751330457627773),
        (45, 53, 0.007301822770386934),
        (60, 93, 0.006591092795133591),
        (79, 193, 0.003141313325613737),
    ];

    #[test]
    fn a_tone_has_its_maximum_in_the_band_of_its_frequency() -> Result<()> {
        let tone: Vec<f32> = (0..SAMPLE_RATE)
            .map(|i| (2.0 * PI * 1000.0 * i as f64 / SAMPLE_RATE as f64).sin() as f32 * 0.5)
            .collect();
        let mel = log_mel(&tone, 80)?;
        assert_eq!(mel.dims(), [80, 100]);
        let frame: Vec<f32> = mel.narrow(1, 50, 1)?.flatten_all()?.to_vec1()?;
        let loudest = (0..80).max_by(|&a, &b| frame[a].total_cmp(&frame[b]));
        let step = hz_to_mel(8000.0) / 81.0;
        let want = (hz_to_mel(1000.0) / step).round() as usize - 1;
        assert_eq!(loudest, Some(want));
        // All other bands are within eight decades, that is two units, of the maximum.
        let lowest = frame.iter().copied().fold(f32::INFINITY, f32::min);
        assert!(frame[want] - lowest <= 2.0 + 1e-6);
        Ok(())
    }

    #[test]
    fn the_floor_is_relative_to_the_maximum_of_the_whole_file() -> Result<()> {
        // Loud noise, then silence: the silence is eight decades below the noise, not at its own maximum.
        let mut samples = vec![0f32; 2 * SAMPLE_RATE];
        for (i, x) in samples[..SAMPLE_RATE].iter_mut().enumerate() {
            *x = ((i * 7919 % 2003) as f32 / 1001.5 - 1.0) * 0.9;
        }
        let mel = log_mel(&samples, 80)?;
        let max = mel.max_all()?.to_scalar::<f32>()?;
        let silence: Vec<f32> = mel.narrow(1, 150, 1)?.flatten_all()?.to_vec1()?;
        assert!(silence.iter().all(|x| (x - (max - 2.0)).abs() < 1e-6));
        Ok(())
    }

    #[test]
    fn digital_silence_is_finite_and_constant() -> Result<()> {
        let mel = log_mel(&[0.0; 4800], 80)?.flatten_all()?.to_vec1::<f32>()?;
        assert!(mel.iter().all(|&x| x == -1.5), "{:?}", &mel[..4]);
        Ok(())
    }

    #[test]
    fn recordings_shorter_than_half_a_window_are_reflected() -> Result<()> {
        assert_eq!([-3, -1, 0, 4, 5, 8, 9].map(|i| reflect(i, 5)), [3, 1, 0, 4, 3, 0, 1]);
        assert_eq!(reflect(-200, 1), 0);
        for len in [160, 199, 200, 201, 320] {
            let mel = log_mel(&vec![0.25; len], 80)?;
            assert_eq!(mel.dims(), [80, len / HOP]);
            assert!(mel.flatten_all()?.to_vec1::<f32>()?.iter().all(|x| x.is_finite()));
        }
        assert!(log_mel(&[0.0; 159], 80).is_err());
        Ok(())
    }
}
