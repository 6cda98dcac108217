//! Bit-exact reimplementation of OpenCV's bilinear resize and warp. InsightFace's preprocessing uses them and
//! its landmarks are rounded to whole pixels, so a difference of one grey level can move a landmark.

use super::pixels::Rgb;

/// Fractional bits of OpenCV's interpolation weights for 8-bit pictures.
const WEIGHT_BITS: u32 = 11;

/// Indices and fixed-point weights of the two source pixels of an output pixel along one dimension.
struct Tap {
    at: [usize; 2],
    weight: [i64; 2],
}

/// `cv2.resize` with the default `INTER_LINEAR`. → (height, width, 3) bytes.
pub(super) fn resize(image: &Rgb, width: usize, height: usize) -> Vec<u8> {
    let (columns, rows) = (taps(image.width, width), taps(image.height, height));
    let mut out = Vec::with_capacity(width * height * 3);
    // Enlargement uses a source row for several output rows: the last two are cached.
    let mut cache: [(usize, Vec<i64>); 2] = [(usize::MAX, Vec::new()), (usize::MAX, Vec::new())];
    for row in &rows {
        for y in row.at {
            if cache.iter().all(|(known, _)| *known != y) {
                cache.swap(0, 1);
                cache[1] = (y, blend_columns(image, y, &columns));
            }
        }
        let line = |y: usize| if cache[0].0 == y { &cache[0].1 } else { &cache[1].1 };
        let (upper, lower) = (line(row.at[0]), line(row.at[1]));
        out.extend(upper.iter().zip(lower).map(|(&u, &l)| {
            let sum = ((row.weight[0] * (u >> 4)) >> 16) + ((row.weight[1] * (l >> 4)) >> 16);
            ((sum + 2) >> 2).clamp(0, 255) as u8
        }));
    }
    out
}

/// One source row resized to the new width, in fixed point with [`WEIGHT_BITS`].
fn blend_columns(image: &Rgb, y: usize, columns: &[Tap]) -> Vec<i64> {
    let row = &image.data[y * image.width * 3..(y + 1) * image.width * 3];
    columns
        .iter()
        .flat_map(|tap| {
            (0..3).map(|c| {
                let value = |i: usize| i64::from(row[tap.at[i] * 3 + c]);
                tap.weight[0] * value(0) + tap.weight[1] * value(1)
            })
        })
        .collect()
}

/// Pixel centres are aligned; positions beyond the first and last pixel are clamped.
fn taps(from: usize, to: usize) -> Vec<Tap> {
    let scale = from as f64 / to as f64;
    (0..to)
        .map(|i| {
            let position = ((i as f64 + 0.5) * scale - 0.5) as f32;
            let first = position.floor();
            let mut fraction = position - first;
            let mut first = first as i64;
            if first < 0 {
                (first, fraction) = (0, 0.0);
            }
            if first >= from as i64 - 1 {
                (first, fraction) = (from as i64 - 1, 0.0);
            }
            let first = first as usize;
            let fixed_point = |weight: f32| (weight * (1 << WEIGHT_BITS) as f32).round_ties_even() as i64;
            Tap {
                at: [first, (first + 1).min(from - 1)],
                weight: [fixed_point(1.0 - fraction), fixed_point(fraction)],
            }
        })
        .collect()
}

/// Scaling and translation from the picture to the crop: (x, y) → (scale · x + shift[0], scale · y +
/// shift[1]).
#[derive(Clone, Copy, Debug)]
pub(super) struct Zoom {
    pub scale: f64,
    pub shift: [f64; 2],
}

impl Zoom {
    /// Maps a point of the crop to the picture.
    pub fn invert(&self, [x, y]: [f64; 2]) -> [f64; 2] {
        [(x - self.shift[0]) / self.scale, (y - self.shift[1]) / self.scale]
    }
}

/// `cv2.warpAffine` with `INTER_LINEAR` and a black border. → (side, side, 3) bytes.
pub(super) fn crop(image: &Rgb, zoom: &Zoom, side: usize) -> Vec<u8> {
    let (width, height) = (image.width as i64, image.height as i64);
    let pixel = |x: i64, y: i64, c: usize| {
        if (0..width).contains(&x) && (0..height).contains(&y) {
            f64::from(image.data[(y * width + x) as usize * 3 + c])
        } else {
            0.0
        }
    };
    let mut out = Vec::with_capacity(side * side * 3);
    for row in 0..side {
        for column in 0..side {
            let [x, y] = zoom.invert([column as f64, row as f64]);
            let (left, top) = (x.floor(), y.floor());
            let (fx, fy) = (x - left, y - top);
            let (left, top) = (left as i64, top as i64);
            out.extend((0..3).map(|c| {
                let upper = pixel(left, top, c) * (1.0 - fx) + pixel(left + 1, top, c) * fx;
                let lower = pixel(left, top + 1, c) * (1.0 - fx) + pixel(left + 1, top + 1, c) * fx;
                (upper * (1.0 - fy) + lower * fy + 0.5) as u8
            }));
        }
    }
    out
}
