//! Conversion of decoded audio to 16 kHz mono with 16-bit quantisation, like the original's `ffmpeg -ac 1 -ar
//! 16000 -f s16le`. Streaming: only the 16 kHz samples are kept in memory.

use std::path::{Path, PathBuf};

use models::mel::SAMPLE_RATE;
use rubato::audioadapter_buffers::direct::InterleavedSlice;
use rubato::{
    Async, FixedAsync, Resampler as _, SincInterpolationParameters, SincInterpolationType, WindowFunction,
};

use crate::audio::{Error, Result};
use crate::options::{FPS, FrameRate};
use crate::system;

/// Supported sampling rates in Hz. Headers with other rates are treated as broken.
const RATES: std::ops::RangeInclusive<u32> = 1_000..=768_000;

/// 16 kHz mono audio.
#[derive(Debug, Clone)]
pub struct Speech {
    /// Multiples of 1/32768 in [-1, 1].
    pub samples: Vec<f32>,
    /// Number of decoded samples divided by their sampling rate.
    pub duration_seconds: f64,
    /// Number of damaged packets that were skipped.
    pub damaged: usize,
}

impl Speech {
    /// Duration in model frames: ceil(duration × 25).
    pub fn frames(&self) -> usize {
        FrameRate::MODEL.frames_in(self.duration_seconds)
    }

    /// Pads with digital silence to at least `frames` model frames.
    pub fn padded_to(mut self, frames: usize) -> Self {
        if frames > self.frames() {
            let samples = frames * SAMPLE_RATE / FPS;
            self.samples.resize(samples.max(self.samples.len()), 0.0);
            self.duration_seconds = frames as f64 / FPS as f64;
        }
        self
    }
}

/// Builds [`Speech`] from decoded audio.
pub(super) struct SpeechBuilder {
    path: PathBuf,
    samples: Vec<f32>,
    segment: Option<Segment>,
    /// Duration of the finished segments.
    seconds: f64,
}

impl SpeechBuilder {
    /// `path`: the file, for errors.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_path_buf(), samples: Vec::new(), segment: None, seconds: 0.0 }
    }

    /// Adds `interleaved` samples with one channel per weight. The sampling rate may change between calls, as
    /// in chained Ogg files.
    pub fn push(&mut self, interleaved: &[f32], weights: &[f32], rate: u32) -> Result<()> {
        if self.segment.as_ref().is_none_or(|segment| segment.rate != rate) {
            self.finish_segment()?;
            self.segment = Some(Segment::new(&self.path, rate, self.samples.len())?);
        }
        let Some(segment) = &mut self.segment else {
            return Ok(());
        };
        for frame in interleaved.chunks_exact(weights.len()) {
            let x: f32 = frame.iter().zip(weights).map(|(x, w)| x * w).sum();
            if !x.is_finite() {
                return Err(Error::Sample {
                    path: self.path.clone(),
                    second: self.seconds + segment.seconds(),
                    value: x,
                });
            }
            segment.push(x, &mut self.samples)?;
        }
        Ok(())
    }

    /// Removes the last `frames` frames: encoder padding.
    #[cfg(any(feature = "media", test))]
    pub fn drop_last(&mut self, frames: u64) {
        if let Some(segment) = &mut self.segment {
            segment.frames_in = segment.frames_in.saturating_sub(frames);
        }
    }

    pub fn finish(mut self) -> Result<Speech> {
        self.finish_segment()?;
        if self.samples.is_empty() {
            return Err(Error::Empty { path: self.path });
        }
        Ok(Speech { samples: self.samples, duration_seconds: self.seconds, damaged: 0 })
    }

    fn finish_segment(&mut self) -> Result<()> {
        if let Some(segment) = self.segment.take() {
            self.seconds += segment.seconds();
            segment.finish(&mut self.samples)?;
        }
        Ok(())
    }
}

/// Consecutive audio with one sampling rate.
struct Segment {
    rate: u32,
    frames_in: u64,
    /// Number of output samples before this segment.
    start: usize,
    resampler: Option<Resampler>,
}

impl Segment {
    fn new(path: &Path, rate: u32, start: usize) -> Result<Self> {
        if !RATES.contains(&rate) {
            return Err(Error::Unreadable {
                path: path.to_path_buf(),
                reason: format!("its sampling rate of {rate} Hz is outside {RATES:?} Hz"),
            });
        }
        Ok(Self {
            rate,
            frames_in: 0,
            start,
            resampler: (rate as usize != SAMPLE_RATE).then(|| Resampler::new(rate)).transpose()?,
        })
    }

