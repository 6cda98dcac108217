//! Voices in common recording formats, and voice activity.

use std::f32::consts::PI;
use std::ops::{Range, RangeInclusive};
use std::path::Path;

use latentsync::audio::{Speech, VoiceActivity, load_speech};
use tempfile::TempDir;

use crate::common::make;
use crate::demo_clip;

/// Largest normalised cross-correlation of two sounds, at most 1, for a delay of the first by one of `lags` samples.
fn correlation(got: &[f32], want: &[f32], lags: RangeInclusive<isize>) -> f32 {
    let at = |lag: isize| {
        let (mut both, mut one, mut other) = (0f64, 1e-9f64, 1e-9f64);
        for (i, &want) in want.iter().enumerate() {
            let index = usize::try_from(i as isize + lag).ok();
            let got = index.and_then(|i| got.get(i)).copied().unwrap_or(0.0);
            both += f64::from(got * want);
            one += f64::from(got * got);
            other += f64::from(want * want);
        }
        (both / (one * other).sqrt()) as f32
    };
    lags.map(at).fold(-1.0, f32::max)
}

/// File name, `ffmpeg` arguments that make it from a 16 kHz recording, smallest accepted correlation, and accepted
/// delays in samples of 16 kHz.
type Format = (&'static str, &'static str, f32, RangeInclusive<isize>);

const FORMATS: [Format; 20] = [
    ("8-bit.wav", "-c:a pcm_u8", 0.97, 0..=0),
    ("24-bit.wav", "-ar 96000 -c:a pcm_s24le", 0.999, 0..=0),
    ("double.wav", "-ar 48000 -c:a pcm_f64le", 0.999, 0..=0),
    ("8 channels.wav", "-ac 8 -ar 192000 -c:a pcm_s32le", 0.999, 0..=0),
    ("8 channels.mkv", "-ac 8 -ar 192000 -c:a pcm_s24le", 0.999, 0..=0),
    ("adpcm.wav", "-c:a adpcm_ms", 0.99, 0..=0),
    ("ima.wav", "-c:a adpcm_ima_wav", 0.99, 0..=0),
    ("law.wav", "-c:a pcm_mulaw", 0.99, 0..=0),
    ("law.au", "-c:a pcm_alaw", 0.99, 0..=0),
    ("big-endian.aiff", "-c:a pcm_s16be", 0.9999, 0..=0),
    ("voice.flac", "-c:a flac", 0.9999, 0..=0),
    ("voice.m4a", "-c:a alac", 0.9999, 0..=0),
    ("aac.m4a", "-ar 44100 -c:a aac -b:a 128k", 0.98, 0..=1),
    ("voice.mp3", "-ar 44100 -c:a libmp3lame -b:a 128k", 0.98, 0..=1),
    ("voice.opus", "-c:a libopus -b:a 64k", 0.95, 0..=8),
    ("voice.ogg", "-ar 44100 -c:a libvorbis", 0.95, 0..=1),
    // Formats that do not store the encoder's delay: AC-3 starts late, and FFmpeg's WMA encoder loses a frame.
    ("voice.ac3", "-ar 48000 -c:a ac3 -b:a 192k", 0.98, 0..=100),
    ("voice.wma", "-ar 44100 -c:a wmav2 -b:a 128k", 0.98, -750..=-740),
    ("voice.gsm", "-ar 8000 -c:a libgsm", 0.95, 0..=0),
    ("gsm.wav", "-ar 8000 -c:a libgsm_ms", 0.95, 0..=0),
];

/// Converts a recording to every format. The voice must stay the same; `gsm_correlation` is the smallest accepted
/// correlation for GSM, a model of the human voice that fits some voices better than others.
pub fn check_formats(source: &Path, gsm_correlation: f32) {
    let want = load_speech(source).unwrap();
    let directory = TempDir::new().unwrap();
    for (name, arguments, min_correlation, lags) in FORMATS {
        let arguments = format!("-i {} {arguments}", source.display());
        let path = make_with_spaces(&directory, name, &arguments);
        let got = load_speech(&path).unwrap_or_else(|e| panic!("{name}: {e}"));
        let correlation = correlation(&got.samples, &want.samples, lags);
        let min_correlation = if name.contains("gsm") { gsm_correlation } else { min_correlation };
        assert!(correlation >= min_correlation, "{name}: {correlation}");
        // The last block of a format may be padded.
        let longer = got.duration_seconds - want.duration_seconds;
        assert!((-0.05..0.14).contains(&longer), "{name}: {longer} s longer");
    }
}

