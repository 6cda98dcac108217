//! What people feed it: codecs, pixel formats, streams, orientations, rates, damage.

use std::path::{Path, PathBuf};

use latentsync::media::colour::ColourMode;
use latentsync::media::picture::Picture;
use latentsync::stages::decode_video::{CountDepth, VideoOptions, VideoReader};
use latentsync::{Error, ErrorKind, media};
use tempfile::{TempDir, tempdir};

use crate::common::{ffmpeg, make, open, probe, read_all, samples};

/// A size that every encoder takes.
const SOURCE: &str = "-f lavfi -i testsrc2=r=25:d=0.4:s=96x64";

fn with(options: VideoOptions, path: &Path) -> VideoReader {
    VideoReader::open(path, options).unwrap_or_else(|error| panic!("{error}"))
}

fn at_source_rate() -> VideoOptions {
    VideoOptions { rate: "source".parse().unwrap(), ..VideoOptions::default() }
}

fn count(reader: &mut VideoReader) -> u64 {
    std::iter::from_fn(|| reader.next().unwrap()).count() as u64
}

/// (red, green, blue) of one pixel.
fn pixel(picture: &Picture, x: usize, y: usize) -> [u8; 3] {
    let rgb = picture.to_rgb().unwrap().flatten_all().unwrap().to_vec1::<u8>().unwrap();
    let i = 3 * (y * picture.width() + x);
    [rgb[i], rgb[i + 1], rgb[i + 2]]
}

#[test]
fn usual_codecs_and_pixel_formats_are_read_sample_by_sample() {
    let dir = tempdir().unwrap();
    for (codec, format, container) in [
        ("libx264", "yuv420p", "mp4"),
        ("libx264", "yuv422p10le", "mkv"),
        ("libx264", "yuv444p", "mov"),
        ("libx265", "yuv420p10le", "mp4"),
        ("libx265", "yuv420p12le", "mkv"),
        ("libvpx-vp9", "yuv420p", "webm"),
        ("libvpx-vp9", "yuv444p10le", "webm"),
        ("libaom-av1", "yuv420p", "mp4"),
        ("prores_ks", "yuv422p10le", "mov"),
        ("prores_ks", "yuva444p10le", "mov"),
        ("mjpeg", "yuvj422p", "avi"),
        ("ffv1", "yuv444p16le", "mkv"),
        ("ffv1", "yuva420p", "mkv"),
        ("mpeg4", "yuv420p", "avi"),
        ("mpeg2video", "yuv420p", "mpg"),
    ] {
        let name = format!("{codec}-{format}.{container}");
        let quick = if codec == "libaom-av1" { "-cpu-used 8" } else { "" };
        let quiet = if codec == "libx265" { "-x265-params log-level=none" } else { "" };
        let args = format!("{SOURCE} -pix_fmt {format} -c:v {codec} {quick} {quiet}");
        let Some(path) = make(&dir, &name, &args) else { return };
        let own = probe(&path, "v", "pix_fmt").unwrap();
        let own = own.lines().next().unwrap();
        let args = ["-i", path.to_str().unwrap(), "-f", "rawvideo", "-pix_fmt", own, "-"];
        let want = ffmpeg(&args).unwrap();
        let got: Vec<u8> = read_all(&path).iter().flat_map(samples).collect();
        assert_eq!(read_all(&path).len(), 10, "{name}");
        assert!(got == want, "{name}: {} bytes for {}", got.len(), want.len());
    }
}

#[test]
fn formats_without_yuv_of_their_own_are_converted() {
    let dir = tempdir().unwrap();
    let colour = "-f lavfi -i color=0x3060C0:r=25:d=0.2:s=66x50,format=rgb24";
    let grey = "-f lavfi -i color=0x707070:r=25:d=0.2:s=66x50,format=rgb24";
    for (source, name, options, want) in [
        (colour, "gbr.mkv", "-c:v ffv1 -pix_fmt gbrp10le", [0x30, 0x60, 0xC0]),
        (colour, "rgb.mkv", "-c:v libx264rgb -qp 0", [0x30, 0x60, 0xC0]),
        (colour, "palette.gif", "-vf split[a][b];[a]palettegen[p];[b][p]paletteuse", [0x30, 0x60, 0xC0]),
        (colour, "alpha.mov", "-c:v qtrle -pix_fmt argb", [0x30, 0x60, 0xC0]),
        (grey, "grey.mkv", "-c:v ffv1 -pix_fmt gray", [0x70; 3]),
        (grey, "grey10.mkv", "-c:v ffv1 -pix_fmt gray10le", [0x70; 3]),
        (grey, "grey.mp4", "-c:v libx264 -pix_fmt gray -qp 0", [0x70; 3]),
    ] {
        let Some(path) = make(&dir, name, &format!("{source} {options}")) else { return };
        let pictures = read_all(&path);
        assert_eq!(pictures.len(), 5, "{name}");
        let got = pixel(&pictures[2], 33, 25);
        assert!(got.iter().zip(want).all(|(g, w)| g.abs_diff(w) <= 2), "{name}: {got:?}");
    }
}

