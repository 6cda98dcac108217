//! Measurement of the mouth opening in pixels for the demo's face: a port of `scripts/train_demo/opening.py`.
//! The position of the mouth and the classifier of its colours are stored with the clip.

use image::RgbImage;
use serde::Deserialize;

use super::Sentence;
use crate::error::Result;
use crate::weights;

/// Content of `face.mouth.json`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MouthMeter {
    frames: Vec<MouthPlace>,
    /// Positions of the sampled rows, in units of `down`.
    rows: Vec<f64>,
    /// Positions of the sampled columns, in units of `along`.
    columns: Vec<f64>,
    /// Weights of a logistic regression on [`features`] that classifies colours inside the mouth.
    weights: [f64; 10],
    /// Measured value for closed lips.
    zero: f64,
    /// Expected openings for each sentence.
    #[serde(rename = "wanted")]
    expected: [Vec<f64>; 2],
}

/// Position of the mouth in one frame, in pixels: the centre of the closed lips, the vector to a corner of
/// the mouth, and a vector down the face with the length of the distance between the eyebrows.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MouthPlace {
    centre: [f64; 2],
    along: [f64; 2],
    down: [f64; 2],
}

impl MouthMeter {
    pub fn built_in(json: &[u8]) -> Result<Self> {
        let meter = serde_json::from_slice(json).map_err(|error| weights::Error::File {
            path: "demo/face.mouth.json".into(),
            problem: error.to_string(),
        })?;
        Ok(meter)
    }

    /// Expected openings for a sentence, relative to the distance between the eyebrows.
    pub fn expected(&self, sentence: Sentence) -> &[f64] {
        &self.expected[sentence.number() - 1]
    }

    /// Opening in each of the clip's first frames, relative to the distance between the eyebrows.
    pub fn measure(&self, frames: &[RgbImage]) -> Vec<f64> {
        let row_height = (self.rows[self.rows.len() - 1] - self.rows[0]) / (self.rows.len() - 1) as f64;
        let opening = |(frame, place): (&RgbImage, &MouthPlace)| {
            let points =
                self.rows.iter().flat_map(|&row| self.columns.iter().map(move |&column| (row, column)));
            let inside: f64 =
                points.map(|(row, column)| self.inside(colour(frame, place.at(row, column)))).sum();
            inside / self.columns.len() as f64 * row_height - self.zero
        };
        frames.iter().zip(&self.frames).map(opening).collect()
    }

    /// Probability that a colour belongs to the inside of the mouth.
    fn inside(&self, colour: [f64; 3]) -> f64 {
        let sum: f64 = features(colour).iter().zip(&self.weights).map(|(x, weight)| x * weight).sum();
        1.0 / (1.0 + (-sum).exp())
    }
}

impl MouthPlace {
    fn at(&self, row: f64, column: f64) -> [f64; 2] {
        std::array::from_fn(|i| self.centre[i] + row * self.down[i] + column * self.along[i])
    }
}

/// Polynomial features of degree 2.
fn features([r, g, b]: [f64; 3]) -> [f64; 10] {
    [1.0, r, g, b, r * r, g * g, b * b, r * g, r * b, g * b]
}

/// Bilinear sample, 0 to 1, with clamping at the edges.
fn colour(frame: &RgbImage, [x, y]: [f64; 2]) -> [f64; 3] {
    let clamp = |at: f64, size: u32| at.clamp(0.0, f64::from(size - 1));
    let (x, y) = (clamp(x, frame.width()), clamp(y, frame.height()));
    let (left, top) = (x as u32, y as u32);
    let (right, bottom) = ((left + 1).min(frame.width() - 1), (top + 1).min(frame.height() - 1));
    let (fx, fy) = (x - f64::from(left), y - f64::from(top));
    std::array::from_fn(|k| {
        let at = |x, y| f64::from(frame.get_pixel(x, y)[k]) / 255.0;
        let above = at(left, top) * (1.0 - fx) + at(right, top) * fx;
        let below = at(left, bottom) * (1.0 - fx) + at(right, bottom) * fx;
        above * (1.0 - fy) + below * fy
    })
}

/// Pearson correlation over the common length; 0 if one of the sequences is constant.
pub fn correlation(a: &[f64], b: &[f64]) -> f64 {
    let count = a.len().min(b.len());
    let mean = |values: &[f64]| values[..count].iter().sum::<f64>() / count.max(1) as f64;
    let (mean_a, mean_b) = (mean(a), mean(b));
    let (mut products, mut squares_a, mut squares_b) = (0.0, 0.0, 0.0);
    for (a, b) in a.iter().zip(b) {
        let (a, b) = (a - mean_a, b - mean_b);
        products += a * b;
        squares_a += a * a;
        squares_b += b * b;
    }
    match squares_a * squares_b > 0.0 {
        true => products / (squares_a * squares_b).sqrt(),
        false => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn correlation_of_equal_opposite_and_constant_sequences() {
        let rising = [1.0, 2.0, 4.0];
        assert!((correlation(&rising, &[10.0, 20.0, 40.0, 99.0]) - 1.0).abs() < 1e-12);
        assert!((correlation(&rising, &[-1.0, -2.0, -4.0]) + 1.0).abs() < 1e-12);
        assert_eq!(correlation(&rising, &[5.0; 3]), 0.0);
        assert_eq!(correlation(&[], &rising), 0.0);
    }

    #[test]
    fn colours_are_interpolated_and_edges_clamped() {
        let mut frame = RgbImage::new(2, 2);
        frame.put_pixel(1, 0, image::Rgb([255, 0, 0]));
        frame.put_pixel(1, 1, image::Rgb([255, 255, 0]));
        assert_eq!(colour(&frame, [0.5, 0.5]), [0.5, 0.25, 0.0]);
        assert_eq!(colour(&frame, [9.0, -3.0]), [1.0, 0.0, 0.0]);
    }
}
