//! The files that the rows name, made by `ffmpeg` and by hand. What needs `ffmpeg` is absent where it is not.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

/// Frames of the good video; the good voice is as long.
pub const FRAMES: usize = 10;
/// Hertz, of every WAV here.
const RATE: u32 = 16_000;

/// Arguments of `ffmpeg` before the file's name.
const MADE: [(&str, &str); 12] = [
    ("video.mp4", "-f lavfi -i testsrc2=s=320x240:d=0.4 -pix_fmt yuv420p"),
    ("sound.m4a", "-f lavfi -i sine=d=0.4"),
    ("both.mp4", "-f lavfi -i testsrc2=s=320x240:d=0.4 -f lavfi -i sine=d=0.4 -pix_fmt yuv420p"),
    ("no-frames.mkv", "-f lavfi -i testsrc2=s=320x240:d=0.4 -frames:v 0 -c:v ffv1"),
    ("no-frames.mp4", "-f lavfi -i testsrc2=s=320x240:d=0.4 -frames:v 0"),
    // Two seconds in pieces of ten frames, the index first: what is left of it can be found.
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
    pub directory: TempDir,
    /// Names of files that were not wanted or could not be made here.
    pub absent: BTreeSet<&'static str>,
}

impl Inputs {
    /// Everything, but of the files that `ffmpeg` makes only those that are `wanted`: some take a while.
    pub fn make(wanted: impl Fn(&str) -> bool) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut this = Self { directory, absent: BTreeSet::new() };
        for (name, args) in MADE {
            if !wanted(name) || !ffmpeg(&this.path().join(name), args) {
                this.absent.insert(name);
            }
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

    /// `name` is `original` with a change, where there is an original.
    fn derive(&mut self, name: &'static str, original: &'static str, change: impl Fn(&mut Vec<u8>)) {
        if self.absent.contains(original) {
            self.absent.insert(name);
            return;
        }
        let mut bytes = fs::read(self.path().join(original)).expect("a file");
        change(&mut bytes);
        self.write(name, &bytes);
    }

    fn damage(&mut self) {
        let half = |bytes: &mut Vec<u8>| bytes.truncate(bytes.len() / 2);
        self.derive("cut.mp4", "long.mp4", half);
        self.derive("cut-before-its-index.mp4", "index-last.mp4", half);
        self.derive("cut.mkv", "frames.mkv", half);
        // The frames are long enough that some bytes in the middle are inside one.
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

/// Bytes in no order, always the same.
fn noise(count: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..count).map(|_| next()).collect()
}

fn ffmpeg(path: &Path, args: &str) -> bool {
    let made = Command::new("ffmpeg")
        .args(["-v", "error", "-nostdin", "-y", "-bitexact"])
        .args(args.split_whitespace())
        .arg(path)
        .output();
    match made {
        Ok(output) if output.status.success() => true,
        Ok(output) => panic!("ffmpeg {args}: {}", String::from_utf8_lossy(&output.stderr)),
        Err(_) => false,
    }
}