#[test]
fn sizes_from_one_pixel_to_8k() {
    let dir = tempdir().unwrap();
    for (name, size, want) in [
        ("1x1.png", "1:1", (1, 1)),
        ("1x1.mkv", "1:1", (1, 1)),
        ("3x5.mkv", "3:5", (3, 5)),
        ("8k.mkv", "7680:4320", (7680, 4320)),
    ] {
        let codec = if name.ends_with("png") { "" } else { "-pix_fmt yuv420p -c:v mjpeg -color_range pc" };
        let args = format!(
            "-f lavfi -i color=0xC04040:r=25:d=0.08:s=64x64,scale={size},setsar=1 -frames:v 1 {codec}"
        );
        let Some(path) = make(&dir, name, &args) else { return };
        let picture = open(&path).next().unwrap().unwrap();
        assert_eq!((picture.width(), picture.height()), want, "{name}");
        let got = pixel(&picture, want.0 - 1, want.1 - 1);
        assert!(got.iter().zip([0xC0u8, 0x40, 0x40]).all(|(g, w)| g.abs_diff(w) <= 6), "{name}: {got:?}");
    }
}

/// Bytes of an `Exif` segment that says nothing but the orientation.
fn exif(orientation: u8) -> Vec<u8> {
    let mut segment = b"\xFF\xE1\x00\x22Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".to_vec();
    segment.extend([orientation, 0, 0, 0, 0, 0, 0, 0]);
    segment
}

#[test]
fn a_photograph_is_turned_as_its_exif_says() {
    let dir = tempdir().unwrap();
    // Quadrants: red, green; blue, white.
    let quadrants = "geq=r='255*eq(gt(X,31),gt(Y,23))':g='255*gt(X,31)':b='255*gt(Y,23)'";
    let args = format!(
        "-f lavfi -i color=black:s=64x48,format=gbrp,{quadrants} -frames:v 1 -pix_fmt yuvj444p -q:v 1"
    );
    let Some(path) = make(&dir, "plain.jpg", &args) else { return };
    let plain = std::fs::read(path).unwrap();
    let name = |[r, g, b]: [u8; 3]| match (r > 127, g > 127, b > 127) {
        (true, false, false) => 'r',
        (false, true, false) => 'g',
        (false, false, true) => 'b',
        (true, true, true) => 'w',
        _ => '?',
    };
    for (orientation, want) in [
        (1, "rgbw"),
        (2, "grwb"),
        (3, "wbgr"),
        (4, "bwrg"),
        (5, "rbgw"),
        (6, "brwg"),
        (7, "wgbr"),
        (8, "gwrb"),
    ] {
        let path = dir.path().join(format!("{orientation}.jpg"));
        std::fs::write(&path, [&plain[..2], &exif(orientation), &plain[2..]].concat()).unwrap();
        let mut reader = open(&path);
        let info = reader.info();
        let upright = if orientation > 4 { (48, 64) } else { (64, 48) };
        assert_eq!((info.width, info.height, info.still), (upright.0, upright.1, true), "{orientation}");
        let picture = reader.next().unwrap().unwrap();
        let (w, h) = upright;
        let corners = [(0, 0), (w - 1, 0), (0, h - 1), (w - 1, h - 1)];
        let got: String = corners.iter().map(|&(x, y)| name(pixel(&picture, x, y))).collect();
        assert_eq!(got, want, "orientation {orientation}");
    }
}