    fn seconds(&self) -> f64 {
        self.frames_in as f64 / f64::from(self.rate)
    }

    fn push(&mut self, x: f32, out: &mut Vec<f32>) -> Result<()> {
        self.frames_in += 1;
        match &mut self.resampler {
            Some(resampler) => resampler.push(x, out),
            None => {
                out.push(quantise(x));
                Ok(())
            }
        }
    }

    /// Truncates the output to the duration of the segment, rounded to the nearest sample.
    fn finish(mut self, out: &mut Vec<f32>) -> Result<()> {
        if self.frames_in == 0 {
            return Ok(());
        }
        let rate = u64::from(self.rate);
        let samples = (self.frames_in * SAMPLE_RATE as u64 + rate / 2) / rate;
        let end = self.start + (samples as usize).max(1);
        if let Some(resampler) = &mut self.resampler {
            resampler.finish(end, out)?;
        }
        out.truncate(end);
        Ok(())
    }
}

/// Resampler to 16 kHz with a filter equivalent to the default one of FFmpeg's resampler.
///
/// The original's features were computed with FFmpeg's filter, whose roll-off begins at 6.4 kHz and so
/// affects the mel bands: 32 zero crossings at 0.97 of the lower rate, Kaiser window with beta 9. rubato's
/// sinc with a Blackman window has the same main lobe. Every output sample coincides with a phase of the
/// filter, so `Nearest` is exact. As in FFmpeg, the audio is mirrored at both ends; with silence instead, the
/// error of the first features is 2 %.
struct Resampler {
    inner: Async<f32>,
    /// Input samples that do not fill a chunk yet.
    pending: Vec<f32>,
    chunk: Vec<f32>,
    /// Half the length of the filter, in input samples.
    half: usize,
    /// Number of input samples to prepend, until they have been: see [`Resampler::new`].
    lead: Option<usize>,
    /// Number of output samples still to be dropped, which belong to the lead.
    skip: usize,
}

impl Resampler {
    const CROSSINGS: f64 = 32.0;
    const CUTOFF: f64 = 0.97;
    const CHUNK: usize = 1024;

    fn new(rate: u32) -> Result<Self> {
        let gcd = gcd(rate as usize, SAMPLE_RATE);
        let (step_in, step_out) = (rate as usize / gcd, SAMPLE_RATE / gcd);
        let ratio = SAMPLE_RATE as f64 / f64::from(rate);
        // The cutoff is relative to the lower of the two rates, the length to the input rate.
        let cutoff = (ratio * Self::CUTOFF).min(1.0) / ratio.min(1.0);
        let sinc_len = (Self::CROSSINGS / (ratio * Self::CUTOFF).min(1.0)).ceil() as usize;
        let parameters = SincInterpolationParameters::new(sinc_len, WindowFunction::Blackman)
            .f_cutoff(cutoff as f32)
            .oversampling_factor(step_out)
            .interpolation(SincInterpolationType::Nearest);
        let inner = Async::new_sinc(ratio, 1.0, &parameters, Self::CHUNK, 1, FixedAsync::Input)
            .map_err(resampling_error)?;

        // rubato's output k is the signal at (k + 1) steps minus half of the filter plus one phase, which
        // rarely coincides with the required position. With a lead of the right length, one output coincides
        // with the first sample exactly. Such a length exists, because the input and output steps are
        // coprime.
        let half = sinc_len.next_multiple_of(8) / 2;
        let phases_ahead = |lead: usize| step_out * (half + lead) - 1;
        let lead = (half..half + step_in).find(|&lead| phases_ahead(lead) % step_in == 0).unwrap_or(half);
        Ok(Self {
            chunk: vec![0.0; inner.output_frames_max()],
            inner,
            pending: Vec::new(),
            half,
            lead: Some(lead),
            skip: (phases_ahead(lead) / step_in).saturating_sub(1),
        })
    }

    fn push(&mut self, x: f32, out: &mut Vec<f32>) -> Result<()> {
        self.pending.push(x);
        // `half` samples are kept after the chunk, to be mirrored at the end.
        if self.pending.len() >= Self::CHUNK + self.half {
            self.mirror_start();
            while self.pending.len() >= Self::CHUNK + self.half {
                self.convert(out)?;
            }
        }
        Ok(())
    }

