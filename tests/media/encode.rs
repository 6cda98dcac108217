//! Every codec in every container that takes it.

use std::path::{Path, PathBuf};

use latentsync::face::patch::Patch;
use latentsync::media::picture::Picture;
use latentsync::options::{Container, EncoderChoice, Encoding, InvalidOption, VideoCodec};
use latentsync::stages::decode_video::VideoInfo;
use latentsync::stages::mux_video::{OutputVideo, VideoWriter};
use latentsync::{Error, ErrorKind, media};
use tempfile::{TempDir, tempdir};

use crate::common::{MUTED, PLAIN, ffmpeg, files, make, open, output, probe, read_all, samples, write};

const TAGS: &str = "-colorspace bt709 -color_primaries bt709 -color_trc bt709 -color_range tv";

/// A second of moving bars with a tone, and its pictures.
fn clip(dir: &TempDir, format: &str, options: &str) -> Option<(PathBuf, Vec<Picture>)> {
    let input = format!("-f lavfi -i testsrc2=r=25:d=1:s=162x122,{MUTED} -f lavfi -i sine=d=1:r=48000");
    let args = format!("{input} -pix_fmt {format} {options} -c:v ffv1 -c:a pcm_s16le");
    let path = make(dir, "clip.mkv", &args)?;
    let pictures = read_all(&path);
    Some((path, pictures))
}

fn encoding(codec: VideoCodec) -> Encoding {
    Encoding { codec, ..PLAIN }
}

/// The largest and the mean difference of two pictures' samples, in steps of 8 bits.
fn difference(a: &Picture, b: &Picture) -> (f64, f64) {
    let (a, b) = (a.to_rgb().unwrap(), b.to_rgb().unwrap());
    let values = |t: &candle_core::Tensor| t.flatten_all().unwrap().to_vec1::<u8>().unwrap();
    let off: Vec<f64> = values(&a).iter().zip(values(&b)).map(|(&a, b)| f64::from(a.abs_diff(b))).collect();
    (off.iter().copied().fold(0.0, f64::max), off.iter().sum::<f64>() / off.len() as f64)
}

#[test]
fn every_codec_decodes_cleanly_from_every_container() {
    let dir = tempdir().unwrap();
    let Some((video, pictures)) = clip(&dir, "yuv422p10le", TAGS) else { return };
    let info = open(&video).info().clone();
    for (codec, name, profile, format, loss) in [
        (VideoCodec::H264, "h264", "", "yuv420p", 6.0),
        (VideoCodec::Hevc, "hevc", "Main 10", "yuv420p10le", 6.0),
        (VideoCodec::ProRes, "prores", "HQ", "yuv422p10le", 2.0),
        (VideoCodec::Ffv1, "ffv1", "", "yuv422p10le", 0.0),
    ] {
        for &container in codec.containers() {
            let what = format!("{codec} in {container}");
            let path = dir.path().join(format!("out.{container}"));
            write(&path, &info, &video, &pictures, encoding(codec)).unwrap();
            // Says so where a packet or a timestamp is wrong.
            let args = ["-xerror", "-i", path.to_str().unwrap(), "-f", "null", "-"];
            ffmpeg(&args).unwrap();
            assert_eq!(probe(&path, "v", "codec_name").unwrap(), name, "{what}");
            assert_eq!(probe(&path, "v", "pix_fmt").unwrap(), format, "{what}");
            assert!(probe(&path, "v", "profile").unwrap().contains(profile), "{what}");
            assert_eq!(probe(&path, "v", "avg_frame_rate").unwrap(), "25/1", "{what}");
            assert!(probe(&path, "v", "start_time").unwrap().parse::<f64>().unwrap().abs() < 1e-3, "{what}");
            // Where chroma lies is told by H.264 and HEVC alone.
            let tags = |info: &VideoInfo| {
                let colour = info.colour;
                (colour.matrix, colour.range, colour.primaries, colour.transfer)
            };
            assert_eq!(tags(open(&path).info()), tags(&info), "{what}");
            let sound = if container == Container::Mp4 { "aac" } else { "pcm_s16le" };
            assert_eq!(probe(&path, "a", "codec_name").unwrap(), sound, "{what}");
            let back = read_all(&path);
            assert_eq!(back.len(), 25, "{what}");
            for (picture, back) in pictures.iter().zip(&back) {
                let (_, mean) = difference(picture, back);
                assert!(mean <= loss, "{what}: {mean}");
                assert!(codec != VideoCodec::Ffv1 || samples(picture) == samples(back), "{what}");
            }
            if codec == VideoCodec::Hevc && container != Container::Mkv {
                assert_eq!(probe(&path, "v", "codec_tag_string").unwrap(), "hvc1");
            }
        }
    }
}