#[test]
fn stills_are_one_frame_at_any_rate_and_films_are_no_stills() {
    let dir = tempdir().unwrap();
    for (name, options, still) in [
        ("a.png", "-frames:v 1", true),
        ("a.jpg", "-frames:v 1 -pix_fmt yuvj420p", true),
        ("a.bmp", "-frames:v 1", true),
        ("a.tiff", "-frames:v 1", true),
        ("a.webp", "-frames:v 1 -c:v libwebp", true),
        ("one.gif", "-frames:v 1", true),
        ("ten.gif", "", false),
        ("one.mp4", "-frames:v 1 -pix_fmt yuv420p", false),
        ("ten.mp4", "-pix_fmt yuv420p", false),
    ] {
        let Some(path) = make(&dir, name, &format!("{SOURCE} {options}")) else { return };
        for rate in ["25", "60", "source"] {
            let options = VideoOptions { rate: rate.parse().unwrap(), ..VideoOptions::default() };
            let mut reader = with(options, &path);
            assert_eq!(reader.info().still, still, "{name}");
            let announced = reader.info().count;
            let frames = count(&mut reader);
            assert_eq!((announced.frames, announced.exact), (frames, true), "{name} at {rate}");
            assert!(!still || frames == 1, "{name} at {rate}: {frames} frames");
        }
    }
    // A telephone's photograph has a second one behind it.
    let photograph = std::fs::read(dir.path().join("a.jpg")).unwrap();
    let path = dir.path().join("two-in-one");
    std::fs::write(&path, photograph.repeat(2)).unwrap();
    let mut reader = open(&path);
    assert_eq!((reader.info().still, count(&mut reader)), (true, 1));
}

#[test]
fn the_sources_rate_is_kept() {
    let dir = tempdir().unwrap();
    for rate in ["1", "12", "16", "24000/1001", "24", "25", "30000/1001", "50", "60000/1001", "60", "120"] {
        for container in ["mp4", "mkv"] {
            let name = format!("{}.{container}", rate.replace('/', "-"));
            let source = format!("testsrc2=r={rate}:d=4:s=32x32");
            let args = format!("-f lavfi -i {source} -pix_fmt yuv420p -c:v libx264 -preset ultrafast");
            let Some(path) = make(&dir, &name, &args) else { return };
            let mut reader = with(at_source_rate(), &path);
            assert_eq!(reader.info().rate.to_string(), rate, "{name}");
            let in_file: u64 = {
                let args = ["-i", path.to_str().unwrap(), "-fps_mode", "passthrough", "-f", "rawvideo", "-"];
                ffmpeg(&args).unwrap().len() as u64 / (32 * 32 * 3 / 2)
            };
            let announced = reader.info().count;
            assert_eq!((announced.frames, announced.exact), (in_file, true), "{name}");
            assert_eq!(count(&mut reader), in_file, "{name}");
            assert_eq!(open(&path).info().count.frames, count(&mut open(&path)), "{name} at 25");
        }
    }
}

#[test]
fn variable_rate_becomes_its_average() {
    let dir = tempdir().unwrap();
    let variable = "-vf select=not(eq(mod(n\\,7)\\,3)) -fps_mode passthrough -pix_fmt yuv420p";
    let args = format!("-f lavfi -i testsrc2=r=35:d=4:s=64x48 {variable}");
    let Some(path) = make(&dir, "variable.mp4", &args) else { return };
    let mut reader = with(at_source_rate(), &path);
    assert_eq!(reader.info().rate.to_string(), "30");
    let frames = count(&mut reader);
    assert!((119..=121).contains(&frames), "{frames} frames");
}

/// A film of 100 frames whose brightness counts them, with a key frame each second.
fn counting(dir: &TempDir, name: &str) -> Option<PathBuf> {
    let source = "-f lavfi -i color=black:r=25:d=4:s=64x48,format=yuv420p,geq=lum=20+2*N:cb=128:cr=128,noise=c0s=12:c0f=t";
    make(dir, name, &format!("{source} -c:v libx264 -g 25 -qp 10 -bf 2"))
}

/// The number of the counting film's frame that a picture shows.
fn number(picture: &Picture) -> f64 {
    let luma = &samples(picture)[..64 * 48];
    (luma.iter().map(|&v| f64::from(v)).sum::<f64>() / luma.len() as f64 - 20.0) / 2.0
}

fn assert_in_time(path: &Path, from: usize, to: usize) -> VideoReader {
    let mut reader = open(path);
    let pictures: Vec<Picture> = std::iter::from_fn(|| reader.next().unwrap()).collect();
    assert!(pictures.len() >= to, "{}: {} frames", path.display(), pictures.len());
    for (i, picture) in pictures.iter().enumerate().take(to).skip(from) {
        let shown = number(picture);
        assert!((shown - i as f64).abs() < 0.8, "{}: frame {i} shows {shown:.1}", path.display());
    }
    reader
}

