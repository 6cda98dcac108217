//! `latentsync demo` and the built-in model: does the mouth follow the voice?
//!
//! `shared::…` needs the shared material, `system::…` dlib's landmark model; both are ignored by default.
#![cfg(feature = "demo")]

#[path = "support/shared.rs"]
mod shared_material;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use assert_cmd::Command;
use assert_cmd::cargo::cargo_bin;
use candle_core::DType;
use latentsync::demo::{DemoInputs, Sentence, correlation, openings};
use latentsync::face::finder::FaceFinder;
use latentsync::options::{FaceSelector, VideoLonger};
use latentsync::stages::align_faces::FaceAligner;
use latentsync::stages::decode_video::{VideoOptions, VideoReader};
use latentsync::weights::{self, ConvertOptions, HubSettings};
use latentsync::{CancelToken, Job, LipSync, LoadOptions, ModelChoice, Options, Report};
use models::face::{Anchors, FaceChoice};

/// Output of one run of `latentsync demo`, which all tests share.
struct Demo {
    directory: PathBuf,
    stdout: String,
}

static DEMO: LazyLock<Demo> = LazyLock::new(|| {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("demo");
    let _ = fs::remove_dir_all(&directory);
    let directory = directory.join("new directory");
    // The demo needs neither a home directory nor the network.
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
    /// Mouth opening in each output frame.
    fn openings(&self, sentence: Sentence) -> Vec<f64> {
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

/// Delay of `got` against `want`, in frames, at which their correlation is largest.
fn best_delay(got: &[f64], want: &[f64]) -> i32 {
    let at = |delay: i32| {
        let (skip_got, skip_want) = (delay.max(0) as usize, (-delay).max(0) as usize);
        correlation(&got[skip_got..], &want[skip_want..])
    };
    (-6..=6).max_by(|a, b| at(*a).total_cmp(&at(*b))).unwrap()
}

#[test]
fn the_mouth_follows_both_sentences() {
    let correlations = Sentence::ALL.map(|sentence| {
        let (got, want) = (DEMO.openings(sentence), sentence.expected_openings().unwrap());
        assert_eq!(got.len(), want.len(), "{sentence:?}");
        let (correlation, delay) = (correlation(&got, &want), best_delay(&got, &want));
        eprintln!("{sentence:?}: correlation {correlation:.3}, delay {delay}");
        assert!(correlation >= 0.6, "{sentence:?}: correlation {correlation:.3}");
        assert!(delay.abs() <= 1, "{sentence:?}: a delay of {delay} frames");
        correlation
    });
    assert!(mean(&correlations) >= 0.85, "correlations {correlations:?}");
}

/// The voice moves the mouth, not the clip: with the other sentence, the openings correlate hardly more than the two
/// sentences do.
#[test]
fn the_mouth_does_not_follow_the_other_sentence() {
    let [first, second] = Sentence::ALL;
    let (first_wants, second_wants) =
        (first.expected_openings().unwrap(), second.expected_openings().unwrap());
    let between = correlation(&first_wants, &second_wants);
    assert!(between.abs() < 0.15, "the sentences correlate: {between:.3}");
    for (sentence, other) in [(first, &second_wants), (second, &first_wants)] {
        let correlation = correlation(&DEMO.openings(sentence), other);
        eprintln!("{sentence:?}: {correlation:.3} with the other sentence");
        assert!(correlation < 0.2, "{sentence:?}: {correlation:.3} with the other sentence");
    }
}

/// Writes a silent WAV file.
fn silence(path: &Path, seconds: u32) {
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: 16_000,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut wav = hound::WavWriter::create(path, spec).unwrap();
    (0..16_000 * seconds).for_each(|_| wav.write_sample(0_i16).unwrap());
    wav.finalize().unwrap();
}

/// Runs a job with `seconds` of silence as its voice.
fn silent_job(model: &ModelChoice, video: &Path, anchors: &Path, seconds: u32, output: &Path) -> Report {
    let voice = output.with_extension("wav");
    silence(&voice, seconds);
    let mut options = Options { seed: Some(3), ..Options::default() };
    options.duration.video_longer = VideoLonger::Trim;
    let job = Job {
        options,
        anchors: Some(anchors.to_path_buf()),
        ..Job::new(video.to_path_buf(), voice, output.to_path_buf())
    };
    let model = LipSync::load(model, &LoadOptions::default()).unwrap();
    model.run(&job, &mut (), &CancelToken::new()).unwrap()
}

#[test]
fn the_mouth_stays_shut_in_silence_and_a_drawn_face_gives_no_warning() {
    let directory = tempfile::tempdir().unwrap();
    let inputs = DemoInputs::write(directory.path()).unwrap();
    let out = directory.path().join("silent.mp4");
    let report = silent_job(&ModelChoice::Demo, &inputs.face, &inputs.anchors, 2, &out);
    assert!(report.warnings.is_empty(), "{:?}", report.warnings);
    let (silent, speaking) = (mean(&openings(&out).unwrap()), mean(&DEMO.openings(Sentence::First)));
    eprintln!("mean opening {silent:.4} in silence, {speaking:.4} speaking");
    assert!(silent < 0.15 * speaking, "{silent:.4} in silence, {speaking:.4} speaking");
}

mod shared {
    use super::*;

    #[test]
    #[ignore = "needs the shared material"]
    fn a_photographed_face_gives_one_warning() {
        let media = shared_material::directory().join("media");
        let directory = tempfile::tempdir().unwrap();
        // A converted copy of the built-in model knows the same faces.
        let convert = ConvertOptions {
            source: ModelChoice::Demo,
            output: directory.path().join("copy"),
            dtype: DType::BF16,
        };
        let copy = weights::convert(&convert, &HubSettings::from_env(), &mut |_| Ok(())).unwrap();
        let models = [ModelChoice::Demo, ModelChoice::Directory(copy.directory)];
        for (clip, model) in ["woman_2s", "man_4s"].into_iter().zip(models) {
            let (video, anchors) =
                (media.join(format!("{clip}.mp4")), media.join(format!("{clip}.landmarks3.json")));
            // A job of two chunks.
            let report = silent_job(&model, &video, &anchors, 1, &directory.path().join("out.mp4"));
            let warnings = report.warnings.iter().filter(|warning| warning.contains("drawn faces only"));
            assert_eq!(warnings.count(), 1, "{clip}: {:?}", report.warnings);
        }
    }
}

#[test]
fn every_file_that_the_demo_prints_exists() {
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
        assert!(DEMO.stdout.contains(path.to_str().unwrap()), "{name} is missing in:\n{}", DEMO.stdout);
        assert!(fs::metadata(&path).unwrap().len() > 1000, "{name}");
    }
    let strip = image::open(DEMO.directory.join("spoken-1.png")).unwrap().to_rgb8();
    assert_eq!(strip.width(), 1600);
    // The row of the input above that of the output: equal brows, different mouths.
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

mod system {
    use super::*;

    /// The clip's anchor file and the default detector give the same crops.
    #[test]
    #[ignore = "needs dlib's landmark model"]
    fn the_detector_finds_the_drawn_face_at_its_anchors() {
        let directory = tempfile::tempdir().unwrap();
        let inputs = DemoInputs::write(directory.path()).unwrap();
        let text = fs::read_to_string(&inputs.anchors).unwrap();
        let anchors: Vec<[[f32; 2]; 3]> = serde_json::from_str(&text).unwrap();
        let built_in =
            anchors.into_iter().map(|[left_brow, right_brow, nose]| Anchors { left_brow, right_brow, nose });
        let (built_in, found) = (crops(built_in), crops(detected(&inputs.face)));
        assert_eq!(found.len(), built_in.len());
        let pairs = found.iter().zip(&built_in);
        let distances: Vec<f64> = pairs
            .flat_map(|(found, built_in)| {
                let side = (built_in[1][0] - built_in[0][0]).hypot(built_in[1][1] - built_in[0][1]);
                found.iter().zip(built_in).map(move |(a, b)| (a[0] - b[0]).hypot(a[1] - b[1]) / side)
            })
            .collect();
        eprintln!("corners of the crops: mean distance {:.4} of their width", mean(&distances));
        assert!(mean(&distances) < 0.04, "{:.4}", mean(&distances));
    }
}

/// Corners of the crop in every frame: top left, top right, bottom left.
fn crops(anchors: impl IntoIterator<Item = Anchors>) -> Vec<[[f64; 2]; 3]> {
    // The crop for faces of 256 × 256 pixels is 210 × 280 pixels (width × height), see `align_faces`.
    let mut aligner = FaceAligner::new(256);
    let corners = |anchors| {
        let to_frame = aligner.matrix(&anchors).unwrap().invert().unwrap();
        [[0.0, 0.0], [210.0, 0.0], [0.0, 280.0]].map(|corner| to_frame.apply(corner))
    };
    anchors.into_iter().map(corners).collect()
}

/// Anchors of every frame by the default detector.
fn detected(video: &Path) -> Vec<Anchors> {
    let options = LoadOptions::default();
    let finder = FaceFinder::new(&options, HubSettings::from_env());
    let job = Options { face: FaceSelector::Largest, ..Options::default() };
    let mut tracker = finder.tracker(&job, FaceChoice::Largest).unwrap();
    let mut reader = VideoReader::open(video, VideoOptions::default()).unwrap();
    let mut found = Vec::new();
    while let Some(picture) = reader.next().unwrap() {
        let face = tracker.next(&picture.to_rgb().unwrap()).unwrap().expect("a face in every frame");
        found.push(face.anchors);
    }
    found
}

/// A file of the user with the name of one of the demo's inputs is an error, and stays unchanged.
#[test]
fn files_of_the_user_are_not_overwritten() {
    let directory = tempfile::tempdir().unwrap();
    let mine = directory.path().join("face.mp4");
    fs::write(&mine, "mine").unwrap();
    let mut command = Command::new(cargo_bin("latentsync"));
    let ran = command.args(["demo", "-q", "--out"]).arg(directory.path()).assert().failure();
    let stderr = String::from_utf8_lossy(&ran.get_output().stderr).into_owned();
    assert!(
        stderr.contains("face.mp4") && stderr.contains("a different file with this name exists"),
        "{stderr}"
    );
    assert_eq!(fs::read_to_string(&mine).unwrap(), "mine");
}
