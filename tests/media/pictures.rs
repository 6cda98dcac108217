//! Pictures: RGB out, patches in, and what must not change.

use candle_core::{Device, Tensor};
use ffmpeg_next::format::Pixel;
use latentsync::ErrorKind;
use latentsync::face::patch::Patch;
use latentsync::media::frame_store::FrameStore;
use latentsync::media::picture::Picture;
use tempfile::tempdir;

use crate::common::{MUTED, make, read_all, samples};

const FORMATS: [&str; 9] =
    ["yuv420p", "yuv422p", "yuv444p", "yuvj420p", "nv12", "yuyv422", "yuv420p10le", "yuv444p12le", "p010le"];

/// A picture with something in it, in a pixel format; odd sizes where the format has them.
fn picture(format: &str) -> Option<Picture> {
    let dir = tempdir().unwrap();
    let size = if format == "yuyv422" { "66x49" } else { "67x49" };
    let source = format!("testsrc2=r=25:d=0.04:s={size},{MUTED}");
    let args = format!("-f lavfi -i {source} -pix_fmt {format} -c:v rawvideo");
    let path = make(&dir, "picture.nut", &args)?;
    Some(read_all(path).remove(0))
}

/// The picture's own pixels of a rectangle, as a patch.
fn own_pixels(picture: &Picture, (x, y, w, h): (usize, usize, usize, usize), weight: Tensor) -> Patch {
    let rgb = picture.to_rgb().unwrap().narrow(0, y, h).unwrap().narrow(1, x, w).unwrap();
    Patch { x, y, rgb: rgb.contiguous().unwrap(), weight }
}

fn constant(value: f32, h: usize, w: usize) -> Tensor {
    Tensor::full(value, (h, w), &Device::Cpu).unwrap()
}

#[test]
fn a_patch_without_weight_changes_nothing() {
    for format in FORMATS {
        let Some(mut picture) = picture(format) else {
            return;
        };
        assert_eq!((picture.width() / 2, picture.height()), (33, 49), "{format}");
        let before = samples(&picture);
        let patch = Patch {
            x: 3,
            y: 5,
            rgb: Tensor::zeros((20, 30, 3), candle_core::DType::U8, &Device::Cpu).unwrap(),
            weight: constant(0.0, 20, 30),
        };
        picture.paste(&patch).unwrap();
        assert!(samples(&picture) == before, "{format}");
    }
}

/// Samples per plane as numbers, with the rectangle of pixels that each covers.
fn numbers(picture: &Picture, deep: bool) -> Vec<Vec<Vec<i32>>> {
    let row = |bytes: &[u8]| -> Vec<i32> {
        if deep {
            bytes.chunks(2).map(|b| i32::from(u16::from_le_bytes([b[0], b[1]]))).collect()
        } else {
            bytes.iter().map(|&b| i32::from(b)).collect()
        }
    };
    picture.planes().map(|plane| (0..plane.height).map(|y| row(plane.row(y))).collect()).collect()
}

#[test]
fn only_the_samples_under_a_weight_change_and_return_to_what_they_were() {
    let (x, y, w, h) = (5, 7, 21, 18);
    for (format, log2_w, log2_h, deep) in [
        ("yuv420p", 1, 1, false),
        ("yuv422p", 1, 0, false),
        ("yuv444p", 0, 0, false),
        ("yuvj420p", 1, 1, false),
        ("yuv420p10le", 1, 1, true),
        ("yuv444p12le", 0, 0, true),
    ] {
        let Some(original) = picture(format) else { return };
        let before = numbers(&original, deep);
        // Weights on a checkerboard of 3×3 pixels: blocks of chroma are covered, empty and mixed.
        let weighted = |px: usize, py: usize| {
            (x..x + w).contains(&px)
                && (y..y + h).contains(&py)
                && ((px - x) / 3 + (py - y) / 3).is_multiple_of(2)
        };
        let weights: Vec<f32> =
            (0..w * h).map(|i| if weighted(x + i % w, y + i / w) { 0.25 } else { 0.0 }).collect();
        let weight = Tensor::from_vec(weights, (h, w), &Device::Cpu).unwrap();

        let mut black = original.clone();
        let mut patch = own_pixels(&original, (x, y, w, h), weight);
        let nothing = patch.rgb.zeros_like().unwrap();
        let own = std::mem::replace(&mut patch.rgb, nothing);
        black.paste(&patch).unwrap();
        patch.rgb = own;
        let mut same = original.clone();
        same.paste(&patch).unwrap();

        let (black, same) = (numbers(&black, deep), numbers(&same, deep));
        let (mut touched, mut untouched, mut changed) = (0, 0, 0);
        for (plane, rows) in before.iter().enumerate() {
            let (bw, bh) = if plane == 0 { (1, 1) } else { (1 << log2_w, 1 << log2_h) };
            for (sy, row) in rows.iter().enumerate() {
                for (sx, &value) in row.iter().enumerate() {
                    let covers = (0..bh).any(|j| (0..bw).any(|i| weighted(sx * bw + i, sy * bh + j)));
                    let at = format!("{format}: plane {plane} ({sx}, {sy})");
                    if covers {
                        touched += 1;
                        changed += usize::from(black[plane][sy][sx] != value);
                        // One level of 8-bit RGB, as deep samples count it.
                        let step = if format.contains("12") {
                            16
                        } else if deep {
                            4
                        } else {
                            1
                        };
                        let off = (same[plane][sy][sx] - value).abs();
                        assert!(off <= step, "{at}: {off} off");
                    } else {
                        untouched += 1;
                        assert_eq!(black[plane][sy][sx], value, "{at}");
                        assert_eq!(same[plane][sy][sx], value, "{at}");
                    }
                }
            }
        }
        assert!(
            untouched > touched && changed * 2 > touched,
            "{format}: {touched} touched, {changed} changed"
        );
    }
}