#[test]
fn a_hole_does_not_shift_what_follows() {
    let dir = tempdir().unwrap();
    for name in ["film.mkv", "film.ts", "film.mp4"] {
        let Some(path) = counting(&dir, name) else { return };
        assert_in_time(&path, 0, 100);
        let whole = std::fs::read(&path).unwrap();
        // From the first second, or from the second.
        for (start, end, intact) in [(12, 20, 50), (33, 43, 75)] {
            let mut holed = whole.clone();
            let place = |percent| whole.len() * percent / 100;
            holed[place(start)..place(end)].fill(0x5a);
            let holed_path = dir.path().join(format!("holed-{start}-{name}"));
            std::fs::write(&holed_path, holed).unwrap();
            let reader = assert_in_time(&holed_path, intact, 100);
            // FFmpeg's Matroska reader goes on behind a hole and says nothing.
            assert!(reader.damaged() > 0 || name == "film.mkv", "{}", holed_path.display());
            // Asked for, the number of frames is known in spite of it.
            let options = VideoOptions { count: CountDepth::Full, ..VideoOptions::default() };
            let mut full = with(options, &holed_path);
            let announced = full.info().count;
            assert_eq!((announced.frames, announced.exact), (count(&mut full), true));
        }
    }
}

#[test]
fn time_begins_with_the_first_frame_shown() {
    let dir = tempdir().unwrap();
    let Some(path) = counting(&dir, "film.mp4") else { return };
    let film = path.to_str().unwrap();
    for (name, args) in [
        ("late.mkv", format!("-i {film} -c copy -output_ts_offset 5.4")),
        ("late.ts", format!("-i {film} -c copy -output_ts_offset 90000")),
    ] {
        let path = make(&dir, name, &args).unwrap();
        let count = assert_in_time(&path, 0, 100).info().count;
        assert_eq!((count.frames, count.exact), (100, true), "{name}");
    }
    // Cut between key frames: an edit list hides what the decoder needs before.
    let path = make(&dir, "cut.mp4", &format!("-ss 1.4 -i {film} -c copy")).unwrap();
    let mut reader = open(&path);
    let announced = reader.info().count;
    let pictures: Vec<Picture> = std::iter::from_fn(|| reader.next().unwrap()).collect();
    assert_eq!((announced.frames, announced.exact), (pictures.len() as u64, true));
    for (i, picture) in pictures.iter().enumerate() {
        assert!((number(picture) - (i + 35) as f64).abs() < 0.8, "frame {i} shows {:.1}", number(picture));
    }
}

#[test]
fn joined_transport_streams_follow_each_other() {
    let dir = tempdir().unwrap();
    let source = |size| format!("-f lavfi -i testsrc2=r=25:d=2:s={size} -pix_fmt yuv420p -c:v libx264 -bf 0");
    let Some(first) = make(&dir, "first.ts", &source("64x48")) else { return };
    let same = make(&dir, "same.ts", &format!("{} -output_ts_offset 500", source("64x48"))).unwrap();
    let larger = make(&dir, "larger.ts", &source("96x80")).unwrap();
    let read = |path: &Path| std::fs::read(path).unwrap();
    for second in [&same, &larger] {
        let path = dir.path().join("joined.ts");
        std::fs::write(&path, [read(&first), read(second)].concat()).unwrap();
        let pictures = read_all(&path);
        assert!((99..=101).contains(&pictures.len()), "{}: {} frames", second.display(), pictures.len());
        // A film that changes its size is scaled to its first.
        assert!(pictures.iter().all(|picture| (picture.width(), picture.height()) == (64, 48)));
        let options = VideoOptions { count: CountDepth::Full, ..VideoOptions::default() };
        let announced = with(options, &path).info().count;
        assert_eq!((announced.frames, announced.exact), (pictures.len() as u64, true));
    }
}

