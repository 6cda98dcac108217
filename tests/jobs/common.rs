//! What the tests of whole jobs share.

use std::path::{Path, PathBuf};
use std::process::Command;

use candle_core::Tensor;
use latentsync::options::OutputRate;
use latentsync::stages::decode_video::{VideoOptions, VideoReader};
use latentsync::{CancelToken, Job, LipSync, LoadOptions, ModelChoice, Options, Report};

/// A loaded small model, the media directory, and a directory of the test's own.
pub struct Bench {
    pub lipsync: LipSync,
    pub model: PathBuf,
    pub media: PathBuf,
    pub directory: tempfile::TempDir,
}

impl Bench {
    pub fn open() -> Option<Self> {
        let shared = std::env::var_os("LATENTSYNC_SHARED").map_or_else(|| "../shared".into(), PathBuf::from);
        let model = shared.join("golden/small");
        if !model.is_dir() {
            eprintln!("skipped: no `{}` (set LATENTSYNC_SHARED)", model.display());
            return None;
        }
        let lipsync = LipSync::load(&ModelChoice::Directory(model.clone()), &LoadOptions::default())
            .expect("model loads");
        Some(Self { lipsync, model, media: shared.join("media"), directory: tempfile::tempdir().unwrap() })
    }

    /// woman_2s with its given anchors and `audio`, one step: the pictures do not matter here.
    pub fn job(&self, audio: impl AsRef<Path>) -> Job {
        let video = self.media.join("woman_2s.mp4");
        Job {
            anchors: Some(self.media.join("woman_2s.landmarks3.json")),
            options: Options { steps: 1, seed: Some(7), ..Options::default() },
            ..Job::new(video, self.media.join(audio), self.directory.path().join("out.mp4"))
        }
    }

    pub fn run(&self, job: &Job) -> Report {
        self.lipsync.run(job, &mut (), &CancelToken::new()).expect("the job runs")
    }

    /// A mono 16 kHz file with `samples` samples of a hum.
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

    /// What the built program prints for one step of woman_2s with `voice`.
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
            .arg(self.media.join("woman_2s.mp4"))
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

    /// A file that the `ffmpeg` program makes of its arguments; `None`, said on stderr, where it is not installed.
    pub fn make(&self, name: &str, args: &str) -> Option<PathBuf> {
        let path = self.directory.path().join(format!("made_{name}"));
        let mut command = Command::new("ffmpeg");
        command.args(["-v", "error", "-nostdin", "-y"]).args(args.split_whitespace()).arg(&path);
        let Ok(output) = command.output() else {
            eprintln!("skipped: no program `ffmpeg`");
            return None;
        };
        assert!(output.status.success(), "{args}: {}", String::from_utf8_lossy(&output.stderr));
        Some(path)
    }

    /// Anchors of `frames` frames that have a face in every `every`-th only: so that a job of many frames is quick.
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

    /// Every file in the test's directory but those that the test put there.
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
