//! Test clips, and what is in a media file.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use latentsync::Result;
use latentsync::media::picture::Picture;
use latentsync::options::{EncoderChoice, Encoding, VideoCodec};
use latentsync::stages::decode_video::{VideoInfo, VideoOptions, VideoReader};
use latentsync::stages::mux_video::{Effort, OutputVideo, SoundEnd, VideoWriter};
use tempfile::TempDir;

use crate::{demo_clip, programs};

/// The default of the program.
pub const PLAIN: Encoding =
    Encoding { codec: VideoCodec::H264, crf: None, container: None, encoder: EncoderChoice::Software };
/// Lossless H.264.
pub const LOSSLESS: Encoding = Encoding { crf: Some(0.0), ..PLAIN };

/// Filters that bring `testsrc2` (in RGB, which has odd sizes) well inside the RGB cube. Colours outside it cannot
/// survive a conversion.
pub const MUTED: &str = "format=rgb24,lutrgb=r=val/2+64:g=val/2+64:b=val/2+64";

/// A clip of 50 frames of a drawn face with two seconds of AAC sound.
pub fn demo_video() -> PathBuf {
    static PATH: LazyLock<PathBuf> = LazyLock::new(|| {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let made = tempfile::tempdir_in(directory).unwrap();
        let inputs = format!("-i {} -i {}", demo_clip::video().display(), demo_clip::voice().display());
        let codecs = "-c:v libx264 -pix_fmt yuv420p -c:a aac";
        let path = make(&made, "demo.mp4", &format!("{inputs} -t 2 {codecs}"));
        let target = directory.join("media-demo.mp4");
        std::fs::rename(path, &target).unwrap();
        target
    });
    PATH.clone()
}

/// What `ffmpeg` prints: raw pictures or samples.
pub fn ffmpeg(args: &[&str]) -> Vec<u8> {
    let quiet = ["-v", "error", "-nostdin", "-y"];
    programs::run("ffmpeg", &[&quiet, args].concat())
}

/// A file in `directory`, made by `ffmpeg` with the words of `args`.
pub fn make(directory: &TempDir, name: &str, args: &str) -> PathBuf {
    let path = directory.path().join(name);
    let words: Vec<&str> = args.split_whitespace().chain([path.to_str().unwrap()]).collect();
    ffmpeg(&words);
    path
}

/// One entry of a stream, as `ffprobe` prints it; `stream` is `v` or `a`.
pub fn probe(path: &Path, stream: &str, entry: &str) -> String {
    let entries = format!("stream={entry}");
    let path = format!("file:{}", path.display());
    let args = ["-v", "error", "-select_streams", stream, "-show_entries", &entries, "-of", "csv=p=0", &path];
    String::from_utf8(programs::run("ffprobe", &args)).unwrap().trim().trim_end_matches(',').to_string()
}

pub fn open(path: impl AsRef<Path>) -> VideoReader {
    VideoReader::open(path, VideoOptions::default()).unwrap()
}

pub fn read_all(path: impl AsRef<Path>) -> Vec<Picture> {
    let mut reader = open(path);
    std::iter::from_fn(|| reader.next().unwrap()).collect()
}

/// All samples of a picture, plane by plane, as `-f rawvideo` prints them.
pub fn samples(picture: &Picture) -> Vec<u8> {
    picture.planes().flat_map(|plane| (0..plane.height).flat_map(move |y| plane.row(y).to_vec())).collect()
}

/// A default output, encoded with the fastest preset.
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

/// Writes pictures and a voice to a file.
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

/// Writes pictures as one segment. Returns the path of the file.
pub fn write_output(output: &OutputVideo, pictures: &[Picture]) -> Result<PathBuf> {
    let mut writer = VideoWriter::create(output)?;
    for picture in pictures {
        writer.push(picture)?;
    }
    writer.finish(&|| false)
}

/// Decoded audio in 16 bits, at its own sample rate and with its own channels, interleaved.
pub fn sound(path: &Path) -> Vec<i16> {
    let bytes = ffmpeg(&["-i", path.to_str().unwrap(), "-vn", "-f", "s16le", "-"]);
    bytes.as_chunks::<2>().0.iter().map(|&b| i16::from_le_bytes(b)).collect()
}

/// Number of zero crossings.
pub fn crossings(sound: &[i16]) -> usize {
    sound.windows(2).filter(|w| (w[0] < 0) != (w[1] < 0)).count()
}

/// Sorted names of the files in a directory.
pub fn files(directory: &Path) -> Vec<String> {
    let name = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    let mut names: Vec<String> = std::fs::read_dir(directory).unwrap().map(name).collect();
    names.sort();
    names
}
