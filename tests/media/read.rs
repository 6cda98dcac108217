//! Which frames come out of which file.

use candle_core::{Device, Tensor};
use latentsync::media::colour::{ColourMode, Matrix};
use latentsync::options::DecoderChoice;
use latentsync::stages::decode_video::{VideoOptions, VideoReader};
use tempfile::tempdir;

use crate::common::{ffmpeg, make, open, read_all, samples, shared};

#[test]
fn the_clips_have_their_frames() {
    for (name, frames) in [("woman_2s.mp4", 50), ("man_4s.mp4", 100), ("woman_1080x1920_hevc.mp4", 250)] {
        let Some(path) = shared(name) else { continue };
        let mut reader = open(path);
        let count = reader.info().count;
        assert_eq!((count.frames, count.exact), (frames, true), "{name}");
        assert_eq!(reader.info().duration_seconds, frames as f64 / 25.0, "{name}");
        let mut read = 0;
        while reader.next().unwrap().is_some() {
            read += 1;
        }
        assert_eq!((read, reader.damaged()), (frames, 0), "{name}");
    }
}

/// Without a card both are FFmpeg's own decoder.
#[test]
fn whoever_decodes_makes_the_same_pictures() {
    for name in ["woman_2s.mp4", "woman_1080x1920_hevc.mp4"] {
        let Some(path) = shared(name) else { continue };
        let open =
            |decoder| VideoReader::open(&path, VideoOptions { decoder, ..VideoOptions::default() }).unwrap();
        let (mut one, mut other) = (open(DecoderChoice::Software), open(DecoderChoice::Auto));
        assert_eq!(one.info().count, other.info().count, "{name}");
        while let Some(want) = one.next().unwrap() {
            let got = other.next().unwrap().unwrap();
            assert_eq!(got.format(), want.format(), "{name}");
            assert!(samples(&got) == samples(&want), "{name}");
        }
        assert!(other.next().unwrap().is_none(), "{name}");
    }
}

#[test]
fn the_reference_mode_reads_what_the_original_read() {
    let golden = "../shared/golden/pipeline/pipeline_golden.safetensors";
    let Some(path) = shared("woman_2s.mp4") else {
        return;
    };
    let Ok(golden) = candle_core::safetensors::load(golden, &Device::Cpu) else {
        return eprintln!("skipped: no `{golden}`");
    };
    let mut reader = VideoReader::open(
        path,
        VideoOptions { colour: ColourMode::ReferenceBt601, ..VideoOptions::default() },
    )
    .unwrap();
    let rgb = reader.next().unwrap().unwrap().to_rgb().unwrap();
    let bytes = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<u8>().unwrap();
    assert_eq!(rgb.dims(), golden["input_frame_0_rgb"].dims());
    assert!(bytes(&rgb) == bytes(&golden["input_frame_0_rgb"]));
}

/// What `ffmpeg` prints for the same file with its `fps` filter, picture by picture.
fn assert_reads_like_ffmpeg(path: &std::path::Path, filter: &str, format: &str) {
    let name = path.to_str().unwrap();
    let args =
        ["-i", name, "-vf", filter, "-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", format, "-"];
    let want = ffmpeg(&args).unwrap();
    let pictures = read_all(path);
    let size = samples(&pictures[0]).len();
    assert_eq!(pictures.len(), want.len() / size, "{name}: number of frames");
    assert_eq!(open(path).info().count.frames as usize, pictures.len(), "{name}: estimate");
    for (i, (picture, want)) in pictures.iter().zip(want.chunks(size)).enumerate() {
        assert!(samples(picture) == want, "{name}: frame {i}");
    }
}

#[test]
fn any_rate_is_retimed_as_the_fps_filter_does() {
    let dir = tempdir().unwrap();
    // The frames of `testsrc2` all differ. `select` drops some and leaves the others' times.
    let variable = "-vf select=not(eq(mod(n\\,7)\\,3)+between(n\\,20\\,31)) -fps_mode passthrough";
    for (name, source, options) in [
        ("25.mkv", "testsrc2=r=25:d=2:s=64x48", ""),
        ("30.mkv", "testsrc2=r=30:d=2:s=64x48", ""),
        ("ntsc.mp4", "testsrc2=r=30000/1001:d=3:s=64x48", "-pix_fmt yuv420p"),
        ("60.mp4", "testsrc2=r=60:d=2:s=64x48", "-pix_fmt yuv420p -bf 2"),
        ("12.mkv", "testsrc2=r=12:d=2:s=64x48", ""),
        ("variable.mp4", "testsrc2=r=50:d=3:s=64x48", variable),
        ("late.ts", "testsrc2=r=30:d=2:s=64x48", "-c:v mpeg2video -bf 0 -output_ts_offset 7.3"),
    ] {
        let codec = if name.ends_with("mkv") { "-c:v ffv1" } else { "" };
        let args = format!("-f lavfi -i {source} -pix_fmt yuv420p {codec} {options}");
        let Some(path) = make(&dir, name, &args) else {
            return;
        };
        assert_reads_like_ffmpeg(&path, "fps=25", "yuv420p");
    }
}

