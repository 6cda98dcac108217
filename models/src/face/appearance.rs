//! What a face looks like, told apart from other faces without a recognition network: the directions of its
//! edges, cell by cell, and its colours and shades, on a patch that the three anchors bring into one pose.

use candle_core::{Result, Tensor};

use super::pixels::with_rgb;
use super::{Anchors, Rgb};

/// Pixels per side of the patch.
const SIDE: usize = 64;
/// Left, right, upper and lower end of the patch, in eyebrow distances from the middle of the brows: from the
/// hairline to the chin, from ear to ear.
const REACH: [f32; 4] = [-1.2, 1.2, -0.6, 1.8];
/// At most this many samples, in each direction, are averaged into one pixel of the patch.
const SAMPLES: usize = 3;

/// Cells of this many pixels per side have one histogram of edge directions each …
const EDGE_CELL: usize = 8;
/// … of this many directions over the full turn.
const DIRECTIONS: usize = 8;
/// Gradient, in gray levels, from which an edge counts fully: below it lies noise.
const FAINT_EDGE: f32 = 8.0;
/// Part of a histogram that every direction has: two patches without edges look alike.
const FLOOR: f32 = 1e-4;

/// Cells per side that the mean colour is taken of.
const COLOUR_CELLS: usize = 4;
/// Added to the sum of red, green and blue: the colour of black is noise.
const DARK: f32 = 30.0;

/// Differences at which two pictures are as likely of one person as of two: edges as 1 − cosine, colours in
/// parts of red and blue, shades in natural logarithms. From 58 frames of three videos and 7 photographs of
/// other people: within a video 0.22, 0.035 and 0.16 at most; between people 0.11, 0.036 and 0.12 at least,
/// but never low in all three at once.
const BOUNDARY: [f32; 3] = [0.20, 0.04, 0.20];
/// One of the three alone cannot say more than this: coloured light changes colours, not persons.
const MOST: f32 = 2.5;

/// How one face looks.
#[derive(Clone, Debug, PartialEq)]
pub struct Appearance {
    /// Square roots of the histograms of edge directions, as one vector of length 1.
    edges: Vec<f32>,
    /// Part of red, part of blue, logarithm of the brightness against the patch's mean; per cell.
    tones: Vec<[f32; 3]>,
}

impl Appearance {
    /// The face at `anchors` in `frame`, (height, width, 3) u8.
    pub fn of(frame: &Tensor, anchors: &Anchors) -> Result<Self> {
        with_rgb(frame, |image| Ok(Self::of_patch(&patch(&image, anchors))))
    }

    fn of_patch(patch: &[[f32; 3]]) -> Self {
        Self { edges: edges(patch), tones: tones(patch) }
    }

    /// 0 for the same picture; frames of one video reach 0.8, other people are beyond 0.95.
    pub fn distance(&self, other: &Self) -> f32 {
        let edges = 1.0 - self.edges.iter().zip(&other.edges).map(|(a, b)| a * b).sum::<f32>();
        let (mut colour, mut shade) = (0.0, 0.0);
        for (a, b) in self.tones.iter().zip(&other.tones) {
            colour += (a[0] - b[0]).hypot(a[1] - b[1]);
            shade += (a[2] - b[2]).abs();
        }
        let cells = self.tones.len() as f32;
        let differences = [edges, colour / cells, shade / cells];
        let parts = differences.iter().zip(BOUNDARY).map(|(difference, of)| (difference / of).min(MOST));
        parts.sum::<f32>() / BOUNDARY.len() as f32
    }

    /// Moves towards `other` by this part of the way.
    pub fn learn(&mut self, other: &Self, part: f32) {
        let towards = |from: &mut f32, to: f32| *from += part * (to - *from);
        self.edges.iter_mut().zip(&other.edges).for_each(|(from, &to)| towards(from, to));
        for (from, to) in self.tones.iter_mut().zip(&other.tones) {
            from.iter_mut().zip(to).for_each(|(from, &to)| towards(from, to));
        }
        normalise(&mut self.edges);
    }
}

