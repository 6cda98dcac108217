//! Inputs of the jobs, and readers of their outputs.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use candle_core::Tensor;
use latentsync::options::OutputRate;
use latentsync::stages::decode_video::{VideoOptions, VideoReader};
use latentsync::{CancelToken, Job, LipSync, LoadOptions, ModelChoice, Options, Report};

use crate::{demo_clip, programs, small_model};

/// Frames of the clip.
const FRAMES: usize = 50;

/// The clip of [`Bench::video`], made once per test program.
fn clip() -> PathBuf {
    static PATH: LazyLock<PathBuf> = LazyLock::new(|| {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("jobs-clip.mp4");
        let pattern = "-f lavfi -i testsrc2=s=480x40:r=25:d=2 -filter_complex [0][1]overlay";
        let face = demo_clip::video();
        make(&path, &format!("-i {} {pattern} -frames:v {FRAMES} -pix_fmt yuv420p", face.display()));
        path
    });
    PATH.clone()
}

fn make(path: &Path, args: &str) {
    let mut words = vec!["-v", "error", "-nostdin", "-y"];
    words.extend(args.split_whitespace());
    words.push(path.to_str().unwrap());
    programs::run("ffmpeg", &words);
}

/// The loaded small model, and a directory with a clip and its anchors.
pub struct Bench {
    pub lipsync: LipSync,
    pub model: PathBuf,
    /// 50 frames of a drawn face, 480 × 480 pixels at 25 fps, without sound. The top 40 rows are a test pattern that is
    /// different in every frame.
    pub video: PathBuf,
    /// The face in every frame of `video`.
    pub anchors: PathBuf,
    /// 3.2 s of speech, 16 kHz mono.
    pub voice: PathBuf,
    pub directory: tempfile::TempDir,
}

impl Bench {
    pub fn open() -> Self {
        let model = small_model::directory();
        let lipsync = LipSync::load(&ModelChoice::Directory(model.clone()), &LoadOptions::default())
            .expect("the model loads");
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str| directory.path().join(name);
        let (video, anchors, voice) =
            (file("made_clip.mp4"), file("made_anchors.json"), file("made_voice.wav"));
        std::fs::copy(clip(), &video).unwrap();
        let text = std::fs::read_to_string(demo_clip::anchors()).unwrap();
        let mut faces: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
        faces.truncate(FRAMES);
        std::fs::write(&anchors, serde_json::to_string(&faces).unwrap()).unwrap();
        let mut speech = hound::WavReader::open(demo_clip::voice()).unwrap();
        let mut wav = hound::WavWriter::create(&voice, speech.spec()).unwrap();
        for sample in speech.samples::<i16>().take(80 * 640) {
            wav.write_sample(sample.unwrap()).unwrap();
        }
        wav.finalize().unwrap();
        Self { lipsync, model, video, anchors, voice, directory }
    }

    /// One step on the clip with its anchors and `audio`.
    pub fn job(&self, audio: impl AsRef<Path>) -> Job {
        Job {
            anchors: Some(self.anchors.clone()),
            options: Options { steps: 1, seed: Some(7), ..Options::default() },
            ..Job::new(self.video.clone(), audio.as_ref(), self.directory.path().join("out.mp4"))
        }
    }

    pub fn run(&self, job: &Job) -> Report {
        self.lipsync.run(job, &mut (), &CancelToken::new()).expect("the job runs")
    }

    /// A 16 kHz mono WAV file with `samples` samples of a tone.
    pub fn hum(&self, samples: usize) -> PathBuf {
        let path = self.directory.path().join(format!("hum_{samples}.wav"));
        let spec = hound::WavSpec {
            channels: 1,
            sample_rate: 16_000,
            bits_per_sample: 16,
            sample_format: hound::SampleFormat::Int,
        };
        let mut wav = hound::WavWriter::create(&path, spec).unwrap();
        for i in 0..samples {
            wav.write_sample(((i as f32 * 0.1).sin() * 8000.0) as i16).unwrap();
        }
        wav.finalize().unwrap();
        path
    }

    /// Runs the program for one step on the clip with `voice`, and returns its stdout. Without `--anchors` among the
    /// options, the detector finds the faces.
    pub fn program(
        &self,
        voice: &Path,
        out: &Path,
        environment: &[(&str, &str)],
        options: &[&str],
    ) -> Vec<u8> {
        let output = Command::new(env!("CARGO_BIN_EXE_latentsync"))
            .args(["sync", "--steps", "1", "--seed", "7", "--device", "cpu", "--model"])
            .arg(&self.model)
            .arg("--video")
            .arg(&self.video)
            .arg("--audio")
            .arg(voice)
            .arg("--out")
            .arg(out)
            .args(options)
            .envs(environment.iter().copied())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    /// A file that the program `ffmpeg` makes of its arguments.
    pub fn make(&self, name: &str, args: &str) -> PathBuf {
        let path = self.directory.path().join(format!("made_{name}"));
        make(&path, args);
        path
    }

    /// Anchors of `frames` frames with a face in every `every`-th frame only (`0`: in none), so that long jobs are
    /// quick.
    pub fn sparse_anchors(&self, frames: usize, every: usize) -> PathBuf {
        let path = self.directory.path().join(format!("made_anchors_{frames}_{every}.json"));
        let face = |frame: usize| match every > 0 && frame.is_multiple_of(every) {
            true => "[[190,170],[280,170],[235,230]]",
            false => "null",
        };
        let frames: Vec<_> = (0..frames).map(face).collect();
        std::fs::write(&path, format!("[{}]", frames.join(","))).unwrap();
        path
    }

    /// Files in the directory of the test that are neither `expected` nor made by it.
    pub fn leftovers(&self, expected: &[&str]) -> Vec<String> {
        let entries = std::fs::read_dir(self.directory.path()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let given = |name: &str| ["hum_", "made_"].iter().any(|prefix| name.starts_with(prefix));
        names.filter(|name| !expected.contains(&name.as_str()) && !given(name)).collect()
    }
}

pub fn read_frames(path: &Path) -> Vec<Tensor> {
    read_frames_at(path, OutputRate::default())
}

pub fn read_frames_at(path: &Path, rate: OutputRate) -> Vec<Tensor> {
    let mut reader = VideoReader::open(path, VideoOptions { rate, ..VideoOptions::default() }).unwrap();
    let mut frames = Vec::new();
    while let Some(picture) = reader.next().unwrap() {
        frames.push(picture.to_rgb().unwrap());
    }
    frames
}

pub fn bytes(frame: &Tensor) -> Vec<u8> {
    frame.flatten_all().unwrap().to_vec1().unwrap()
}
