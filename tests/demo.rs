//! The built-in model as a user meets it: `latentsync demo`, and whether the mouth follows the voice.

#![cfg(feature = "demo")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use assert_cmd::Command;
use assert_cmd::cargo::cargo_bin;
use latentsync::anchors::FaceFinder;
use latentsync::demo::{DemoInputs, Sentence, correlation, openings};
use latentsync::options::FaceSelector;
use latentsync::stages::decode_video::{VideoOptions, VideoReader};
use latentsync::weights::HubSettings;

/// What `latentsync demo` printed and where it wrote, once for all tests.
struct Demo {
    directory: PathBuf,
    stdout: String,
}

static DEMO: LazyLock<Demo> = LazyLock::new(|| {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("demo");
    let _ = fs::remove_dir_all(&directory);
    let directory = directory.join("made by it");
    // Nowhere to fetch from, nowhere to keep anything: it needs neither.
    let ran = Command::new(cargo_bin("latentsync"))
        .args(["demo", "-q", "--out"])
        .arg(&directory)
        .env_remove("HOME")
        .env("HF_HUB_CACHE", "/nonexistent")
        .env("HF_HUB_OFFLINE", "1")
        .assert()
        .success();
    Demo { directory, stdout: String::from_utf8(ran.get_output().stdout.clone()).unwrap() }
});

