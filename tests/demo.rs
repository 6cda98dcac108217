//! The built-in model as a user meets it: `latentsync demo`, and whether the mouth follows the voice.

#![cfg(feature = "demo")]

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
    let follow = Sentence::ALL.map(|sentence| {
        let (got, want) = (DEMO.spoken(sentence), sentence.expected_openings().unwrap());
        assert_eq!(got.len(), want.len(), "{sentence:?}");
        let (follows, offset) = (correlation(&got, &want), best_offset(&got, &want));
        eprintln!("{sentence:?}: correlation {follows:.3}, offset {offset}");
        assert!(follows >= 0.6, "{sentence:?}: correlation {follows:.3}");
        assert!(offset.abs() <= 1, "{sentence:?}: {offset} frames late");
        follows
    });
    assert!(mean(&follow) >= 0.85, "correlations {follow:?}");
}

/// It is the voice that moves the mouth: the same face follows the other sentence no more than the sentences are alike.
#[test]
fn the_other_sentence_moves_the_mouth_otherwise() {
    let [first, second] = Sentence::ALL;
    let (first_wants, second_wants) =
        (first.expected_openings().unwrap(), second.expected_openings().unwrap());
    let alike = correlation(&first_wants, &second_wants);
    assert!(alike.abs() < 0.15, "the sentences are alike: {alike:.3}");
    for (sentence, others) in [(first, &second_wants), (second, &first_wants)] {
        let strays = correlation(&DEMO.spoken(sentence), others);
        eprintln!("{sentence:?}: {strays:.3} with the other sentence");
        assert!(strays < 0.2, "{sentence:?}: {strays:.3} with the other sentence");
    }
}

/// A clip of `seconds` in which nobody says anything.
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

/// What a model says of a video and its anchors after `seconds` of silence, written to `output`.
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
fn silence_leaves_the_mouth_shut_and_a_drawn_face_unremarked() {
    let directory = tempfile::tempdir().unwrap();
    let inputs = DemoInputs::write(directory.path()).unwrap();
    let out = directory.path().join("silent.mp4");
    let report = silent_job(&ModelChoice::Demo, &inputs.face, &inputs.anchors, 2, &out);
    assert!(report.warnings.is_empty(), "{:?}", report.warnings);
    let (silent, speaking) = (mean(&openings(&out).unwrap()), mean(&DEMO.spoken(Sentence::First)));
    eprintln!("open in silence {silent:.4}, speaking {speaking:.4}");
    assert!(silent < 0.15 * speaking, "{silent:.4} in silence, {speaking:.4} speaking");
}

#[test]
fn a_photographed_face_is_remarked_on_once() {
    let shared = std::env::var("LATENTSYNC_SHARED").unwrap_or_else(|_| "../shared".into());
    let media = Path::new(&shared).join("media");
    let directory = tempfile::tempdir().unwrap();
    // It knows no more than what it was made from.
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
        if !video.is_file() {
            eprintln!("skipped: no `{}` (set LATENTSYNC_SHARED)", video.display());
            continue;
        }
        // Two chunks.
        let report = silent_job(&model, &video, &anchors, 1, &directory.path().join("out.mp4"));
        let about = report.warnings.iter().filter(|warning| warning.contains("drawn faces only"));
        assert_eq!(about.count(), 1, "{clip}: {:?}", report.warnings);
    }
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

/// The anchors that come with the clip cut the same crops out of it as the default detector's.
#[test]
fn the_detector_sees_the_drawn_face_where_its_anchors_are() {
    let directory = tempfile::tempdir().unwrap();
    let inputs = DemoInputs::write(directory.path()).unwrap();
    if let Err(error) = weights::shape_predictor(&HubSettings::from_env()) {
        return eprintln!("skipped: {error}");
    }
    let text = fs::read_to_string(&inputs.anchors).unwrap();
    let anchors: Vec<[[f32; 2]; 3]> = serde_json::from_str(&text).unwrap();
    let built_in =
        anchors.into_iter().map(|[left_brow, right_brow, nose]| Anchors { left_brow, right_brow, nose });
    let (built_in, found) = (crops(built_in), crops(detected(&inputs.face)));
    assert_eq!(found.len(), built_in.len());
    let pairs = || found.iter().zip(&built_in);
    let distances: Vec<f64> = pairs()
        .flat_map(|(found, built_in)| {
            let side = (built_in[1][0] - built_in[0][0]).hypot(built_in[1][1] - built_in[0][1]);
            found.iter().zip(built_in).map(move |(a, b)| (a[0] - b[0]).hypot(a[1] - b[1]) / side)
        })
        .collect();
    eprintln!("crops' corners: mean distance {:.4} of their width", mean(&distances));
    assert!(mean(&distances) < 0.04, "{:.4}", mean(&distances));
}

/// Where the corners of the crop are in every frame: above left, above right, below left.
fn crops(anchors: impl IntoIterator<Item = Anchors>) -> Vec<[[f64; 2]; 3]> {
    // A crop of scale 1 for 256 pixels is 210 wide and 280 high, see `align_faces`.
    let mut aligner = FaceAligner::new(256);
    let corners = |anchors| {
        let to_frame = aligner.matrix(&anchors).unwrap().invert().unwrap();
        [[0.0, 0.0], [210.0, 0.0], [0.0, 280.0]].map(|corner| to_frame.apply(corner))
    };
    anchors.into_iter().map(corners).collect()
}

/// What the default detector sees in every frame.
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

/// A file of the user's own that happens to have the name of one of the inputs stays as it is.
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
