//! Reads [`Speech`] from any file with an audio stream. Plain WAV is read by `hound` in every build; all
//! other formats, including videos, by FFmpeg.

use std::io::ErrorKind;
use std::path::Path;

use hound::{SampleFormat, WavReader, WavSpec};

#[cfg(feature = "media")]
use crate::audio::decode::decode;
use crate::audio::speech::{Speech, SpeechBuilder, downmix_weights};
use crate::audio::{Error, Result};
use crate::system;
use crate::system::CancelToken;

/// Samples per channel that are processed at once.
const BATCH: usize = 4096;

/// Reads the audio of a file as 16 kHz mono. Of several audio streams, the one that players select is used.
/// Time 0 is the first sample of the stream, even if the stream starts later than others in the file.
///
/// Fails for missing files, files without audio stream, empty audio, NaN or infinite samples, and truncated
/// files.
pub fn load_speech(path: impl AsRef<Path>) -> Result<Speech> {
    load_speech_until(path, &CancelToken::new())
}

/// [`load_speech`], or [`system::Error::Interrupted`] soon after `cancel` says so.
pub fn load_speech_until(path: impl AsRef<Path>, cancel: &CancelToken) -> Result<Speech> {
    let path = path.as_ref();
    match WavReader::open(path) {
        Ok(wav) if is_plain(&wav) => read_wav(path, wav, cancel),
        Err(hound::Error::IoError(source)) if source.kind() == ErrorKind::NotFound => {
            Err(system::Error::ReadFile { path: path.to_path_buf(), source }.into())
        }
        _ => decode(path, cancel),
    }
}

/// Whether `hound` reads this file as well as FFmpeg. It does not report the channel layout, so files with
/// more than two channels are left to FFmpeg, as are those with a length of 0, which streaming writers
/// produce.
fn is_plain<R: std::io::Read>(wav: &WavReader<R>) -> bool {
    let WavSpec { channels, bits_per_sample, sample_format, .. } = wav.spec();
    let known = match sample_format {
        SampleFormat::Int => matches!(bits_per_sample, 8 | 16 | 24 | 32),
        SampleFormat::Float => bits_per_sample == 32,
    };
    known && (!cfg!(feature = "media") || channels <= 2 && wav.len() > 0)
}

fn read_wav<R: std::io::Read>(path: &Path, mut wav: WavReader<R>, cancel: &CancelToken) -> Result<Speech> {
    let spec = wav.spec();
    match spec.sample_format {
        SampleFormat::Float => read_samples(path, &mut wav, cancel, |x: f32| x),
        SampleFormat::Int => {
            let scale = 0.5f32.powi(i32::from(spec.bits_per_sample) - 1);
            read_samples(path, &mut wav, cancel, |x: i32| x as f32 * scale)
        }
    }
}

fn read_samples<R: std::io::Read, S: hound::Sample>(
    path: &Path,
    wav: &mut WavReader<R>,
    cancel: &CancelToken,
    to_f32: impl Fn(S) -> f32,
) -> Result<Speech> {
    let spec = wav.spec();
    let (promised, rate) = (wav.len(), spec.sample_rate);
    let channels = usize::from(spec.channels);
    let weights = downmix_weights(default_mask(channels), channels);
    let mut builder = SpeechBuilder::new(path);
    let mut batch = Vec::with_capacity(BATCH * channels);
    for (read, sample) in (0u32..).zip(wav.samples::<S>()) {
        match sample {
            Ok(sample) => batch.push(to_f32(sample)),
            Err(_) if is_open_ended(promised, &spec) => break,
            Err(_) => {
                let seconds = |samples: u32| f64::from(samples) / channels as f64 / f64::from(rate);
                return Err(Error::Truncated {
                    path: path.to_path_buf(),
                    got: seconds(read),
                    expected: seconds(promised),
                });
            }
        }
        if batch.len() == BATCH * channels {
            cancel.check()?;
            builder.push(&batch, &weights, rate)?;
            batch.clear();
        }
    }
    builder.push(&batch, &weights, rate)?;
    builder.finish()
}

