//! The files that the rows name: made by the program `ffmpeg`, derived from those, or written here.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::programs;

/// Frames of the good video. The good voice has the same duration.
pub const FRAMES: usize = 10;
/// Sample rate of every WAV file, in Hz.
const RATE: u32 = 16_000;

/// File names and the arguments of `ffmpeg` that make them.
const MADE: [(&str, &str); 12] = [
    ("video.mp4", "-f lavfi -i testsrc2=s=320x240:d=0.4 -pix_fmt yuv420p"),
    ("sound.m4a", "-f lavfi -i sine=d=0.4"),
    ("both.mp4", "-f lavfi -i testsrc2=s=320x240:d=0.4 -f lavfi -i sine=d=0.4 -pix_fmt yuv420p"),
    ("no-frames.mkv", "-f lavfi -i testsrc2=s=320x240:d=0.4 -frames:v 0 -c:v ffv1"),
    ("no-frames.mp4", "-f lavfi -i testsrc2=s=320x240:d=0.4 -frames:v 0"),
    // Two seconds, a key frame every ten frames, the index first: readable when it is cut off.
    ("long.mp4", "-f lavfi -i testsrc2=s=320x240:d=2 -g 10 -pix_fmt yuv420p -movflags +faststart"),
    ("index-last.mp4", "-f lavfi -i testsrc2=s=320x240:d=2 -pix_fmt yuv420p"),
    ("frames.mkv", "-f lavfi -i testsrc2=s=320x240:d=2 -c:v ffv1"),
    ("8k.mov", "-f lavfi -i testsrc2=s=7680x4320:d=0.08 -c:v mjpeg -q:v 9 -pix_fmt yuvj420p"),
    ("1x1.mkv", "-f lavfi -i testsrc2=s=64x64:d=0.4 -vf format=bgr0,crop=1:1 -c:v ffv1"),
    ("1x1.mov", "-f lavfi -i testsrc2=s=64x64:d=0.4 -vf format=rgb24,crop=1:1 -c:v png"),
    ("2x1000.mkv", "-f lavfi -i testsrc2=s=64x1000:d=0.4 -vf format=bgr0,crop=2:1000 -c:v ffv1"),
];

/// A directory with all inputs, good and bad.
pub struct Inputs {
    directory: TempDir,
}

impl Inputs {
    /// All files, but of those that `ffmpeg` makes only the ones that `wanted` selects, because some take seconds.
    pub fn make(wanted: impl Fn(&str) -> bool) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let this = Self { directory };
        for (name, args) in MADE.into_iter().filter(|(name, _)| wanted(name)) {
            ffmpeg(&this.path().join(name), args);
        }
        this.damage();
        this.write("notes.txt", "no video here, only some words in a row\n".repeat(200).as_bytes());
        this.write("noise.mp4", &noise(5000));
        this.write("web-page.mp4", b"<!DOCTYPE html><html><body>404 Not Found</body></html>");
        this.write("empty.mp4", b"");
        this.write("empty.wav", b"");
        fs::create_dir(this.path().join("directory")).expect("a directory");
        this.sounds();
        this.anchors();
        this
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path().join(name), bytes).expect("a written file");
    }

    /// Writes `original`, if it was made, with a change.
    fn derive(&self, name: &str, original: &str, change: impl Fn(&mut Vec<u8>)) {
        if let Ok(mut bytes) = fs::read(self.path().join(original)) {
            change(&mut bytes);
            self.write(name, &bytes);
        }
    }

    fn damage(&self) {
        let half = |bytes: &mut Vec<u8>| bytes.truncate(bytes.len() / 2);
        self.derive("cut.mp4", "long.mp4", half);
        self.derive("cut-before-its-index.mp4", "index-last.mp4", half);
        self.derive("cut.mkv", "frames.mkv", half);
        // The bytes in the middle of the file are inside a frame.
        self.derive("corrupt.mp4", "long.mp4", |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle..middle + 3000].copy_from_slice(&noise(3000));
        });
        self.derive("cut.m4a", "sound.m4a", half);
    }

    fn sounds(&self) {
        let seconds = |seconds: f64| (seconds * f64::from(RATE)) as usize;
        let tone = |at: usize| 0.3 * (at as f32 * 0.1).sin();
        let whole = seconds(FRAMES as f64 / 25.0);
        self.wav("voice.wav", (0..whole).map(tone));
        self.wav("two-seconds.wav", (0..seconds(2.0)).map(tone));
        self.wav("silent.wav", (0..whole).map(|_| 0.0));
        self.wav("3ms.wav", (0..seconds(0.003)).map(tone));
        self.wav("no-samples.wav", std::iter::empty());
        self.wav("nan.wav", (0..whole).map(|at| if at == 4000 { f32::NAN } else { tone(at) }));
        self.wav("infinite.wav", (0..whole).map(|at| if at == 4000 { f32::INFINITY } else { tone(at) }));
        let bytes = fs::read(self.path().join("voice.wav")).expect("a file");
        self.write("cut.wav", &bytes[..bytes.len() / 2]);
        self.write("header-only.wav", &bytes[..20]);
    }

    fn wav(&self, name: &str, samples: impl Iterator<Item = f32>) {
        let spec = hound::WavSpec {
            channels: 1,
            sample_rate: RATE,
            bits_per_sample: 32,
            sample_format: hound::SampleFormat::Float,
        };
        let mut writer = hound::WavWriter::create(self.path().join(name), spec).expect("a WAV");
        samples.for_each(|sample| writer.write_sample(sample).expect("a sample"));
        writer.finalize().expect("a WAV");
    }

    fn anchors(&self) {
        let face = json!([[100, 90], [140, 91], [120, 130]]);
        let some = |has_face: fn(usize) -> bool| -> Value {
            (0..60).map(|frame| if has_face(frame) { face.clone() } else { Value::Null }).collect()
        };
        let save = |name: &str, value: Value| self.write(name, value.to_string().as_bytes());
        save("face.json", some(|_| true));
        save("no-face.json", some(|_| false));
        save("some-faces.json", some(|frame| !(2..5).contains(&frame) && frame != 8));
        save("few.json", json!([face, face]));
        save("nan.json", json!([[["x", 1], [2, 3], [4, 5]]]));
        save("one-place.json", json!([[[5, 5], [5, 5], [5, 5]]]));
    }
}

/// Pseudo-random bytes, the same in every run.
fn noise(count: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..count).map(|_| next()).collect()
}

fn ffmpeg(path: &Path, args: &str) {
    let mut words = vec!["-v", "error", "-nostdin", "-y", "-bitexact"];
    words.extend(args.split_whitespace());
    words.push(path.to_str().expect("UTF-8"));
    programs::run("ffmpeg", &words);
}
