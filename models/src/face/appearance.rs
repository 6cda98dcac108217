//! Appearance descriptor of a face, computed without a recognition network: histograms of oriented gradients,
//! and mean colour and brightness per cell, on a patch aligned by the three anchors.

use candle_core::{Result, Tensor};

use super::pixels::{Rgb, with_rgb};
use super::types::Anchors;

/// Pixels per side of the patch.
const SIDE: usize = 64;
/// Left, right, top and bottom of the patch, in brow distances from the centre of the brows: ear to ear,
/// hairline to chin.
const EXTENT: [f32; 4] = [-1.2, 1.2, -0.6, 1.8];
/// Maximum number of samples per direction that are averaged into one pixel of the patch.
const MAX_SAMPLES: usize = 3;

/// Side length in pixels of the cells with one gradient histogram each.
const GRADIENT_CELL: usize = 8;
/// Bins of a histogram, over 360°.
const DIRECTIONS: usize = 8;
/// Mean gradient in grey levels that regularises the normalisation of a histogram: weaker gradients are
/// noise.
const NOISE_GRADIENT: f32 = 8.0;
/// Added to every bin, so that two patches without gradients are similar.
const BIN_FLOOR: f32 = 1e-4;

/// Cells per side for the mean colours.
const COLOUR_CELLS: usize = 4;
/// Added to the sum of red, green and blue, because the chromaticity of dark pixels is noise.
const BRIGHTNESS_OFFSET: f32 = 30.0;

/// Decision thresholds: the differences at which two pictures are equally likely to show one person or two.
/// Gradients (1 − cosine similarity), chromaticity (red and blue parts), brightness (natural logarithm).
/// Measured on 58 frames of three videos and 7 photographs of other people: at most 0.22, 0.035 and 0.16
/// within a video, at least 0.11, 0.036 and
/// 0.12 between people, but never low in all three at once.
const THRESHOLDS: [f32; 3] = [0.20, 0.04, 0.20];
/// Maximum of each term: coloured light, for example, changes the chromaticity of the same person.
const MAX_TERM: f32 = 2.5;

/// Appearance descriptor of one face.
#[derive(Clone, Debug, PartialEq)]
pub struct Appearance {
    /// Square roots of the gradient histograms, as one unit vector.
    gradients: Vec<f32>,
    /// Per cell: red part, blue part, logarithm of the brightness relative to the patch's mean.
    tones: Vec<[f32; 3]>,
}

impl Appearance {
    /// Descriptor of the face at `anchors` in `frame`, (height, width, 3) u8.
    pub fn of(frame: &Tensor, anchors: &Anchors) -> Result<Self> {
        with_rgb(frame, |image| Ok(Self::of_patch(&patch(&image, anchors))))
    }

    fn of_patch(patch: &[[f32; 3]]) -> Self {
        Self { gradients: gradient_histograms(patch), tones: tones(patch) }
    }

    /// Mean of the three differences, each relative to its threshold. 0 for the same picture, up to 0.8
    /// between frames of one video, above 0.95 between people.
    pub fn distance(&self, other: &Self) -> f32 {
        let gradient = 1.0 - self.gradients.iter().zip(&other.gradients).map(|(a, b)| a * b).sum::<f32>();
        let (mut colour, mut brightness) = (0.0, 0.0);
        for (a, b) in self.tones.iter().zip(&other.tones) {
            colour += (a[0] - b[0]).hypot(a[1] - b[1]);
            brightness += (a[2] - b[2]).abs();
        }
        let cells = self.tones.len() as f32;
        let differences = [gradient, colour / cells, brightness / cells];
        let terms = differences
            .iter()
            .zip(THRESHOLDS)
            .map(|(difference, threshold)| (difference / threshold).min(MAX_TERM));
        terms.sum::<f32>() / THRESHOLDS.len() as f32
    }