#[test]
fn ffv1_changes_nothing_outside_of_what_was_pasted() {
    let dir = tempdir().unwrap();
    for format in ["yuv420p", "yuv444p", "yuva420p", "yuv420p10le"] {
        let Some((video, mut pictures)) = clip(&dir, format, TAGS) else { return };
        let original = samples(&pictures[3]);
        let red = vec![[200u8, 40, 40]; 40 * 30].concat();
        let rgb = candle_core::Tensor::from_vec(red, (30, 40, 3), &candle_core::Device::Cpu).unwrap();
        let weight = candle_core::Tensor::ones((30, 40), candle_core::DType::F32, &candle_core::Device::Cpu);
        pictures[3].paste(&Patch { x: 60, y: 50, rgb, weight: weight.unwrap() }).unwrap();
        assert!(samples(&pictures[3]) != original);
        let out = dir.path().join("out.mkv");
        write(&out, open(&video).info(), &video, &pictures, encoding(VideoCodec::Ffv1)).unwrap();
        let back = read_all(&out);
        assert!(pictures.iter().zip(&back).all(|(a, b)| samples(a) == samples(b)), "{format}");
        let untouched = |picture: &Picture| {
            let plane = picture.planes().next().unwrap();
            (0..50).flat_map(|y| plane.row(y).to_vec()).collect::<Vec<u8>>()
        };
        assert!(original.starts_with(&untouched(&back[3])), "{format}");
    }
}

/// Formats that FFV1 has not, but that differ from one it has only in where their samples lie.
#[test]
fn ffv1_loses_nothing_of_interleaved_samples() {
    let dir = tempdir().unwrap();
    for format in ["nv12", "yuyv422"] {
        let input = format!("-f lavfi -i testsrc2=r=25:d=0.2:s=160x120,{MUTED} -f lavfi -i sine=d=1");
        let args = format!("{input} -pix_fmt {format} -c:v rawvideo -c:a pcm_s16le");
        let Some(video) = make(&dir, "raw.nut", &args) else { return };
        let pictures = read_all(&video);
        let out = dir.path().join("out.mkv");
        write(&out, open(&video).info(), &video, &pictures, encoding(VideoCodec::Ffv1)).unwrap();
        for (picture, back) in pictures.iter().zip(read_all(&out)) {
            assert_eq!(difference(picture, &back), (0.0, 0.0), "{format} of {:?}", picture.format());
        }
    }
}

#[test]
fn odd_sizes_keep_every_column_and_row() {
    let dir = tempdir().unwrap();
    let input = format!("-f lavfi -i testsrc2=r=25:d=0.2:s=67x49,{MUTED} -f lavfi -i sine=d=1");
    let Some(video) = make(&dir, "odd.mkv", &format!("{input} -pix_fmt yuv420p10le -c:v ffv1")) else {
        return;
    };
    let pictures = read_all(&video);
    for (codec, name, size) in [
        (VideoCodec::Hevc, "out.mp4", (68, 50)),
        (VideoCodec::ProRes, "out.mov", (68, 49)),
        (VideoCodec::Ffv1, "out.mkv", (67, 49)),
    ] {
        let out = dir.path().join(name);
        write(&out, open(&video).info(), &video, &pictures, encoding(codec)).unwrap();
        let back = read_all(&out);
        assert_eq!((back[0].width(), back[0].height()), size, "{codec}");
        let narrow = |picture: &Picture| {
            picture
                .to_rgb()
                .unwrap()
                .narrow(0, 0, 48)
                .unwrap()
                .narrow(1, 0, 66)
                .unwrap()
                .flatten_all()
                .unwrap()
        };
        let (a, b) =
            (narrow(&pictures[0]).to_vec1::<u8>().unwrap(), narrow(&back[0]).to_vec1::<u8>().unwrap());
        let mean = a.iter().zip(&b).map(|(a, b)| f64::from(a.abs_diff(*b))).sum::<f64>() / a.len() as f64;
        assert!(mean < 8.0, "{codec}: {mean}");
    }
}

#[test]
fn the_smallest_pictures_are_encoded_by_every_codec() {
    let dir = tempdir().unwrap();
    for size in ["1x1", "3x3", "31x5", "33x35"] {
        let input = format!("-f lavfi -i testsrc2=r=25:d=0.2:s={size},format=rgb24 -f lavfi -i sine=d=1");
        let Some(video) = make(&dir, "tiny.mkv", &format!("{input} -pix_fmt rgb24 -c:v png")) else {
            return;
        };
        let pictures = read_all(&video);
        for codec in [VideoCodec::H264, VideoCodec::ProRes, VideoCodec::Ffv1] {
            let out = dir.path().join(format!("out.{}", codec.containers()[0]));
            write(&out, open(&video).info(), &video, &pictures, encoding(codec)).unwrap();
            assert_eq!(read_all(&out).len(), 5, "{codec} of {size}");
        }
    }
}

