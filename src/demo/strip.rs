//! Picture of the result: input frames, output frames, and a plot of the mouth opening.

use std::ops::Range;

use image::imageops::{self, FilterType};
use image::{Rgb, RgbImage};

const THUMBNAILS: usize = 10;
/// Side of a thumbnail, in pixels.
const SIDE: u32 = 160;
const PLOT_HEIGHT: u32 = 200;
const GAP: u32 = 8;
const WIDTH: u32 = THUMBNAILS as u32 * SIDE;

const PAPER: Rgb<u8> = Rgb([255, 255, 255]);
const RULE: Rgb<u8> = Rgb([225, 225, 225]);
const LOUDNESS: Rgb<u8> = Rgb([205, 205, 210]);
const EXPECTED: Rgb<u8> = Rgb([70, 75, 95]);
const OPENING: Rgb<u8> = Rgb([226, 102, 24]);

/// Content of the picture. The frames are square, and all sequences start at the same time.
pub(super) struct Strip<'a> {
    pub input: &'a [RgbImage],
    pub output: &'a [RgbImage],
    /// Mouth openings measured in the output.
    pub openings: &'a [f64],
    /// Expected mouth openings.
    pub expected: &'a [f64],
    /// Audio of the sentence.
    pub samples: &'a [f32],
}

impl Strip<'_> {
    pub fn draw(&self) -> RgbImage {
        let top = 2 * (SIDE + GAP);
        let mut picture = RgbImage::from_pixel(WIDTH, top + PLOT_HEIGHT, PAPER);
        for column in 0..THUMBNAILS {
            let x = column as u32 * SIDE;
            for (row, frames) in [self.input, self.output].into_iter().enumerate() {
                let number = (2 * column + 1) * self.output.len() / (2 * THUMBNAILS);
                if let Some(frame) = frames.get(number) {
                    let small = imageops::resize(frame, SIDE, SIDE, FilterType::Triangle);
                    imageops::replace(&mut picture, &small, x.into(), i64::from(row as u32 * (SIDE + GAP)));
                }
            }
            // The time of the thumbnails.
            fill(&mut picture, x + SIDE / 2, top..top + PLOT_HEIGHT, RULE);
        }
        self.plot_loudness(&mut picture, top);
        let highest =
            self.openings.iter().chain(self.expected).fold(1e-6_f64, |most, &value| most.max(value));
        let lines = [
            Line { values: self.expected, highest, thickness: 2, colour: EXPECTED },
            Line { values: self.openings, highest, thickness: 4, colour: OPENING },
        ];
        for line in lines {
            line.plot(&mut picture, top);
        }
        picture
    }

    /// One bar per pixel column: the RMS relative to the maximum.
    fn plot_loudness(&self, picture: &mut RgbImage, top: u32) {
        let columns = WIDTH as usize;
        let loudness = |column: usize| {
            let at = |column: usize| column * self.samples.len() / columns;
            let part = &self.samples[at(column)..at(column + 1)];
            (part.iter().map(|s| s * s).sum::<f32>() / part.len().max(1) as f32).sqrt()
        };
        let bars: Vec<f32> = (0..columns).map(loudness).collect();
        let loudest = bars.iter().fold(1e-6_f32, |most, &bar| most.max(bar));
        for (x, bar) in bars.iter().enumerate() {
            let height = (bar / loudest * (PLOT_HEIGHT - 1) as f32) as u32;
            fill(picture, x as u32, top + PLOT_HEIGHT - height..top + PLOT_HEIGHT, LOUDNESS);
        }
    }
}

/// Plot of one value per frame, 0 at the bottom, `highest` at the top.
struct Line<'a> {
    values: &'a [f64],
    highest: f64,
    thickness: u32,
    colour: Rgb<u8>,
}

impl Line<'_> {
    fn plot(&self, picture: &mut RgbImage, top: u32) {
        let room = PLOT_HEIGHT - self.thickness;
        let mut before = None;
        for x in 0..WIDTH {
            // The value of a frame is plotted at its centre.
            let at = (f64::from(x) + 0.5) / f64::from(WIDTH) * self.values.len() as f64 - 0.5;
            let Some(value) = interpolate(self.values, at) else { return };
            let y = top + room - ((value / self.highest).clamp(0.0, 1.0) * f64::from(room)) as u32;
            // From the previous column's height, so that steep lines are connected.
            let (high, low) = (y.min(before.unwrap_or(y)), y.max(before.unwrap_or(y)));
            fill(picture, x, high..low + self.thickness, self.colour);
            before = Some(y);
        }
    }
}

/// Linear interpolation at `at`.
fn interpolate(values: &[f64], at: f64) -> Option<f64> {
    let at = at.clamp(0.0, values.len().checked_sub(1)? as f64);
    let (left, right) = (at as usize, (at as usize + 1).min(values.len() - 1));
    Some(values[left] + (values[right] - values[left]) * at.fract())
}

fn fill(picture: &mut RgbImage, x: u32, rows: Range<u32>, colour: Rgb<u8>) {
    for y in rows {
        picture.put_pixel(x, y, colour);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_picture_has_the_frames_and_the_curves() {
        let input = vec![RgbImage::from_pixel(480, 480, Rgb([10, 200, 30])); 20];
        let output = vec![RgbImage::from_pixel(480, 480, Rgb([10, 20, 230])); 20];
        let openings: Vec<f64> = (0..20).map(f64::from).collect();
        let samples = vec![0.5; 16_000];
        let strip = Strip {
            input: &input,
            output: &output,
            openings: &openings,
            expected: &[1.0; 20],
            samples: &samples,
        };
        let picture = strip.draw();
        assert_eq!(picture.dimensions(), (1600, 2 * 168 + 200));
        assert_eq!(picture.get_pixel(5, 5), &Rgb([10, 200, 30]));
        assert_eq!(picture.get_pixel(5, SIDE + GAP + 5), &Rgb([10, 20, 230]));
        // The opening rises from the bottom left to the top right; the loudness is constant.
        let bottom = picture.height() - 2;
        assert_eq!(picture.get_pixel(3, bottom), &OPENING);
        assert_eq!(picture.get_pixel(WIDTH - 3, 2 * (SIDE + GAP) + 2), &OPENING);
        assert_eq!(picture.get_pixel(WIDTH - 3, bottom), &LOUDNESS);
    }

    #[test]
    fn empty_input_is_accepted() {
        let strip = Strip { input: &[], output: &[], openings: &[], expected: &[], samples: &[] };
        assert_eq!(strip.draw().width(), WIDTH);
    }
}