impl Demo {
    fn spoken(&self, sentence: Sentence) -> Vec<f64> {
        let name = match sentence {
            Sentence::First => "spoken-1.mp4",
            Sentence::Second => "spoken-2.mp4",
        };
        openings(&self.directory.join(name)).unwrap()
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Frames by which `got` is late, where it is most like `want`.
fn best_offset(got: &[f64], want: &[f64]) -> i32 {
    let at = |late: i32| {
        let (skip_got, skip_want) = (late.max(0) as usize, (-late).max(0) as usize);
        correlation(&got[skip_got..], &want[skip_want..])
    };
    (-6..=6).max_by(|a, b| at(*a).total_cmp(&at(*b))).unwrap()
}

#[test]
fn the_mouth_follows_both_sentences() {
    for sentence in Sentence::ALL {
        let (got, want) = (DEMO.spoken(sentence), sentence.wanted_openings().unwrap());
        assert_eq!(got.len(), want.len(), "{sentence:?}");
        let (follows, offset) = (correlation(&got, &want), best_offset(&got, &want));
        eprintln!("{sentence:?}: correlation {follows:.3}, offset {offset}");
        assert!(follows >= 0.85, "{sentence:?}: correlation {follows:.3}");
        assert!(offset.abs() <= 1, "{sentence:?}: {offset} frames late");
    }
}

/// It is the voice that moves the mouth: the same face follows the other sentence no more than the sentences are alike.
#[test]
fn the_other_sentence_moves_the_mouth_otherwise() {
    let [first, second] = Sentence::ALL;
    let (first_wants, second_wants) = (first.wanted_openings().unwrap(), second.wanted_openings().unwrap());
    let alike = correlation(&first_wants, &second_wants);
    assert!(alike.abs() < 0.15, "the sentences are alike: {alike:.3}");
    for (sentence, others) in [(first, &second_wants), (second, &first_wants)] {
        let strays = correlation(&DEMO.spoken(sentence), others);
        eprintln!("{sentence:?}: {strays:.3} with the other sentence");
        assert!(strays < 0.2, "{sentence:?}: {strays:.3} with the other sentence");
    }
}

#[test]
fn silence_leaves_the_mouth_shut() {
    let directory = tempfile::tempdir().unwrap();
    let inputs = DemoInputs::write(directory.path()).unwrap();
    let (silence, out) = (directory.path().join("silence.wav"), directory.path().join("silent.mp4"));
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: 16_000,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut wav = hound::WavWriter::create(&silence, spec).unwrap();
    (0..32_000).for_each(|_| wav.write_sample(0_i16).unwrap());
    wav.finalize().unwrap();
    let mut command = Command::new(cargo_bin("latentsync"));
    command.args(["sync", "-q", "--model", "demo", "--seed", "3", "--video"]).arg(&inputs.face);
    command.arg("--audio").arg(&silence).arg("--anchors").arg(&inputs.anchors).arg("-o").arg(&out);
    command.assert().success();
    let (silent, speaking) = (mean(&openings(&out).unwrap()), mean(&DEMO.spoken(Sentence::First)));
    eprintln!("open in silence {silent:.4}, speaking {speaking:.4}");
    assert!(silent < 0.15 * speaking, "{silent:.4} in silence, {speaking:.4} speaking");
}

#[test]
fn everything_that_is_named_is_there() {
    for name in [
        "face.mp4",
        "voice-1.wav",
        "voice-2.wav",
        "spoken-1.mp4",
        "spoken-2.mp4",
        "spoken-1.png",
        "spoken-2.png",
    ] {
        let path = DEMO.directory.join(name);
        assert!(DEMO.stdout.contains(path.to_str().unwrap()), "{name} is not named in:\n{}", DEMO.stdout);
        assert!(fs::metadata(&path).unwrap().len() > 1000, "{name}");
    }
    let strip = image::open(DEMO.directory.join("spoken-1.png")).unwrap().to_rgb8();
    assert_eq!(strip.width(), 1600);
    // The input's row and the output's: the same brows, other mouths.
    let differing = |rows: std::ops::Range<u32>| {
        let pairs = rows.flat_map(|y| (0..1600).map(move |x| (x, y)));
        let differ = |&(x, y): &(u32, u32)| {
            let (a, b) = (strip.get_pixel(x, y), strip.get_pixel(x, y + 168));
            (0..3).any(|k| a[k].abs_diff(b[k]) > 24)
        };
        pairs.filter(differ).count()
    };
    assert!(differing(0..50) < 40, "{} pixels above the faces differ", differing(0..50));
    assert!(differing(80..140) > 300, "{} pixels around the mouths differ", differing(80..140));
}

/// The anchors that come with the clip are where the default detector finds them.
#[test]
fn the_detector_finds_the_drawn_face() {
    let directory = tempfile::tempdir().unwrap();
    let inputs = DemoInputs::write(directory.path()).unwrap();
    let text = fs::read_to_string(&inputs.anchors).unwrap();
    let anchors: Vec<[[f64; 2]; 3]> = serde_json::from_str(&text).unwrap();
    if let Err(error) = latentsync::weights::shape_predictor(&HubSettings::from_env()) {
        return eprintln!("skipped: {error}");
    }
    let found = detected(&inputs.face);
    assert_eq!(found.len(), anchors.len());
    let mut errors = Vec::new();
    for (found, [left, right, nose]) in found.iter().zip(&anchors) {
        let brows = (right[0] - left[0]).hypot(right[1] - left[1]);
        for (a, b) in found.iter().zip([left, right, nose]) {
            errors.push((a[0] - b[0]).hypot(a[1] - b[1]) / brows);
        }
    }
    eprintln!("anchors: mean distance {:.4} of the brows'", mean(&errors));
    assert!(mean(&errors) < 0.06, "{:.4}", mean(&errors));
}

/// Left brow, right brow and nose in every frame.
fn detected(video: &Path) -> Vec<[[f64; 2]; 3]> {
    let options = latentsync::LoadOptions::default();
    let finder = FaceFinder::new(&options, HubSettings::from_env());
    let job = latentsync::Options { face: FaceSelector::Largest, ..latentsync::Options::default() };
    let mut tracker = finder.tracker(&job, models::face::FaceChoice::Largest).unwrap();
    let mut reader = VideoReader::open(video, VideoOptions::default()).unwrap();
    let mut found = Vec::new();
    while let Some(picture) = reader.next().unwrap() {
        let face = tracker.next(&picture.to_rgb().unwrap()).unwrap().expect("a face in every frame");
        let anchors = face.anchors;
        found.push([anchors.left_brow, anchors.right_brow, anchors.nose].map(|p| p.map(f64::from)));
    }
    found
}

/// Files of the user's own that happen to have the demo's names stay as they are.
#[test]
fn foreign_files_are_not_overwritten() {
    let directory = tempfile::tempdir().unwrap();
    let mine = directory.path().join("face.mp4");
    fs::write(&mine, "mine").unwrap();
    let mut command = Command::new(cargo_bin("latentsync"));
    let ran = command.args(["demo", "-q", "--out"]).arg(directory.path()).assert().failure();
    let stderr = String::from_utf8_lossy(&ran.get_output().stderr).into_owned();
    assert!(stderr.contains("face.mp4") && stderr.contains("another file of this name"), "{stderr}");
    assert_eq!(fs::read_to_string(&mine).unwrap(), "mine");
}