#[test]
fn a_voice_is_the_same_in_any_format() {
    let directory = TempDir::new().unwrap();
    // The built-in voice has more treble than the telephone formats can store.
    let low_pass = ["lowpass=f=2000"; 4].join(",");
    let source = format!("-i {} -af {low_pass} -c:a pcm_s16le", demo_clip::voice().display());
    check_formats(&make(&directory, "source.wav", &source), 0.92);
}

/// [`make`] with a file name that may contain spaces.
fn make_with_spaces(directory: &TempDir, name: &str, arguments: &str) -> std::path::PathBuf {
    let made = make(directory, &name.replace(' ', "_"), arguments);
    let path = directory.path().join(name);
    std::fs::rename(made, &path).unwrap();
    path
}

/// A start time of the audio stream in a video does not delay the voice.
#[test]
fn a_voice_starts_with_its_first_sample() {
    let source = demo_clip::voice();
    let want = load_speech(&source).unwrap();
    let directory = TempDir::new().unwrap();
    for name in ["late.mkv", "late.mov"] {
        let arguments = format!(
            "-f lavfi -i testsrc=d=4:s=64x64 -itsoffset 0.5 -i {} -c:v mpeg4 -c:a pcm_s16le",
            source.display()
        );
        let path = make(&directory, name, &arguments);
        let got = load_speech(&path).unwrap();
        assert_eq!((got.samples.len(), got.frames()), (want.samples.len(), want.frames()), "{name}");
        assert_eq!(got.samples, want.samples, "{name}");
    }
}

#[test]
fn the_default_audio_stream_is_read_or_else_the_first() {
    let directory = TempDir::new().unwrap();
    let tones =
        "-f lavfi -i sine=300:d=1:r=16000 -f lavfi -i sine=1000:d=1:r=16000 -map 0 -map 1 -c:a pcm_s16le";
    for (name, default, hz) in [
        ("second.mkv", "-disposition:a:0 0 -disposition:a:1 default", 1000.0),
        ("first.mkv", "-disposition:a:0 default -disposition:a:1 0", 300.0),
        ("neither.mkv", "-disposition:a:0 0 -disposition:a:1 0 -default_mode passthrough", 300.0),
    ] {
        let path = make(&directory, name, &format!("{tones} {default}"));
        let got = load_speech(&path).unwrap();
        let tone: Vec<f32> = (0..16_000).map(|i| (2.0 * PI * hz * i as f32 / 16_000.0).sin()).collect();
        let correlation = correlation(&got.samples, &tone, 0..=0);
        assert!(correlation > 0.99, "{name}: {correlation}");
    }
}

/// Two sentences, each followed by two seconds of zeros.
struct Scene {
    samples: Vec<f32>,
    sentences: [Range<usize>; 2],
}

impl Scene {
    /// Samples of each pause.
    const PAUSE: usize = 32_000;

    fn new(first: &Path, second: &Path) -> Self {
        let [first, second] = [first, second].map(|path| load_speech(path).unwrap().samples);
        let begin = first.len() + Self::PAUSE;
        let sentences = [0..first.len(), begin..begin + second.len()];
        let pause = vec![0.0; Self::PAUSE];
        Self { samples: [&first[..], &pause, &second, &pause].concat(), sentences }
    }