/// ProRes knows limited range only.
#[test]
fn full_range_reaches_prores_with_its_colours() {
    let dir = tempdir().unwrap();
    let tags = TAGS.replace("range tv", "range pc");
    let filter = "scale=in_range=tv:out_range=pc";
    let input = format!("-f lavfi -i testsrc2=r=25:d=0.2:s=160x120,{MUTED},{filter} -f lavfi -i sine=d=1");
    let args = format!("{input} -pix_fmt yuv444p {tags} -c:v ffv1");
    let Some(video) = make(&dir, "full.mkv", &args) else { return };
    let pictures = read_all(&video);
    assert!(open(&video).info().coding.full_range);
    let out = dir.path().join("out.mov");
    write(&out, open(&video).info(), &video, &pictures, encoding(VideoCodec::ProRes)).unwrap();
    assert!(probe(&out, "v", "pix_fmt").unwrap().starts_with("yuv444p1"));
    assert!(!open(&out).info().coding.full_range);
    let (_, mean) = difference(&pictures[0], &read_all(&out)[0]);
    assert!(mean < 1.5, "{mean}");
}

#[test]
fn quality_is_heard() {
    let dir = tempdir().unwrap();
    let Some((video, pictures)) = clip(&dir, "yuv420p", TAGS) else { return };
    for codec in [VideoCodec::H264, VideoCodec::Hevc] {
        let size = |crf: Option<f32>| {
            let out = dir.path().join("out.mp4");
            let encoding = Encoding { crf, ..encoding(codec) };
            write(&out, open(&video).info(), &video, &pictures, encoding).unwrap();
            std::fs::metadata(out).unwrap().len()
        };
        assert!(size(Some(40.0)) < size(None) && size(None) < size(Some(4.0)), "{codec}");
    }
}

#[test]
fn the_same_pictures_give_the_same_bytes_with_every_codec() {
    let dir = tempdir().unwrap();
    let Some((video, pictures)) = clip(&dir, "yuv420p", TAGS) else { return };
    for codec in [VideoCodec::Hevc, VideoCodec::ProRes, VideoCodec::Ffv1] {
        let container = codec.containers()[0];
        let bytes = || {
            let out = dir.path().join(format!("out.{container}"));
            std::fs::read(write(&out, open(&video).info(), &video, &pictures, encoding(codec)).unwrap())
                .unwrap()
        };
        assert!(bytes() == bytes(), "{codec}");
    }
}

#[test]
fn impossible_outputs_are_refused_and_leave_nothing() {
    let dir = tempdir().unwrap();
    let Some((video, _)) = clip(&dir, "yuv420p", TAGS) else { return };
    let info = open(&video).info().clone();
    let refused = |name: &str, encoding| {
        let path = dir.path().join(name);
        let error =
            VideoWriter::create(&OutputVideo { encoding, ..output(&path, &info, &video) }).err().unwrap();
        assert_eq!(files(dir.path()), ["clip.mkv"], "{name}");
        error
    };
    let error = refused("a.mp4", encoding(VideoCodec::Ffv1));
    assert!(error.kind() == ErrorKind::Usage && error.to_string().contains("mkv"), "{error}");
    let error = refused("a.webm", PLAIN);
    assert!(error.kind() == ErrorKind::Usage && error.to_string().contains("a.webm"), "{error}");
    let error = refused("a.mp4", Encoding { crf: Some(60.0), ..PLAIN });
    assert!(matches!(error, Error::Option(InvalidOption::Value { option: "crf", .. })), "{error:?}");
}

/// Where no hardware encodes: `auto` does without, the others say so.
#[test]
fn hardware_that_is_not_there_is_fallen_back_from_or_refused() {
    let dir = tempdir().unwrap();
    let Some((video, pictures)) = clip(&dir, "yuv420p", TAGS) else { return };
    let info = open(&video).info().clone();
    let path = dir.path().join("out.mp4");
    let create = |encoder: EncoderChoice, path: &Path| {
        let encoding = Encoding { encoder, ..PLAIN };
        VideoWriter::create(&OutputVideo { encoding, ..output(path, &info, &video) })
    };
    for named in [EncoderChoice::Amf, EncoderChoice::VideoToolbox, EncoderChoice::Qsv, EncoderChoice::Nvenc] {
        match create(named, &path) {
            Ok(writer) => assert!(writer.encoder().contains(&named.to_string())),
            Err(error) => {
                assert!(matches!(error, Error::Media(media::Error::NoHardwareEncoder { .. })), "{error:?}");
                assert!(error.kind() == ErrorKind::Device, "{error}");
            }
        }
    }
    let mut writer = create(EncoderChoice::Auto, &path).unwrap();
    assert_eq!(writer.warning().is_some(), writer.encoder() == "libx264");
    pictures.iter().for_each(|picture| writer.push(picture).unwrap());
    writer.finish(&|| false).unwrap();
    assert_eq!(read_all(&path).len(), 25);
}
