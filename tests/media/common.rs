//! Where the clips are, how test files are made, and what is in a file.

use std::path::{Path, PathBuf};
use std::process::Command;

use latentsync::Result;
use latentsync::media::picture::Picture;
use latentsync::stages::decode_video::{VideoInfo, VideoOptions, VideoReader};
use latentsync::stages::mux_video::{OutputVideo, Quality, VideoWriter};
use tempfile::TempDir;

/// x264 at its fastest, for tests that look at something else.
pub const FAST: Quality = Quality { crf: 18.0, preset: "ultrafast" };
/// What goes in comes out, bit for bit.
pub const LOSSLESS: Quality = Quality { crf: 0.0, preset: "ultrafast" };

/// Filters that take `testsrc2` (in RGB, where it has odd sizes) well inside the cube of RGB: beyond it, no
/// conversion returns what it was given.
pub const MUTED: &str = "format=rgb24,lutrgb=r=val/2+64:g=val/2+64:b=val/2+64";

/// A file of `../shared/media`, or `None`, said on stderr.
pub fn shared(name: &str) -> Option<PathBuf> {
    let path = PathBuf::from("../shared/media").join(name);
    if path.exists() {
        return Some(path);
    }
    eprintln!("skipped: no `{}`", path.display());
    None
}

/// What a program prints, or `None`, said on stderr, where it is not installed. It must succeed.
fn run(program: &str, args: &[&str]) -> Option<Vec<u8>> {
    let Ok(output) = Command::new(program).args(args).output() else {
        eprintln!("skipped: no program `{program}`");
        return None;
    };
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    Some(output.stdout)
}

/// The raw pictures or samples that `ffmpeg` makes of its arguments.
pub fn ffmpeg(args: &[&str]) -> Option<Vec<u8>> {
    let quiet = ["-v", "error", "-nostdin", "-y"];
    run("ffmpeg", &[&quiet, args].concat())
}

/// A file in `directory`, made by `ffmpeg` with the words of `args`.
pub fn make(directory: &TempDir, name: &str, args: &str) -> Option<PathBuf> {
    let path = directory.path().join(name);
    let words: Vec<&str> = args.split_whitespace().chain([path.to_str().unwrap()]).collect();
    ffmpeg(&words).map(|_| path)
}

/// One entry of a stream, as `ffprobe` prints it; `stream` is `v` or `a`.
pub fn probe(path: &Path, stream: &str, entry: &str) -> Option<String> {
    let entries = format!("stream={entry}");
    let path = format!("file:{}", path.display());
    let args = ["-v", "error", "-select_streams", stream, "-show_entries", &entries, "-of", "csv=p=0", &path];
    Some(String::from_utf8(run("ffprobe", &args)?).unwrap().trim().trim_end_matches(',').to_string())
}

pub fn open(path: impl AsRef<Path>) -> VideoReader {
    VideoReader::open(path, VideoOptions::default()).unwrap()
}

pub fn read_all(path: impl AsRef<Path>) -> Vec<Picture> {
    let mut reader = open(path);
    std::iter::from_fn(|| reader.next().unwrap()).collect()
}

/// All samples of a picture, plane after plane: what `-f rawvideo` prints.
pub fn samples(picture: &Picture) -> Vec<u8> {
    picture.planes().flat_map(|plane| (0..plane.height).flat_map(move |y| plane.row(y).to_vec())).collect()
}

/// Writes pictures with a voice.
pub fn write(
    path: &Path,
    video: &VideoInfo,
    audio: &Path,
    pictures: &[Picture],
    quality: Quality,
) -> Result<PathBuf> {
    let output = OutputVideo { path, video, audio, frames: pictures.len() as u64, quality };
    let mut writer = VideoWriter::create(&output)?;
    for picture in pictures {
        writer.push(picture)?;
    }
    writer.finish(&|| false)
}

/// Names of the files in a directory.
pub fn files(directory: &Path) -> Vec<String> {
    let name = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    let mut names: Vec<String> = std::fs::read_dir(directory).unwrap().map(name).collect();
    names.sort();
    names
}