    /// Linear interpolation: `self` + `weight` · (`other` − `self`).
    pub fn blend(&mut self, other: &Self, weight: f32) {
        let towards = |from: &mut f32, to: f32| *from += weight * (to - *from);
        self.gradients.iter_mut().zip(&other.gradients).for_each(|(from, &to)| towards(from, to));
        for (from, to) in self.tones.iter_mut().zip(&other.tones) {
            from.iter_mut().zip(to).for_each(|(from, &to)| towards(from, to));
        }
        normalise(&mut self.gradients);
    }
}

/// The aligned patch in row-major order: red, green and blue of each pixel, averaged over an even grid of
/// samples.
fn patch(image: &Rgb, anchors: &Anchors) -> Vec<[f32; 3]> {
    let [x, y] = anchors.brow_line();
    let center = [0, 1].map(|i| (anchors.left_brow[i] + anchors.right_brow[i]) / 2.0);
    let [left, right, top, bottom] = EXTENT;
    let step = (right - left) * anchors.brow_distance() / SIDE as f32;
    let samples = (step.ceil() as usize).clamp(1, MAX_SAMPLES);
    let position = |i: usize, sample: usize, from: f32, to: f32| {
        from + (to - from) * ((i * samples + sample) as f32 + 0.5) / (SIDE * samples) as f32
    };
    let count = (samples * samples) as f32;
    (0..SIDE * SIDE)
        .map(|pixel| {
            let mut sum = [0.0; 3];
            for sample in 0..samples * samples {
                let along = position(pixel % SIDE, sample % samples, left, right);
                let down = position(pixel / SIDE, sample / samples, top, bottom);
                let at = [center[0] + along * x - down * y, center[1] + along * y + down * x];
                for (sum, value) in sum.iter_mut().zip(interpolate(image, at)) {
                    *sum += value;
                }
            }
            sum.map(|v| v / count)
        })
        .collect()
}

/// Bilinear interpolation; coordinates outside the picture are clamped.
fn interpolate(image: &Rgb, [x, y]: [f32; 2]) -> [f32; 3] {
    let x = (x - 0.5).clamp(0.0, (image.width - 1) as f32);
    let y = (y - 0.5).clamp(0.0, (image.height - 1) as f32);
    let (x0, y0) = (x as usize, y as usize);
    let (x1, y1) = ((x0 + 1).min(image.width - 1), (y0 + 1).min(image.height - 1));
    let (fx, fy) = (x - x0 as f32, y - y0 as f32);
    let value = |x: usize, y: usize, c: usize| f32::from(image.data[3 * (y * image.width + x) + c]);
    std::array::from_fn(|c| {
        let upper = value(x0, y0, c) + fx * (value(x1, y0, c) - value(x0, y0, c));
        let lower = value(x0, y1, c) + fx * (value(x1, y1, c) - value(x0, y1, c));
        upper + fy * (lower - upper)
    })
}

/// Square roots of the normalised gradient histograms of all cells, as one unit vector.
fn gradient_histograms(patch: &[[f32; 3]]) -> Vec<f32> {
    let gray: Vec<f32> = patch.iter().map(|p| p.iter().sum::<f32>() / 3.0).collect();
    let cells = SIDE / GRADIENT_CELL;
    let mut histograms = vec![0.0; cells * cells * DIRECTIONS];
    for y in 1..SIDE - 1 {
        for x in 1..SIDE - 1 {
            let at = y * SIDE + x;
            let (dx, dy) = (gray[at + 1] - gray[at - 1], gray[at + SIDE] - gray[at - SIDE]);
            // A gradient is split between the two nearest bins.
            let turn = (dy.atan2(dx) / std::f32::consts::TAU).rem_euclid(1.0) * DIRECTIONS as f32;
            let (direction, rest) = (turn as usize, turn.fract());
            let cell = (y / GRADIENT_CELL * cells + x / GRADIENT_CELL) * DIRECTIONS;
            let strength = dx.hypot(dy);
            histograms[cell + direction % DIRECTIONS] += strength * (1.0 - rest);
            histograms[cell + (direction + 1) % DIRECTIONS] += strength * rest;
        }
    }
    for cell in histograms.chunks_exact_mut(DIRECTIONS) {
        let sum = cell.iter().sum::<f32>() + NOISE_GRADIENT * (GRADIENT_CELL * GRADIENT_CELL) as f32;
        cell.iter_mut().for_each(|v| *v = (*v / sum + BIN_FLOOR).sqrt());
    }
    normalise(&mut histograms);
    histograms
}