#[test]
fn pasted_pixels_are_read_back() {
    for format in FORMATS {
        let Some(mut picture) = picture(format) else {
            return;
        };
        let before = samples(&picture);
        let shared = picture.clone();
        // An even rectangle of one colour, so that no chroma sample is shared with the surroundings.
        let (x, y, w, h) = (8, 6, 24, 16);
        let colour = Tensor::new(&[200u8, 120, 90], &Device::Cpu).unwrap().broadcast_as((h, w, 3)).unwrap();
        let rgb = colour.contiguous().unwrap();
        picture.paste(&Patch { x, y, rgb, weight: constant(1.0, h, w) }).unwrap();
        let read = own_pixels(&picture, (x, y, w, h), constant(1.0, h, w)).rgb;
        for (i, got) in read.flatten_all().unwrap().to_vec1::<u8>().unwrap().into_iter().enumerate() {
            let want = [200u8, 120, 90][i % 3];
            assert!(got.abs_diff(want) <= 2, "{format}: {got} for {want}");
        }
        assert!(samples(&shared) == before, "{format}: a clone changed with the original");
    }
}

#[test]
fn a_patch_beyond_the_edge_is_refused() {
    let Some(mut picture) = picture("yuv420p") else {
        return;
    };
    let rgb = Tensor::zeros((10, 10, 3), candle_core::DType::U8, &Device::Cpu).unwrap();
    let error = picture.paste(&Patch { x: 60, y: 0, rgb, weight: constant(1.0, 10, 10) }).unwrap_err();
    assert!(format!("{error:?}").contains("10×10 at (60, 0)"), "{error:?}");
}

#[test]
fn the_store_returns_what_was_put() {
    let dir = tempdir().unwrap();
    let mut store = FrameStore::create(dir.path()).unwrap();
    let Some(first) = picture("yuv420p") else { return };
    let second = picture("yuv420p10le").unwrap();
    store.put(3, &first, b"three").unwrap();
    store.put(0, &second, &[]).unwrap();
    let (picture, extra) = store.get(3).unwrap().unwrap();
    assert_eq!(extra, b"three");
    assert!(samples(&picture) == samples(&first));
    store.put(3, &second, b"again").unwrap();
    assert_eq!(store.get(3).unwrap().unwrap().1, b"again");
    let (picture, extra) = store.get(0).unwrap().unwrap();
    assert!(extra.is_empty() && samples(&picture) == samples(&second));
    assert_eq!(picture.format(), second.format());
    let rgb = |p: &Picture| p.to_rgb().unwrap().flatten_all().unwrap().to_vec1::<u8>().unwrap();
    assert!(rgb(&picture) == rgb(&second));
    assert!(store.get(1).unwrap().is_none() && store.get(9).unwrap().is_none());
    assert_eq!(store.len(), 4);
    // The file has no name that somebody could find.
    assert_eq!(crate::common::files(dir.path()), [] as [String; 0]);
}

#[test]
fn irregular_formats_are_converted() {
    for format in ["xyz12le", "uyyvyy411", "uyvy422"] {
        let dir = tempdir().unwrap();
        // In as many bytes as the format has for this size at most; its colour is not looked at.
        let raw = dir.path().join("raw");
        std::fs::write(&raw, vec![0x40; 64 * 48 * 6]).unwrap();
        let input = format!("-f rawvideo -pix_fmt {format} -s 64x48 -i {}", raw.display());
        let Some(path) = make(&dir, "picture.nut", &format!("{input} -frames:v 1 -c:v copy")) else {
            return;
        };
        let kept = format == "uyvy422";
        let mut reader = crate::common::open(&path);
        match reader.next() {
            Ok(picture) => {
                let picture = picture.unwrap();
                let converted = matches!(picture.format(), Pixel::YUV444P | Pixel::YUV444P10LE);
                assert_eq!(converted, !kept, "{format}: {picture:?}");
                assert_eq!(picture.to_rgb().unwrap().dims(), [48, 64, 3], "{format}");
                // A format that is kept must hold what FFmpeg holds.
                if kept {
                    assert!(samples(&picture).iter().all(|&byte| byte == 0x40), "{format}");
                }
            }
            // swscale may not know it either.
            Err(error) => {
                assert!(!kept, "{format}: {error}");
                assert_eq!(error.kind(), ErrorKind::Input, "{format}: {error}");
                let message = error.to_string();
                assert!(message.contains("picture.nut") && message.contains("frame 0"), "{message}");
            }
        }
    }
}
