//! Where the clips are, how test files are made, and what is in a file.

use std::path::{Path, PathBuf};
use std::process::Command;

use latentsync::Result;
use latentsync::media::picture::Picture;
use latentsync::options::{EncoderChoice, Encoding, VideoCodec};
use latentsync::stages::decode_video::{VideoInfo, VideoOptions, VideoReader};
use latentsync::stages::mux_video::{Effort, OutputVideo, SoundEnd, VideoWriter};
use tempfile::TempDir;

/// What the program does by default.
pub const PLAIN: Encoding =
    Encoding { codec: VideoCodec::H264, crf: None, container: None, encoder: EncoderChoice::Software };
/// What goes in comes out, bit for bit.
pub const LOSSLESS: Encoding = Encoding { crf: Some(0.0), ..PLAIN };

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

/// An output as by default, but encoded in the least time.
pub fn output<'a>(path: &'a Path, video: &'a VideoInfo, audio: &'a Path) -> OutputVideo<'a> {
    OutputVideo {
        path,
        video,
        audio,
        frames: video.count.frames,
        rate: (25, 1),
        sound: SoundEnd::Cut,
        encoding: PLAIN,
        effort: Effort::Fast,
        journal: None,
    }
}

/// Writes pictures with a voice.
pub fn write(
    path: &Path,
    video: &VideoInfo,
    audio: &Path,
    pictures: &[Picture],
    encoding: Encoding,
) -> Result<PathBuf> {
    write_output(
        &OutputVideo { frames: pictures.len() as u64, encoding, ..output(path, video, audio) },
        pictures,
    )
}

/// Writes pictures as one segment.
pub fn write_output(output: &OutputVideo, pictures: &[Picture]) -> Result<PathBuf> {
    let mut writer = VideoWriter::create(output)?;
    for picture in pictures {
        writer.push(picture)?;
    }
    writer.finish(&|| false)
}

/// Decoded sound, 16 bits, in its own rate and channels.
pub fn sound(path: &Path) -> Option<Vec<i16>> {
    let bytes = ffmpeg(&["-i", path.to_str().unwrap(), "-vn", "-f", "s16le", "-"])?;
    Some(bytes.as_chunks::<2>().0.iter().map(|&b| i16::from_le_bytes(b)).collect())
}

/// How often a tone crosses zero.
pub fn crossings(sound: &[i16]) -> usize {
    sound.windows(2).filter(|w| (w[0] < 0) != (w[1] < 0)).count()
}

/// Names of the files in a directory.
pub fn files(directory: &Path) -> Vec<String> {
    let name = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    let mut names: Vec<String> = std::fs::read_dir(directory).unwrap().map(name).collect();
    names.sort();
    names
}