fn normalise(vector: &mut [f32]) {
    let length = vector.iter().map(|v| v * v).sum::<f32>().sqrt();
    vector.iter_mut().for_each(|v| *v /= length);
}

/// Mean red part, blue part and relative log brightness of each cell.
fn tones(patch: &[[f32; 3]]) -> Vec<[f32; 3]> {
    let brightness = |p: &[f32; 3]| p.iter().sum::<f32>() + BRIGHTNESS_OFFSET;
    let mean = patch.iter().map(brightness).sum::<f32>() / patch.len() as f32;
    let size = SIDE / COLOUR_CELLS;
    let mut tones = vec![[0.0; 3]; COLOUR_CELLS * COLOUR_CELLS];
    for (i, pixel) in patch.iter().enumerate() {
        let tone = &mut tones[i / SIDE / size * COLOUR_CELLS + i % SIDE / size];
        let sum = brightness(pixel);
        tone[0] += pixel[0] / sum;
        tone[1] += pixel[2] / sum;
        tone[2] += (sum / mean).ln();
    }
    let count = (size * size) as f32;
    tones.iter_mut().for_each(|tone| *tone = tone.map(|v| v / count));
    tones
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;

    /// A striped picture; the angle and colour of the stripes identify the person.
    fn picture(person: usize, [shift_x, shift_y]: [usize; 2], gain: f32) -> Tensor {
        let (width, height) = (200, 160);
        let mut data = Vec::new();
        for y in 0..height {
            for x in 0..width {
                let (x, y) = ((x + 200 - shift_x) as f32, (y + 200 - shift_y) as f32);
                let wave = if person == 0 { (x * 0.4).sin() } else { (y * 0.3 + x * 0.1).sin() };
                let base = if person == 0 { [150.0, 100.0, 80.0] } else { [110.0, 110.0, 110.0] };
                data.extend(base.map(|v: f32| (gain * (v + 40.0 * wave)).clamp(0.0, 255.0) as u8));
            }
        }
        Tensor::from_vec(data, (height, width, 3), &Device::Cpu).unwrap()
    }

    fn anchors([x, y]: [f32; 2]) -> Anchors {
        Anchors { left_brow: [x, y], right_brow: [x + 50.0, y], nose: [x + 25.0, y + 30.0] }
    }

    #[test]
    fn distance_is_small_after_a_shift_and_dimming_and_large_for_another_face() {
        let appearance = |person, shift: [usize; 2], gain| {
            let at = anchors([70.0 + shift[0] as f32, 50.0 + shift[1] as f32]);
            Appearance::of(&picture(person, shift, gain), &at).unwrap()
        };
        let one = appearance(0, [0, 0], 1.0);
        assert_eq!(one.distance(&one.clone()).max(0.0), one.distance(&appearance(0, [0, 0], 1.0)).max(0.0));
        assert!(
            one.distance(&appearance(0, [8, 5], 0.8)) < 0.5,
            "{}",
            one.distance(&appearance(0, [8, 5], 0.8))
        );
        let mut other = appearance(1, [0, 0], 1.0);
        let before = other.distance(&one);
        assert!(before > 1.2, "{before}");
        other.blend(&one, 0.5);
        assert!(other.distance(&one) < before);
        other.blend(&one, 1.0);
        assert!(other.distance(&one) < 1e-3);
    }

    #[test]
    fn flat_pictures_are_similar_for_any_anchors() {
        let black = Tensor::zeros((3, 2, 3), candle_core::DType::U8, &Device::Cpu).unwrap();
        let [near, far] = [[0.0, 0.0], [-5e5, 1e5]].map(|at| Appearance::of(&black, &anchors(at)).unwrap());
        assert!(near.distance(&far) < 1e-3);
    }
}