    /// Converts the remaining samples until `out` has length `end`.
    fn finish(&mut self, end: usize, out: &mut Vec<f32>) -> Result<()> {
        self.mirror_start();
        let mirrored: Vec<f32> = self.pending.iter().rev().take(self.half).copied().collect();
        self.pending.extend(mirrored);
        while out.len() < end {
            let chunk = self.pending.len().max(Self::CHUNK);
            self.pending.resize(chunk, 0.0);
            self.convert(out)?;
        }
        Ok(())
    }

    /// Prepends the lead: silence, then the mirrored beginning.
    fn mirror_start(&mut self) {
        if let Some(lead) = self.lead.take() {
            let sound = &self.pending;
            let before = |i: usize| {
                if i <= self.half { sound.get(i).copied().unwrap_or(0.0) } else { 0.0 }
            };
            let front: Vec<f32> = (1..=lead).rev().map(before).collect();
            self.pending.splice(..0, front);
        }
    }

    /// Converts one chunk of the pending samples.
    fn convert(&mut self, out: &mut Vec<f32>) -> Result<()> {
        let frames = self.chunk.len();
        let input =
            InterleavedSlice::new(&self.pending[..Self::CHUNK], 1, Self::CHUNK).map_err(resampling_error)?;
        let mut output = InterleavedSlice::new_mut(&mut self.chunk, 1, frames).map_err(resampling_error)?;
        let (_, made) =
            self.inner.process_into_buffer(&input, &mut output, None).map_err(resampling_error)?;
        let skipped = self.skip.min(made);
        self.skip -= skipped;
        out.extend(self.chunk[skipped..made].iter().copied().map(quantise));
        self.pending.drain(..Self::CHUNK);
        Ok(())
    }
}