/// Whether the length is near the header's limit of 2 or 4 GB, which means "until the end": the writer could
/// not seek back.
fn is_open_ended(samples: u32, spec: &WavSpec) -> bool {
    let bytes = u64::from(samples) * u64::from(spec.bits_per_sample.div_ceil(8));
    const MARGIN: u64 = 1 << 16;
    bytes + MARGIN >= 1 << 32 || (bytes..bytes + MARGIN).contains(&(1 << 31))
}

/// Default channel mask for a number of channels, with the bits of WAVE.
fn default_mask(channels: usize) -> u64 {
    match channels {
        1 => 0b100,
        2 => 0b11,
        3 => 0b1011,
        6 => 0b11_1111,
        8 => 0b110_0011_1111,
        _ => 0,
    }
}

#[cfg(not(feature = "media"))]
fn decode(path: &Path, _: &CancelToken) -> Result<Speech> {
    Err(Error::NotWav { path: path.to_path_buf() })
}

#[cfg(test)]
mod tests {
    use std::f32::consts::PI;
    use std::path::PathBuf;

    use super::*;

    /// Writes one second of a tone with a different frequency per channel.
    fn write_wav(path: &Path, spec: WavSpec) {
        let mut wav = hound::WavWriter::create(path, spec).unwrap();
        let scale = 2f32.powi(i32::from(spec.bits_per_sample) - 1);
        for i in 0..spec.sample_rate {
            for channel in 0..spec.channels {
                let hz = 200.0 * f32::from(channel + 1);
                let x = 0.5 * (2.0 * PI * hz * i as f32 / spec.sample_rate as f32).sin();
                match spec.sample_format {
                    SampleFormat::Float => wav.write_sample(x).unwrap(),
                    SampleFormat::Int => wav.write_sample((x * scale) as i32).unwrap(),
                }
            }
        }
        wav.finalize().unwrap();
    }

    fn spec(channels: u16, sample_rate: u32, bits_per_sample: u16) -> WavSpec {
        WavSpec { channels, sample_rate, bits_per_sample, sample_format: SampleFormat::Int }
    }

    fn float(channels: u16, sample_rate: u32) -> WavSpec {
        WavSpec { sample_format: SampleFormat::Float, ..spec(channels, sample_rate, 32) }
    }

    fn file(directory: &tempfile::TempDir, name: &str) -> PathBuf {
        directory.path().join(name)
    }

    /// The largest difference, except near the ends, where the abrupt start and end of the tone matter.
    fn worst(a: &Speech, b: &Speech) -> f32 {
        assert_eq!(a.samples.len(), b.samples.len());
        let difference = |i: usize| (a.samples[i] - b.samples[i]).abs();
        (100..a.samples.len() - 100).map(difference).fold(0.0, f32::max)
    }

    #[test]
    fn every_plain_wav_format_has_the_same_samples() {
        let directory = tempfile::tempdir().unwrap();
        let path = file(&directory, "voice.wav");
        write_wav(&path, spec(1, 16_000, 16));
        let want = load_speech(&path).unwrap();
        assert_eq!((want.samples.len(), want.duration_seconds), (16_000, 1.0));
        for (spec, tolerance) in [
            (spec(1, 16_000, 8), 1.0 / 128.0),
            (spec(1, 16_000, 24), 1e-4),
            (spec(1, 16_000, 32), 1e-4),
            (float(1, 16_000), 1e-4),
            (spec(1, 48_000, 16), 1e-3),
            (float(1, 44_100), 1e-3),
        ] {
            write_wav(&path, spec);
            let got = load_speech(&path).unwrap();
            assert_eq!(got.duration_seconds, 1.0);
            assert!(worst(&got, &want) < tolerance, "{spec:?}: {}", worst(&got, &want));
        }
        // Two channels are averaged.
        write_wav(&path, spec(2, 16_000, 16));
        let got = load_speech(&path).unwrap();
        let other = |i: usize| 0.5 * (2.0 * PI * 400.0 * i as f32 / 16_000.0).sin();
        let mean = |i: usize| (want.samples[i] + other(i)) / 2.0;
        assert!((0..16_000).all(|i| (got.samples[i] - mean(i)).abs() < 1e-4));
    }