#[test]
fn rotation_and_pixel_shape_are_honoured() {
    let dir = tempdir().unwrap();
    let source = "-f lavfi -i testsrc2=r=25:d=0.4:s=64x48 -pix_fmt yuv420p";
    let Some(plain) = make(&dir, "plain.mp4", &format!("{source} -c:v libx264")) else {
        return;
    };
    for (turn, size) in [(90, (48, 64)), (180, (64, 48)), (270, (48, 64))] {
        let args = format!("-i {} -c copy -metadata:s:v rotate={turn}", plain.display());
        let path = make(&dir, &format!("turned{turn}.mp4"), &args).unwrap();
        let info = open(&path).info().clone();
        if (info.width, info.height) == (64, 48) && turn != 180 {
            return eprintln!("skipped: this `ffmpeg` no longer writes rotation from metadata");
        }
        assert_eq!((info.width, info.height), size);
        assert_reads_like_ffmpeg(&path, "fps=25", "yuv420p");
    }
    let path = make(&dir, "anamorphic.mp4", &format!("{source} -vf setsar=3/2 -c:v libx264")).unwrap();
    let picture = &read_all(&path)[0];
    assert_eq!((picture.width(), picture.height()), (96, 48));
    assert_eq!(open(&path).info().width, 96);
    // Here only the container says it.
    for (name, codec) in
        [("anamorphic.webm", "libvpx-vp9"), ("anamorphic.mov", "prores_ks"), ("anamorphic.mkv", "ffv1")]
    {
        let path = make(&dir, name, &format!("{source} -vf setsar=3/2 -c:v {codec}")).unwrap();
        assert_eq!(open(&path).info().width, 96, "{name}");
    }
}

#[test]
fn a_still_image_is_a_video_of_one_frame() {
    let dir = tempdir().unwrap();
    // A name that an image reader would take for a series, another that looks like a protocol.
    for name in ["still %03d.png", "it's a \"still\".jpg", "http:still.png", "-still.bmp"] {
        let path = dir.path().join(name);
        let url = format!("file:{}", path.display());
        let args = [
            "-f",
            "lavfi",
            "-i",
            "color=red:s=64x48",
            "-frames:v",
            "1",
            "-update",
            "1",
            "-f",
            "image2",
            &url,
        ];
        if ffmpeg(&args).is_none() {
            return;
        }
        let mut reader = open(&path);
        assert_eq!(reader.info().count.frames, 1, "{name}");
        let picture = reader.next().unwrap().unwrap();
        assert!(reader.next().unwrap().is_none(), "{name}");
        let rgb = picture.to_rgb().unwrap().flatten_all().unwrap().to_vec1::<u8>().unwrap();
        for (channel, want) in [(0, 254), (1, 0), (2, 0)] {
            let error = rgb.iter().skip(channel).step_by(3).map(|&v| v.abs_diff(want)).max().unwrap();
            assert!(error <= 3, "{name}: channel {channel} is {error} off");
        }
    }
}

#[test]
fn the_matrix_is_the_tagged_one_and_by_size_where_untagged() {
    let dir = tempdir().unwrap();
    let tag =
        |space| format!("-vf scale=out_color_matrix={space}:out_range=tv,format=yuv444p -colorspace {space}");
    for (name, size, options, matrix) in [
        ("709.mkv", "64x48", tag("bt709"), Matrix::Bt709),
        ("601.mkv", "64x48", tag("smpte170m"), Matrix::Bt601),
        ("2020.mkv", "64x48", tag("bt2020nc"), Matrix::Bt2020),
        ("small.mkv", "720x576", "-vf scale=out_color_matrix=bt601,format=yuv420p".into(), Matrix::Bt601),
        ("large.mkv", "1280x720", "-vf scale=out_color_matrix=bt709,format=yuv420p".into(), Matrix::Bt709),
    ] {
        let source = format!("-f lavfi -i color=0x20C040:s={size}:d=0.04:r=25,format=rgb24");
        let Some(path) = make(&dir, name, &format!("{source} {options} -c:v ffv1")) else {
            return;
        };
        let mut reader = open(&path);
        assert_eq!(reader.info().coding.matrix, matrix, "{name}");
        let rgb = reader.next().unwrap().unwrap().to_rgb().unwrap();
        let first = rgb.flatten_all().unwrap().to_vec1::<u8>().unwrap();
        for (got, want) in first[..3].iter().zip([0x20u8, 0xC0, 0x40]) {
            assert!(got.abs_diff(want) <= 2, "{name}: {:?}", &first[..3]);
        }
    }
}

#[test]
fn damage_is_skipped_and_counted() {
    let dir = tempdir().unwrap();
    let source = "-f lavfi -i testsrc2=r=25:d=4:s=320x240 -c:v libx264 -g 25 -pix_fmt yuv420p";
    let Some(path) = make(&dir, "whole.mp4", &format!("{source} -movflags +faststart")) else {
        return;
    };
    let whole = std::fs::read(&path).unwrap();

    let mut holed = whole.clone();
    let middle = whole.len() / 2;
    holed[middle..middle + whole.len() / 10].fill(0x5a);
    let path = dir.path().join("holed.mp4");
    std::fs::write(&path, holed).unwrap();
    let mut reader = open(&path);
    let frames = std::iter::from_fn(|| reader.next().unwrap()).count();
    assert!((85..=100).contains(&frames), "{frames} frames");
    assert!(reader.damaged() > 0);

    let path = dir.path().join("cut.mp4");
    std::fs::write(&path, &whole[..whole.len() * 2 / 3]).unwrap();
    let mut reader = open(&path);
    let frames = std::iter::from_fn(|| reader.next().unwrap()).count();
    assert!((40..90).contains(&frames), "{frames} frames");
    // Enough to know that the container's promise of 100 is not to be relied on.
    let count = reader.info().count;
    assert!(count.frames.abs_diff(frames as u64) <= 2, "{count:?}, {frames} frames");
}
