//! A colour chart in every way that video stores colour: reading gives the intended colours, and writing keeps them.

use latentsync::media::picture::Picture;
use tempfile::tempdir;

use crate::common::{LOSSLESS, make, open, read_all, write};

/// sRGB colours of the ColorChecker, in rows of six.
const PATCHES: [[u8; 3]; 24] = [
    [115, 82, 68],
    [194, 150, 130],
    [98, 122, 157],
    [87, 108, 67],
    [133, 128, 177],
    [103, 189, 170],
    [214, 126, 44],
    [80, 91, 166],
    [193, 90, 99],
    [94, 60, 108],
    [157, 188, 64],
    [224, 163, 46],
    [56, 61, 150],
    [70, 148, 73],
    [175, 54, 60],
    [231, 199, 31],
    [187, 86, 149],
    [8, 133, 161],
    [243, 243, 242],
    [200, 200, 200],
    [160, 160, 160],
    [122, 122, 121],
    [85, 85, 85],
    [52, 52, 52],
];
const PATCH: usize = 16;
const WIDTH: usize = 6 * PATCH;
const HEIGHT: usize = 4 * PATCH;

/// CIE 1976 L*a*b* of an sRGB colour (IEC 61966-2-1, D65).
fn lab(rgb: [f64; 3]) -> [f64; 3] {
    let linear = rgb.map(|v| {
        let v = v / 255.0;
        if v <= 0.04045 { v / 12.92 } else { ((v + 0.055) / 1.055).powf(2.4) }
    });
    let row = |[r, g, b]: [f64; 3]| r * linear[0] + g * linear[1] + b * linear[2];
    let xyz = [
        row([0.4124, 0.3576, 0.1805]) / 0.9505,
        row([0.2126, 0.7152, 0.0722]),
        row([0.0193, 0.1192, 0.9505]) / 1.089,
    ];
    let [x, y, z] = xyz.map(|t| if t > 0.008856 { t.cbrt() } else { 7.787 * t + 16.0 / 116.0 });
    [116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)]
}

/// CIE 1976 colour difference.
fn delta_e(a: [f64; 3], b: [f64; 3]) -> f64 {
    lab(a).iter().zip(lab(b)).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt()
}

/// Mean colour of the centre of every patch.
fn patches(picture: &Picture) -> Vec<[f64; 3]> {
    let rgb = picture.to_rgb().unwrap().flatten_all().unwrap().to_vec1::<u8>().unwrap();
    let middle = PATCH / 4..PATCH * 3 / 4;
    (0..PATCHES.len())
        .map(|patch| {
            let (left, top) = (patch % 6 * PATCH, patch / 6 * PATCH);
            let mut sum = [0.0; 3];
            for (y, x) in middle.clone().flat_map(|y| middle.clone().map(move |x| (top + y, left + x))) {
                let i = 3 * (y * picture.width() + x);
                sum.iter_mut().zip(&rgb[i..i + 3]).for_each(|(sum, &v)| *sum += f64::from(v));
            }
            sum.map(|sum| sum / (middle.len() * middle.len()) as f64)
        })
        .collect()
}

fn largest_delta_e(a: &[[f64; 3]], b: &[[f64; 3]]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| delta_e(a, b)).fold(0.0, f64::max)
}

#[test]
fn colours_are_read_as_intended_and_written_as_read() {
    let dir = tempdir().unwrap();
    let raw: Vec<u8> =
        (0..HEIGHT * WIDTH).flat_map(|i| PATCHES[i / WIDTH / PATCH * 6 + i % WIDTH / PATCH]).collect();
    let chart = dir.path().join("chart.rgb");
    std::fs::write(&chart, raw.repeat(5)).unwrap();
    let intended = PATCHES.map(|patch| patch.map(f64::from));
    let voice = make(&dir, "voice.wav", "-f lavfi -i sine=d=1");
    let source = format!("-f rawvideo -pix_fmt rgb24 -s {WIDTH}x{HEIGHT} -r 25 -i {}", chart.display());
    let (mut read_max, mut written_max) = (0.0f64, 0.0f64);
    for format in ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le", "yuv444p12le"] {
        for (matrix, tag) in
            [("bt601", "smpte170m"), ("bt709", "bt709"), ("bt2020", "bt2020nc"), ("bt601", "")]
        {
            for range in ["tv", "pc"] {
                let name = format!("{format}-{matrix}-{tag}-{range}.mkv");
                let tags = if tag.is_empty() { String::new() } else { format!("-colorspace {tag}") };
                let convert = format!(
                    "scale=out_color_matrix={matrix}:out_range={range}:flags=accurate_rnd+full_chroma_int,format={format}"
                );
                let args = format!("{source} -vf {convert} {tags} -color_range {range} -c:v ffv1");
                let path = make(&dir, &name, &args);
                let pictures = read_all(&path);
                let read = patches(&pictures[2]);
                let off = largest_delta_e(&read, &intended);
                // 8-bit codes differ by up to one level in each component.
                let allowed = if format.contains('1') { 1.0 } else { 1.6 };
                assert!(off <= allowed, "{name}: ΔE {off:.2} after reading");
                read_max = read_max.max(off);

                let out = dir.path().join("out.mp4");
                write(&out, open(&path).info(), &voice, &pictures, LOSSLESS).unwrap();
                let off = largest_delta_e(&patches(&read_all(&out)[2]), &read);
                // The output has 8 bits.
                let allowed = if format.contains('1') { 1.6 } else { 1.0 };
                assert!(off <= allowed, "{name}: ΔE {off:.2} after writing");
                written_max = written_max.max(off);
            }
        }
    }
    eprintln!("largest ΔE: {read_max:.2} after reading, {written_max:.2} after writing and reading");
}