/// Rounds to the nearest value of a 16-bit sample and clips.
pub(super) fn quantise(x: f32) -> f32 {
    (x * 32768.0).round_ties_even().clamp(-32768.0, 32767.0) / 32768.0
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn resampling_error(e: impl std::error::Error + Send + Sync + 'static) -> Error {
    system::Error::Compute { stage: "resampling the audio", source: candle_core::Error::wrap(e).into() }
        .into()
}

/// Weights of the channels in the mono mix. `mask`: the channels that are present, in the bit order of WAVE
/// and FFmpeg; 0 if unknown.
///
/// FFmpeg's default downmix: front and centre channels at full level, the others 3 dB lower, no LFE,
/// normalised so that the sum cannot clip.
pub(super) fn downmix_weights(mask: u64, channels: usize) -> Vec<f32> {
    const CENTRE: u32 = 2;
    const LFE: u32 = 3;
    let bits: Vec<u32> = (0..u64::BITS).filter(|bit| mask >> bit & 1 == 1).collect();
    if bits.len() != channels {
        // Unknown or contradictory: equal weights.
        return vec![1.0 / channels as f32; channels];
    }
    let loudness = |bit: &u32| match *bit {
        CENTRE => 1.0,
        LFE => 0.0,
        // Front left and right, and front left and right of centre.
        0 | 1 | 6 | 7 => std::f32::consts::FRAC_1_SQRT_2,
        _ => 0.5,
    };
    let weights: Vec<f32> = bits.iter().map(loudness).collect();
    let sum: f32 = weights.iter().sum();
    if sum == 0.0 {
        return vec![1.0 / channels as f32; channels];
    }
    // Mono is unchanged.
    weights.iter().map(|w| w / sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn speech(interleaved: &[f32], weights: &[f32], rate: u32) -> Result<Speech> {
        let mut builder = SpeechBuilder::new(Path::new("voice.wav"));
        // In uneven blocks, as from decoders.
        for piece in interleaved.chunks(weights.len() * 331) {
            builder.push(piece, weights, rate)?;
        }
        builder.finish()
    }

    fn tone(hz: f64, rate: u32, frames: usize) -> Vec<f32> {
        let step = 2.0 * std::f64::consts::PI * hz / f64::from(rate);
        (0..frames).map(|i| (i as f64 * step).sin() as f32 * 0.5).collect()
    }

    #[test]
    fn a_tone_keeps_its_phase_at_every_rate() -> Result<()> {
        for rate in [8_000, 11_025, 16_000, 16_001, 22_050, 32_000, 44_100, 48_000, 96_000, 192_000] {
            let frames = rate as usize * 2 + 7;
            let got = speech(&tone(440.0, rate, frames), &[1.0], rate)?;
            assert_eq!(got.duration_seconds, frames as f64 / f64::from(rate));
            let expected = (got.duration_seconds * 16_000.0).round() as usize;
            assert_eq!(got.samples.len(), expected, "{rate} Hz");
            // Except near the ends, where the filter covers only the tone.
            let want = tone(440.0, 16_000, got.samples.len());
            let middle = 200..got.samples.len() - 200;
            let worst = middle.map(|i| (got.samples[i] - want[i]).abs()).fold(0.0, f32::max);
            assert!(worst < 5e-4, "{rate} Hz: {worst}");
        }
        Ok(())
    }

    #[test]
    fn frequencies_above_8_khz_are_filtered_out() -> Result<()> {
        let got = speech(&tone(12_000.0, 48_000, 48_000), &[1.0], 48_000)?;
        let worst = got.samples[200..15_800].iter().fold(0f32, |m, x| m.max(x.abs()));
        assert!(worst < 1e-3, "{worst}");
        Ok(())
    }

    #[test]
    fn samples_are_16_bit_values_and_clipped() -> Result<()> {
        let got = speech(&[0.1, 1.5, -1.5, 1.0 / 32768.0], &[1.0], 16_000)?;
        assert_eq!(got.samples, [3277.0 / 32768.0, 32767.0 / 32768.0, -1.0, 1.0 / 32768.0]);
        Ok(())
    }

    #[test]
    fn channels_are_mixed_as_ffmpeg_mixes_them() {
        assert_eq!(downmix_weights(0b100, 1), [1.0]);
        assert_eq!(downmix_weights(0b11, 2), [0.5, 0.5]);
        assert_eq!(downmix_weights(0, 3), [1.0 / 3.0; 3]);
        // 5.1: L, R, C, LFE and two rear channels.
        let surround = downmix_weights(0b11_1111, 6);
        assert!((surround[2] / surround[0] - 2f32.sqrt()).abs() < 1e-6);
        assert_eq!((surround[3], surround[4]), (0.0, surround[2] / 2.0));
        assert!((surround.iter().sum::<f32>() - 1.0).abs() < 1e-6);
    }

    #[test]
    fn the_sampling_rate_may_change() -> Result<()> {
        let mut builder = SpeechBuilder::new(Path::new("chained.ogg"));
        builder.push(&tone(200.0, 48_000, 48_000), &[1.0], 48_000)?;
        builder.push(&tone(200.0, 16_000, 8_000), &[1.0], 16_000)?;
        let got = builder.finish()?;
        assert_eq!((got.samples.len(), got.duration_seconds), (24_000, 1.5));
        Ok(())
    }

    #[test]
    fn padding_can_be_removed() -> Result<()> {
        let mut builder = SpeechBuilder::new(Path::new("voice.m4a"));
        builder.push(&vec![0.25; 2 * 89_088], &[0.5, 0.5], 44_100)?;
        builder.drop_last(888);
        let got = builder.finish()?;
        assert_eq!((got.samples.len(), got.duration_seconds, got.frames()), (32_000, 2.0, 50));
        Ok(())
    }

    #[test]
    fn a_non_finite_sample_is_reported_with_its_time() {
        let mut samples = vec![0f32; 8_000];
        samples[4_000] = f32::NAN;
        let message = speech(&samples, &[1.0], 16_000).unwrap_err().to_string();
        assert!(message.contains("voice.wav") && message.contains("0.250"), "{message}");
        assert!(matches!(speech(&[], &[1.0], 16_000), Err(Error::Empty { .. })));
        assert!(matches!(speech(&[0.0], &[1.0], 3), Err(Error::Unreadable { .. })));
    }

    #[test]
    fn silence_is_appended_up_to_a_frame() -> Result<()> {
        let voice = speech(&tone(440.0, 48_000, 48_010), &[1.0], 48_000)?;
        let padded = voice.clone().padded_to(75);
        assert_eq!((padded.samples.len(), padded.duration_seconds, padded.frames()), (48_000, 3.0, 75));
        assert_eq!(padded.samples[..voice.samples.len()], voice.samples);
        assert!(padded.samples[voice.samples.len()..].iter().all(|&x| x == 0.0));
        for frames in [0, 26] {
            let same = voice.clone().padded_to(frames);
            assert_eq!((same.samples.len(), same.frames()), (voice.samples.len(), 26));
        }
        Ok(())
    }

    #[test]
    fn the_number_of_frames_is_free_of_rounding_errors() {
        let frames = |duration_seconds| Speech { samples: vec![0.0], duration_seconds, damaged: 0 }.frames();
        assert_eq!([0.28, 2.0, 3.2, 48.0, 0.003].map(frames), [7, 50, 80, 1200, 1]);
        assert_eq!(frames(2.0 + 1.0 / 44_100.0), 51);
    }
}