#[test]
fn the_default_video_is_read_else_the_largest() {
    let dir = tempdir().unwrap();
    let sources = "-f lavfi -i color=red:s=64x48:d=0.4:r=25 -f lavfi -i color=blue:s=128x96:d=0.4:r=25 \
                   -f lavfi -i sine=d=0.4 -map 2 -map 0 -map 1 -pix_fmt yuv420p -c:v libx264";
    for (name, dispositions, width) in [
        ("none.mkv", "-disposition:v:0 0 -disposition:v:1 0", 128),
        ("small.mkv", "-disposition:v:0 default -disposition:v:1 0", 64),
    ] {
        let Some(path) = make(&dir, name, &format!("{sources} {dispositions}")) else { return };
        assert_eq!(open(&path).info().width, width, "{name}");
    }
    // A cover picture is larger, marked as the default, and no film.
    let cover = make(&dir, "cover.png", "-f lavfi -i color=green:s=640x480 -frames:v 1").unwrap();
    let args = format!(
        "-f lavfi -i color=red:s=64x48:d=0.4:r=25 -i {} -map 1 -map 0 -c:v:0 png -c:v:1 libx264 -pix_fmt:v:1 yuv420p \
         -disposition:v:0 attached_pic",
        cover.display()
    );
    let path = make(&dir, "covered.mp4", &args).unwrap();
    assert_eq!((open(&path).info().width, open(&path).info().codec), (64, "h264"));
}

#[test]
fn high_dynamic_range_is_refused_by_name() {
    let dir = tempdir().unwrap();
    for (transfer, name) in [("smpte2084", "PQ"), ("arib-std-b67", "HLG")] {
        let args =
            format!("{SOURCE} -pix_fmt yuv420p10le -colorspace bt2020nc -color_trc {transfer} -c:v ffv1");
        let Some(path) = make(&dir, &format!("{name}.mkv"), &args) else { return };
        let error = VideoReader::open(&path, VideoOptions::default()).err().unwrap();
        assert!(error.to_string().ends_with(&format!("is high dynamic range video ({name})")), "{error}");
        assert_eq!(error.kind(), ErrorKind::Input);
    }
}

#[test]
fn a_video_stream_without_a_frame_is_said() {
    let dir = tempdir().unwrap();
    let args = "-f lavfi -i sine=d=0.4 -f lavfi -i testsrc2=s=64x48:d=0.4 -map 0 -map 1 -pix_fmt yuv420p -frames:v 0";
    let Some(path) = make(&dir, "empty.mkv", args) else { return };
    let error = VideoReader::open(&path, VideoOptions::default()).err().unwrap();
    assert!(
        matches!(
            error,
            Error::Media(media::Error::NoFrames { .. }) | Error::Media(media::Error::NoVideoStream { .. })
        ),
        "{error:?}"
    );
    assert_eq!(error.kind(), ErrorKind::Input);
}

/// How much neighbouring lines differ, beyond what lines of the same field do: combs.
fn combs(picture: &Picture) -> f64 {
    let plane = picture.planes().next().unwrap();
    let difference = |y: usize, step: usize| -> f64 {
        let (a, b) = (plane.row(y), plane.row(y + step));
        a.iter().zip(b).map(|(&a, &b)| f64::from(a.abs_diff(b))).sum()
    };
    (0..plane.height - 2).map(|y| difference(y, 1) - difference(y, 2)).sum::<f64>() / plane.width as f64
}

#[test]
fn interlaced_video_is_made_whole() {
    let dir = tempdir().unwrap();
    // A bar that moves by 4 pixels from field to field.
    let source = "-f lavfi -i color=black:s=128x96:r=50:d=2,format=yuv420p,geq=lum=235*between(X-mod(4*N\\,100)\\,0\\,15):cb=128:cr=128";
    let interlace = "-vf tinterlace=interleave_top -flags +ildct+ilme -c:v mpeg2video -qscale:v 2";
    let Some(path) = make(&dir, "fields.mpg", &format!("{source} {interlace}")) else { return };
    let woven = VideoOptions { colour: ColourMode::ReferenceBt601, ..VideoOptions::default() };
    let mut woven = with(woven, &path);
    let woven: Vec<Picture> = std::iter::from_fn(|| woven.next().unwrap()).collect();
    let whole = read_all(&path);
    assert_eq!((woven.len(), whole.len() as u64), (50, open(&path).info().count.frames));
    let mean = |pictures: &[Picture]| pictures.iter().map(combs).sum::<f64>() / pictures.len() as f64;
    let (before, after) = (mean(&woven), mean(&whole));
    assert!(before > 500.0 && after < before / 5.0, "combs {before:.0} woven, {after:.0} whole");
}