    #[cfg(feature = "media")]
    #[test]
    fn ffmpeg_reads_a_wav_as_hound_does() {
        let directory = tempfile::tempdir().unwrap();
        // FFmpeg would interpret the colon as the end of a protocol.
        let path = file(&directory, "take 2: voice.wav");
        for spec in [spec(1, 16_000, 16), spec(2, 44_100, 24), float(2, 48_000), spec(1, 22_050, 8)] {
            write_wav(&path, spec);
            let (hound, ffmpeg) = (load_speech(&path).unwrap(), decode(&path, &CancelToken::new()).unwrap());
            assert_eq!(hound.duration_seconds, ffmpeg.duration_seconds);
            assert!(worst(&hound, &ffmpeg) <= 1.0 / 32768.0, "{spec:?}");
        }
        // 5.1 channels in the order of WAVE, which FFmpeg reads.
        write_wav(&path, spec(6, 16_000, 16));
        let surround = load_speech(&path).unwrap();
        let peak = surround.samples.iter().fold(0f32, |peak, x| peak.max(x.abs()));
        assert!(peak > 0.2 && peak <= 0.5, "{peak}");
    }

    #[test]
    fn missing_files_and_files_without_audio_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let missing = load_speech(file(&directory, "voice.wav")).unwrap_err();
        assert!(
            matches!(missing, Error::System(system::Error::ReadFile { .. }))
                && missing.to_string().contains("voice.wav")
        );

        let path = file(&directory, "notes.txt");
        for text in ["", "Dear diary, today I recorded nothing."] {
            std::fs::write(&path, text).unwrap();
            let error = load_speech(&path).unwrap_err();
            assert!(error.to_string().contains("notes.txt"), "{error}");
        }
        assert!(load_speech(directory.path()).is_err());
    }

    #[cfg(feature = "media")]
    #[test]
    fn a_file_without_an_audio_stream_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = file(&directory, "picture.png");
        image::RgbImage::new(16, 16).save(&path).unwrap();
        let error = load_speech(&path).unwrap_err();
        assert!(
            matches!(error, Error::Media(crate::media::Error::NoAudioStream { .. }))
                && error.to_string().contains("picture.png")
        );
    }

    #[test]
    fn a_truncated_wav_is_refused_and_an_open_ended_one_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = file(&directory, "voice.wav");
        write_wav(&path, spec(1, 16_000, 16));
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.truncate(44 + 2 * 4_000);
        std::fs::write(&path, &bytes).unwrap();
        let message = load_speech(&path).unwrap_err().to_string();
        assert!(message.contains("voice.wav") && message.contains("0.25 s"), "{message}");
        assert!(message.contains("1.00 s"), "{message}");

        // The length that a program writes if its output is a pipe.
        for length in [0x7fff_f000u32, 0xffff_fff0] {
            bytes[40..44].copy_from_slice(&length.to_le_bytes());
            std::fs::write(&path, &bytes).unwrap();
            assert_eq!(load_speech(&path).unwrap().samples.len(), 4_000, "{length:x}");
        }
    }

    #[test]
    fn empty_audio_and_non_finite_samples_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = file(&directory, "voice.wav");
        hound::WavWriter::create(&path, spec(1, 16_000, 16)).unwrap().finalize().unwrap();
        let error = load_speech(&path).unwrap_err();
        assert!(matches!(error, Error::Empty { .. }), "{error}");

        for value in [f32::NAN, f32::INFINITY] {
            let mut wav = hound::WavWriter::create(&path, float(2, 48_000)).unwrap();
            for i in 0..2 * 48_000 {
                wav.write_sample(if i == 2 * 36_000 + 1 { value } else { 0.0 }).unwrap();
            }
            wav.finalize().unwrap();
            let message = load_speech(&path).unwrap_err().to_string();
            assert!(message.contains("voice.wav") && message.contains("second 0.750"), "{message}");
        }
    }

    #[test]
    fn three_milliseconds_are_accepted() {
        let directory = tempfile::tempdir().unwrap();
        let path = file(&directory, "click.wav");
        for (rate, frames, want) in [(16_000, 48, 48), (44_100, 132, 48), (48_000, 1, 1)] {
            let mut wav = hound::WavWriter::create(&path, spec(1, rate, 16)).unwrap();
            (0..frames).for_each(|_| wav.write_sample(1000).unwrap());
            wav.finalize().unwrap();
            let speech = load_speech(&path).unwrap();
            assert_eq!((speech.samples.len(), speech.frames()), (want, 1));
        }
    }
}
