//! The contents of a written file.

use std::path::{Path, PathBuf};

use latentsync::media::picture::Picture;
use tempfile::{TempDir, tempdir};

use crate::common::{
    LOSSLESS, MUTED, PLAIN, crossings, demo_video, files, make, open, probe, read_all, samples, sound, write,
};
use crate::demo_clip;

#[test]
fn decoded_samples_reach_the_encoder_bit_for_bit() {
    let (video, audio) = (demo_video(), demo_clip::voice());
    let dir = tempdir().unwrap();
    let pictures = read_all(&video);
    let out = dir.path().join("a name with 'quotes' and spaces.mp4");
    let path = write(&out, open(&video).info(), &audio, &pictures, LOSSLESS).unwrap();
    let back = read_all(&path);
    assert_eq!(back.len(), 50);
    assert!(pictures.iter().zip(&back).all(|(a, b)| samples(a) == samples(b)));
    let (source, copy) = (open(&video), open(&path));
    assert_eq!(copy.info().colour, source.info().colour);
    assert_eq!(files(dir.path()), ["a name with 'quotes' and spaces.mp4"]);
}

/// Voices in several formats, with the codec that the output must have.
fn voices(dir: &TempDir) -> [(PathBuf, &'static str); 3] {
    let mp3 = format!("-i {} -ac 2 -ar 44100 -c:a libmp3lame", demo_clip::voice().display());
    [(demo_clip::voice(), "aac"), (make(dir, "voice.mp3", &mp3), "mp3"), (demo_video(), "aac")]
}

/// Writes the first 50 pictures of a video with each of the voices. Every stream must start at 0 and last two seconds.
pub fn check_stream_times(video: &Path, voices: &[(PathBuf, &str)]) {
    let dir = tempdir().unwrap();
    let pictures = read_all(video);
    for (audio, codec) in voices {
        let voice = audio.display();
        let path = dir.path().join("out.mp4");
        write(&path, open(video).info(), audio, &pictures, PLAIN).unwrap();
        assert_eq!(probe(&path, "a", "codec_name"), *codec, "{voice}");
        for entry in ["sample_rate", "channels"] {
            assert_eq!(probe(&path, "a", entry), probe(audio, "a", entry), "{voice}: {entry}");
        }
        assert_eq!(probe(&path, "v", "nb_frames"), "50", "{voice}");
        assert_eq!(probe(&path, "v", "avg_frame_rate"), "25/1", "{voice}");
        for stream in ["v", "a"] {
            let number = |entry| probe(&path, stream, entry).parse::<f64>().unwrap();
            assert!(
                number("start_time").abs() < 1e-3,
                "{voice} {stream}: starts at {}",
                number("start_time")
            );
            assert!(
                (number("duration") - 2.0).abs() < 2e-3,
                "{voice} {stream}: lasts {}",
                number("duration")
            );
        }
    }
}

#[test]
fn both_streams_start_at_zero_and_end_with_the_last_frame() {
    let dir = tempdir().unwrap();
    check_stream_times(&demo_video(), &voices(&dir));
}

/// Writes a video with each of the voices. The decoded sound must be that of the voice.
pub fn check_copied_sound(video: &Path, voices: &[PathBuf]) {
    let dir = tempdir().unwrap();
    let pictures = read_all(video);
    for audio in voices {
        let voice = audio.display();
        let path = dir.path().join("out.mp4");
        write(&path, open(video).info(), audio, &pictures, PLAIN).unwrap();
        let (want, got) = (sound(audio), sound(&path));
        let n = want.len().min(got.len()) * 9 / 10;
        assert!(n > 20_000, "{voice}: {n} samples");
        if audio.extension().is_some_and(|extension| extension == "wav") {
            // AAC is lossy. With a shift of a few samples the correlation would be lower.
            let dot = |a: &[i16], b: &[i16]| {
                a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>()
            };
            let (a, b) = (&want[..n], &got[..n]);
            let correlation = dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
            assert!(correlation > 0.98, "{voice}: {correlation}");
        } else {
            assert!(want[..n] == got[..n], "{voice}");
        }
    }
}

#[test]
fn the_sound_is_the_original_at_its_place() {
    let dir = tempdir().unwrap();
    check_copied_sound(&demo_video(), &voices(&dir).map(|(path, _)| path));
}

#[test]
fn sound_that_cannot_be_copied_becomes_aac_with_the_same_rate_and_channels() {
    let video = demo_video();
    let dir = tempdir().unwrap();
    let pictures = read_all(&video);
    for (name, options, want) in [
        ("quad.wav", "-ac 4 -ar 48000", "aac,48000,4"),
        ("surround.ogg", "-ac 6 -ar 48000 -c:a libvorbis", "aac,48000,6"),
        ("studio.wav", "-ac 2 -ar 192000 -c:a pcm_s24le", "aac,96000,2"),
        ("odd.wav", "-ac 3 -ar 11025", "aac,11025,3"),
        // Long packets, which are cut in the middle.
        ("lossless.flac", "-ac 2 -ar 22050", "aac,22050,2"),
        ("copied.opus", "-ac 2 -ar 48000 -c:a libopus", "opus,48000,2"),
    ] {
        let audio = make(&dir, name, &format!("-f lavfi -i sine=d=3 {options}"));
        let path = dir.path().join("out.mp4");
        write(&path, open(&video).info(), &audio, &pictures, PLAIN).unwrap();
        assert_eq!(probe(&path, "a", "codec_name,sample_rate,channels"), want, "{name}");
        let duration: f64 = probe(&path, "a", "duration").parse().unwrap();
        assert!((duration - 2.0).abs() < 2e-3, "{name}: {duration}");
    }
    // FLAC that ends with the video needs no cut, so it is copied.
    let audio = make(&dir, "short.flac", "-f lavfi -i sine=d=2:r=22050");
    let path = dir.path().join("out.mp4");
    write(&path, open(&video).info(), &audio, &pictures, PLAIN).unwrap();
    assert_eq!(probe(&path, "a", "codec_name"), "flac");
}

#[test]
fn the_same_pictures_give_the_same_bytes() {
    let (video, audio) = (demo_video(), demo_clip::voice());
    let dir = tempdir().unwrap();
    let pictures = read_all(&video);
    let bytes = |name: &str| {
        let path = dir.path().join(name);
        std::fs::read(write(&path, open(&video).info(), &audio, &pictures, PLAIN).unwrap()).unwrap()
    };
    let (first, second) = (bytes("first.mp4"), bytes("second.mp4"));
    assert!(first == second);
    // The index comes first.
    let place = |name: &[u8]| first.windows(4).position(|window| window == name);
    assert!(place(b"moov").unwrap() < place(b"mdat").unwrap());
}

/// A short video of one format with its sound, and its pictures.
fn clip(dir: &TempDir, source: &str, format: &str, options: &str) -> (PathBuf, Vec<Picture>) {
    let input = format!("-f lavfi -i {source},{MUTED}");
    let args = format!("{input} -f lavfi -i sine=d=1 -pix_fmt {format} {options} -c:v ffv1 -c:a pcm_s16le");
    let path = make(dir, "clip.mkv", &args);
    let pictures = read_all(&path);
    (path, pictures)
}

#[test]
fn odd_sizes_are_padded_and_nothing_is_cut() {
    let dir = tempdir().unwrap();
    let (video, pictures) = clip(&dir, "testsrc2=r=25:d=0.4:s=67x49", "yuv420p", "");
    let out = dir.path().join("out.mp4");
    write(&out, open(&video).info(), &video, &pictures, LOSSLESS).unwrap();
    let back = read_all(&out);
    assert_eq!((back.len(), back[0].width(), back[0].height()), (10, 68, 50));
    for (picture, back) in pictures.iter().zip(&back) {
        for (plane, padded) in picture.planes().zip(back.planes()) {
            for y in 0..padded.height {
                let (row, got) = (plane.row(y.min(plane.height - 1)), padded.row(y));
                assert!(got[..row.len()] == *row);
                assert!(got[row.len()..].iter().all(|sample| sample == row.last().unwrap()));
            }
        }
    }
}

#[test]
fn every_format_and_range_keeps_its_colours() {
    let dir = tempdir().unwrap();
    let tags = "-colorspace bt709 -color_primaries bt709 -color_trc bt709";
    for (format, options) in [
        ("yuv422p", ""),
        ("yuv444p", tags),
        ("yuv420p", "-color_range pc"),
        ("yuv420p10le", tags),
        ("yuva420p", ""),
        ("bgr0", ""),
        ("gray", ""),
    ] {
        let (video, pictures) = clip(&dir, "smptebars=r=25:d=0.4:s=323x241", format, options);
        let out = dir.path().join("out.mp4");
        let source = open(&video);
        write(&out, source.info(), &video, &pictures, LOSSLESS).unwrap();
        let mut copy = open(&out);
        assert_eq!(copy.info().coding, source.info().coding, "{format}");
        let pixels = |picture: &Picture| {
            let rgb = picture.to_rgb().unwrap().narrow(0, 0, 240).unwrap().narrow(1, 0, 322).unwrap();
            rgb.flatten_all().unwrap().to_vec1::<u8>().unwrap()
        };
        let (want, got) = (pixels(&pictures[0]), pixels(&copy.next().unwrap().unwrap()));
        // swscale rings for a few pixels at the edge of two bars.
        let off = want.iter().zip(&got).filter(|(a, b)| a.abs_diff(**b) > 1).count();
        assert!(off * 6 < want.len(), "{format}: {off} of {} differ", want.len());
    }
}

#[test]
fn one_frame_with_three_milliseconds_of_sound_is_written() {
    let video = demo_video();
    let dir = tempdir().unwrap();
    for (name, options) in [("short.wav", ""), ("short.mp3", "-c:a libmp3lame -ar 44100")] {
        let audio = make(&dir, name, &format!("-f lavfi -i sine=d=0.003 {options}"));
        let path = dir.path().join("out.mp4");
        let pictures = &read_all(&video)[..1];
        write(&path, open(&video).info(), &audio, pictures, PLAIN).unwrap();
        let mut copy = open(&path);
        assert_eq!(copy.info().count.frames, 1, "{name}");
        assert!(copy.next().unwrap().is_some() && copy.next().unwrap().is_none(), "{name}");
        let duration: f64 = probe(&path, "a", "duration").parse().unwrap();
        assert!(duration > 0.0 && duration <= 0.0401, "{name}: {duration}");
    }
}

#[test]
fn sound_that_changes_its_rate_and_channels_continues() {
    let video = demo_video();
    let dir = tempdir().unwrap();
    let tone = |name, frequency, options| {
        let source = format!("-f lavfi -i sine=f={frequency}:d=1 {options} -c:a libvorbis -q:a 6");
        std::fs::read(make(&dir, name, &source)).unwrap()
    };
    let low = tone("low.ogg", 300, "-ar 48000 -ac 1");
    let high = tone("high.ogg", 1200, "-ar 22050 -ac 2");
    let joined = dir.path().join("joined.ogg");
    std::fs::write(&joined, [low, high].concat()).unwrap();
    let path = dir.path().join("out.mp4");
    write(&path, open(&video).info(), &joined, &read_all(&video), PLAIN).unwrap();
    let sound = sound(&path);
    assert!(sound.len().abs_diff(2 * 48_000) <= 1024, "{} samples", sound.len());
    // A tone crosses zero twice in each period; these are half a second from the middle of each tone.
    for (start, frequency) in [(12_000, 300), (60_000, 1200)] {
        let crossings = crossings(&sound[start..start + 24_000]);
        assert!(crossings.abs_diff(frequency) <= 4, "{crossings} crossings at {start}, not {frequency}");
    }
}