/// The face in one pose, row by row: mean red, green and blue of an even grid of samples each.
fn patch(image: &Rgb, anchors: &Anchors) -> Vec<[f32; 3]> {
    let [x, y] = anchors.brow_line();
    let middle = [0, 1].map(|i| (anchors.left_brow[i] + anchors.right_brow[i]) / 2.0);
    let [left, right, top, bottom] = REACH;
    let step = (right - left) * anchors.brow_distance() / SIDE as f32;
    let samples = (step.ceil() as usize).clamp(1, SAMPLES);
    let place = |i: usize, sample: usize, from: f32, to: f32| {
        from + (to - from) * ((i * samples + sample) as f32 + 0.5) / (SIDE * samples) as f32
    };
    let count = (samples * samples) as f32;
    (0..SIDE * SIDE)
        .map(|pixel| {
            let mut sum = [0.0; 3];
            for sample in 0..samples * samples {
                let along = place(pixel % SIDE, sample % samples, left, right);
                let down = place(pixel / SIDE, sample / samples, top, bottom);
                let at = [middle[0] + along * x - down * y, middle[1] + along * y + down * x];
                for (sum, value) in sum.iter_mut().zip(interpolate(image, at)) {
                    *sum += value;
                }
            }
            sum.map(|v| v / count)
        })
        .collect()
}

/// Bilinear; beyond the picture its edge goes on.
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

fn edges(patch: &[[f32; 3]]) -> Vec<f32> {
    let gray: Vec<f32> = patch.iter().map(|p| p.iter().sum::<f32>() / 3.0).collect();
    let cells = SIDE / EDGE_CELL;
    let mut histograms = vec![0.0; cells * cells * DIRECTIONS];
    for y in 1..SIDE - 1 {
        for x in 1..SIDE - 1 {
            let at = y * SIDE + x;
            let (dx, dy) = (gray[at + 1] - gray[at - 1], gray[at + SIDE] - gray[at - SIDE]);
            // Each edge counts for the two directions that it lies between.
            let turn = (dy.atan2(dx) / std::f32::consts::TAU).rem_euclid(1.0) * DIRECTIONS as f32;
            let (direction, rest) = (turn as usize, turn.fract());
            let cell = (y / EDGE_CELL * cells + x / EDGE_CELL) * DIRECTIONS;
            let strength = dx.hypot(dy);
            histograms[cell + direction % DIRECTIONS] += strength * (1.0 - rest);
            histograms[cell + (direction + 1) % DIRECTIONS] += strength * rest;
        }
    }
    for cell in histograms.chunks_exact_mut(DIRECTIONS) {
        let sum = cell.iter().sum::<f32>() + FAINT_EDGE * (EDGE_CELL * EDGE_CELL) as f32;
        cell.iter_mut().for_each(|v| *v = (*v / sum + FLOOR).sqrt());
    }
    normalise(&mut histograms);
    histograms
}

fn normalise(vector: &mut [f32]) {
    let length = vector.iter().map(|v| v * v).sum::<f32>().sqrt();
    vector.iter_mut().for_each(|v| *v /= length);
}

fn tones(patch: &[[f32; 3]]) -> Vec<[f32; 3]> {
    let brightness = |p: &[f32; 3]| p.iter().sum::<f32>() + DARK;
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

    /// A striped picture; the stripes' angle and the colour make the person.
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
    fn a_face_that_moves_in_other_light_looks_the_same_and_another_one_does_not() {
        let look = |person, shift: [usize; 2], gain| {
            let at = anchors([70.0 + shift[0] as f32, 50.0 + shift[1] as f32]);
            Appearance::of(&picture(person, shift, gain), &at).unwrap()
        };
        let one = look(0, [0, 0], 1.0);
        assert_eq!(one.distance(&one.clone()).max(0.0), one.distance(&look(0, [0, 0], 1.0)).max(0.0));
        assert!(one.distance(&look(0, [8, 5], 0.8)) < 0.5, "{}", one.distance(&look(0, [8, 5], 0.8)));
        let mut other = look(1, [0, 0], 1.0);
        let before = other.distance(&one);
        assert!(before > 1.2, "{before}");
        other.learn(&one, 0.5);
        assert!(other.distance(&one) < before);
        other.learn(&one, 1.0);
        assert!(other.distance(&one) < 1e-3);
    }

    #[test]
    fn flat_pictures_look_alike_wherever_the_anchors_are() {
        let black = Tensor::zeros((3, 2, 3), candle_core::DType::U8, &Device::Cpu).unwrap();
        let [near, far] = [[0.0, 0.0], [-5e5, 1e5]].map(|at| Appearance::of(&black, &anchors(at)).unwrap());
        assert!(near.distance(&far) < 1e-3);
    }
}
