//! The frames that are read from a file.

use latentsync::media::colour::Matrix;
use tempfile::tempdir;

use crate::common::{ffmpeg, make, open, read_all, samples};

/// Compares every picture with what `ffmpeg` prints for the same file and a filter.
fn assert_reads_like_ffmpeg(path: &std::path::Path, filter: &str, format: &str) {
    let name = path.to_str().unwrap();
    let args =
        ["-i", name, "-vf", filter, "-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", format, "-"];
    let want = ffmpeg(&args);
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
    // All frames of `testsrc2` differ. `select` drops some and keeps the timestamps of the others.
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
        let path = make(&dir, name, &args);
        assert_reads_like_ffmpeg(&path, "fps=25", "yuv420p");
    }
}

#[test]
fn rotation_and_pixel_shape_are_honoured() {
    let dir = tempdir().unwrap();
    let source = "-f lavfi -i testsrc2=r=25:d=0.4:s=64x48 -pix_fmt yuv420p";
    let plain = make(&dir, "plain.mp4", &format!("{source} -c:v libx264"));
    for (turn, size) in [(90, (48, 64)), (180, (64, 48)), (270, (48, 64))] {
        let name = format!("turned{turn}.mp4");
        let args = format!("-i {} -c copy -metadata:s:v rotate={turn}", plain.display());
        let mut path = make(&dir, &name, &args);
        if open(&path).info().width != size.0 {
            // From FFmpeg 6 on, an option replaces the metadata.
            path = make(&dir, &name, &format!("-display_rotation -{turn} -i {} -c copy", plain.display()));
        }
        let info = open(&path).info().clone();
        assert_eq!((info.width, info.height), size);
        assert_reads_like_ffmpeg(&path, "fps=25", "yuv420p");
    }
    let path = make(&dir, "anamorphic.mp4", &format!("{source} -vf setsar=3/2 -c:v libx264"));
    let picture = &read_all(&path)[0];
    assert_eq!((picture.width(), picture.height()), (96, 48));
    assert_eq!(open(&path).info().width, 96);
    // Here only the container stores the pixel shape.
    for (name, codec) in
        [("anamorphic.webm", "libvpx-vp9"), ("anamorphic.mov", "prores_ks"), ("anamorphic.mkv", "ffv1")]
    {
        let path = make(&dir, name, &format!("{source} -vf setsar=3/2 -c:v {codec}"));
        assert_eq!(open(&path).info().width, 96, "{name}");
    }
}

#[test]
fn a_still_image_is_a_video_of_one_frame() {
    let dir = tempdir().unwrap();
    // Among them the pattern of an image sequence, and a name that looks like a protocol.
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
        ffmpeg(&args);
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
fn the_matrix_is_the_tagged_one_and_depends_on_the_size_without_a_tag() {
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
        let path = make(&dir, name, &format!("{source} {options} -c:v ffv1"));
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
    let path = make(&dir, "whole.mp4", &format!("{source} -movflags +faststart"));
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
    // The file is read far enough to see that the container's count of 100 is wrong.
    let count = reader.info().count;
    assert!(count.frames.abs_diff(frames as u64) <= 2, "{count:?}, {frames} frames");
}