    /// The scene with added noise of root mean square `level`, times `gain`, quantised to 16 bits.
    fn with(&self, gain: f32, noise: impl Fn(usize) -> f32, level: f32) -> Speech {
        let own: f32 = (0..16_000).map(|i| noise(i).powi(2)).sum::<f32>() / 16_000.0;
        let scale = level / own.sqrt().max(1e-9);
        let quantise = |x: f32| (x * 32768.0).round().clamp(-32768.0, 32767.0) / 32768.0;
        let samples: Vec<f32> =
            (0..).zip(&self.samples).map(|(i, x)| quantise(gain * (x + scale * noise(i)))).collect();
        Speech { duration_seconds: samples.len() as f64 / 16_000.0, samples, damaged: 0 }
    }

    /// Error rates over pieces of 20 ms: loud speech that is missed, and silence, at least half a second from speech,
    /// that is detected as speech.
    fn error_rates(&self, activity: &VoiceActivity) -> [f32; 2] {
        let level = |at: usize| {
            let piece = &self.samples[at..(at + 320).min(self.samples.len())];
            (piece.iter().map(|x| x * x).sum::<f32>() / piece.len() as f32).sqrt()
        };
        let nothing = |at: usize| self.sentences.iter().all(|s| at + 8_000 < s.start || at >= s.end + 8_000);
        let share = |moments: Vec<usize>, wrong: &dyn Fn(f32) -> bool| {
            let strength = |at: usize| activity.strength(at as f64 / 16_000.0);
            moments.iter().filter(|&&at| wrong(strength(at))).count() as f32 / moments.len() as f32
        };
        let moments = || (0..self.samples.len()).step_by(320);
        let missed = share(moments().filter(|&at| level(at) > 0.03).collect(), &|strength| strength < 1.0);
        let detected = share(moments().filter(|&at| nothing(at)).collect(), &|strength| strength > 0.0);
        [missed, detected]
    }
}

/// Measures voice activity on two recordings of speech, in several levels of noise.
pub fn check_voice_activity(first: &Path, second: &Path) {
    let scene = Scene::new(first, second);
    let hiss =
        |i: usize| ((i as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as f32 / 8_388_608.0 - 1.0;
    let hum = |i: usize| {
        let wave = |harmonic: f32| (2.0 * PI * 50.0 * harmonic * i as f32 / 16_000.0).sin() / harmonic;
        wave(1.0) + wave(2.0) + wave(3.0)
    };
    // The level of the speech is about 0.12; the noise is 20 and 10 dB below it.
    let cases = [
        ("clean", scene.with(1.0, hiss, 0.0)),
        ("clean and 30 dB quieter", scene.with(0.03, hiss, 0.0)),
        ("hiss at -20 dB", scene.with(1.0, hiss, 0.012)),
        ("hiss at -10 dB", scene.with(1.0, hiss, 0.038)),
        ("hum at -20 dB", scene.with(1.0, hum, 0.012)),
        ("hum at -10 dB", scene.with(1.0, hum, 0.038)),
        ("hiss at -20 dB, 30 dB quieter", scene.with(0.03, hiss, 0.012)),
    ];
    for (name, speech) in cases {
        let activity = VoiceActivity::of(&speech);
        let [missed, detected] = scene.error_rates(&activity);
        eprintln!(
            "{name}: {missed:.3} of the speech missed, {detected:.3} of the silence detected as speech"
        );
        assert!(missed < 0.02, "{name}: {missed} of the speech missed");
        assert!(detected < 0.05, "{name}: {detected} of the silence detected as speech");
        assert_eq!(activity, VoiceActivity::of(&speech), "{name}");
    }

    // Silencing zeroes the pauses and keeps all of the speech.
    let speech = scene.with(1.0, hiss, 0.012);
    let activity = VoiceActivity::of(&speech);
    let silenced = speech.clone().silenced(&activity);
    let pause = scene.sentences[0].end + 8_000..scene.sentences[1].start - 8_000;
    assert!(silenced.samples[pause].iter().all(|&x| x == 0.0));
    assert_eq!(silenced.samples.len(), speech.samples.len());
    for (i, (a, b)) in silenced.samples.iter().zip(&speech.samples).enumerate() {
        assert!(a == b || activity.strength(i as f64 / 16_000.0) < 0.01, "sample {i}");
    }
}
