//! Cut detection on coarse thumbnails of the frames.
//!
//! Frames of one shot have a similar structure: fades and flashes change brightness and contrast, movement
//! shifts it slightly. Two frames whose structure differs regardless of brightness and small shifts belong to
//! different shots, unless the next frame resembles the previous one, as after a flash or a damaged frame.

use std::collections::VecDeque;

use candle_core::{Result, Tensor};

/// Cells per side of a thumbnail.
const CELLS: usize = 24;
/// Sampled pixels per side of each cell.
const SAMPLES: usize = 4;
/// Maximum shift in cells, in each direction, that is tolerated.
const SHIFT: isize = 2;
/// Standard deviation in grey levels below which a thumbnail has no structure (black, white, fog).
const MIN_DEVIATION: f32 = 3.0;
/// Histogram bins per colour channel.
const STEPS: usize = 4;

/// Minimum of 1 − correlation between different scenes. In the three real test clips adjacent frames reach
/// 0.06, frames 0.4 s apart 0.17, and different scenes have at least 0.36.
const OTHER_SCENE: f32 = 0.3;
/// Minimum of 1 − correlation between different scenes whose colours differ as well.
const OTHER_LAYOUT: f32 = 0.15;
/// Minimum difference of the histograms for [`OTHER_LAYOUT`].
const OTHER_COLOURS: f32 = 0.5;
/// Minimum ratio of a cut's difference to the mean difference of the previous frames.
const STANDS_OUT: f32 = 3.0;
/// Number of frames over which the movement is averaged.
const RECENT: usize = 8;

/// Grey thumbnail and colour histogram of a frame.
struct Thumbnail {
    grey: Vec<f32>,
    colours: Vec<f32>,
}

/// Detects the first frames of shots, with a delay of one frame.
#[derive(Default)]
pub struct CutDetector {
    /// The last decided frame that has structure.
    before: Option<Thumbnail>,
    /// The frame that has not been decided yet.
    latest: Option<Thumbnail>,
    movement: VecDeque<f32>,
}

impl CutDetector {
    /// Adds a frame, (height, width, 3) u8. Returns whether the previous frame starts a shot; the first frame
    /// of a video does not count.
    pub fn push(&mut self, rgb: &Tensor) -> Result<bool> {
        let next = Thumbnail::of(rgb)?;
        let cut = self.decide(Some(&next));
        self.latest = Some(next);
        Ok(cut)
    }

    /// Returns whether the last frame starts a shot.
    pub fn finish(&mut self) -> bool {
        self.decide(None)
    }

    fn decide(&mut self, next: Option<&Thumbnail>) -> bool {
        let Some(frame) = self.latest.take() else { return false };
        if frame.is_flat() {
            return false;
        }
        let Some(before) = &self.before else {
            self.before = Some(frame);
            return false;
        };
        let difference = Difference::between(before, &frame);
        let usual = self.movement.iter().sum::<f32>() / self.movement.len().max(1) as f32;
        let passes =
            next.is_some_and(|next| !next.is_flat() && !Difference::between(before, next).is_other_scene());
        // A new shot continues, whereas during a fast pan every frame is different.
        let continues = next.is_none_or(|next| !Difference::between(&frame, next).is_other_scene());
        let stands_out = difference.is_other_scene() && difference.structure > STANDS_OUT * usual;
        let cut = stands_out && !passes && continues;
        if cut {
            self.movement.clear();
        } else if !passes || !difference.is_other_scene() {
            self.movement.push_back(difference.structure);
            if self.movement.len() > RECENT {
                self.movement.pop_front();
            }
        }
        if !passes || !difference.is_other_scene() {
            self.before = Some(frame);
        }
        cut
    }
}

impl Thumbnail {
    fn of(rgb: &Tensor) -> Result<Self> {
        let (height, width, _) = rgb.dims3()?;
        let places = |length: usize| -> Vec<u32> {
            let count = CELLS * SAMPLES;
            (0..count).map(|i| ((2 * i + 1) * length / (2 * count)) as u32).collect()
        };
        let pick = |length: usize| Tensor::new(places(length), rgb.device());
        let pixels = rgb.index_select(&pick(height)?, 0)?.index_select(&pick(width)?, 1)?;
        let pixels = pixels.flatten_all()?.to_vec1::<u8>()?;
        let mut grey = vec![0.0; CELLS * CELLS];
        let mut colours = vec![0.0; STEPS * STEPS * STEPS];
        let (row, share) = (CELLS * SAMPLES, 1.0 / (SAMPLES * SAMPLES) as f32);
        for (i, pixel) in pixels.chunks_exact(3).enumerate() {
            let cell = i / row / SAMPLES * CELLS + i % row / SAMPLES;
            grey[cell] += share * pixel.iter().map(|&v| f32::from(v)).sum::<f32>() / 3.0;
            let step = |v: u8| usize::from(v) * STEPS / 256;
            colours[(step(pixel[0]) * STEPS + step(pixel[1])) * STEPS + step(pixel[2])] += 1.0;
        }
        let count = (row * row) as f32;
        colours.iter_mut().for_each(|v| *v /= count);
        Ok(Self { grey, colours })
    }

    fn is_flat(&self) -> bool {
        let mean = self.grey.iter().sum::<f32>() / self.grey.len() as f32;
        let square = self.grey.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / self.grey.len() as f32;
        square.sqrt() < MIN_DEVIATION
    }
}

struct Difference {
    /// Minimum over all shifts of 1 − correlation of the grey values, 0 to 2.
    structure: f32,
    /// Distance of the histograms: fraction of the pixels with a different colour, 0 to 1.
    colours: f32,
}

impl Difference {
    fn between(a: &Thumbnail, b: &Thumbnail) -> Self {
        let shifts = || (-SHIFT..=SHIFT).flat_map(|y| (-SHIFT..=SHIFT).map(move |x| [x, y]));
        let best = shifts().map(|shift| correlation(&a.grey, &b.grey, shift)).fold(-1.0, f32::max);
        let colours = a.colours.iter().zip(&b.colours).map(|(a, b)| (a - b).abs()).sum::<f32>() / 2.0;
        Self { structure: 1.0 - best, colours }
    }

    fn is_other_scene(&self) -> bool {
        self.structure > OTHER_SCENE || (self.structure > OTHER_LAYOUT && self.colours > OTHER_COLOURS)
    }
}

/// Pearson correlation of the overlap of `a` and of `b` shifted by `x` and `y` cells.
fn correlation(a: &[f32], b: &[f32], [x, y]: [isize; 2]) -> f32 {
    let range = |shift: isize| shift.max(0) as usize..(CELLS as isize + shift.min(0)) as usize;
    let moved = |at: usize, shift: isize| (at as isize - shift) as usize;
    let (mut count, mut a_sum, mut b_sum, mut aa, mut bb, mut ab) = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0);
    for row in range(y) {
        for column in range(x) {
            let a = f64::from(a[row * CELLS + column]);
            let b = f64::from(b[moved(row, y) * CELLS + moved(column, x)]);
            (count, a_sum, b_sum) = (count + 1.0, a_sum + a, b_sum + b);
            (aa, bb, ab) = (aa + a * a, bb + b * b, ab + a * b);
        }
    }
    let (aa, bb) = (aa - a_sum * a_sum / count, bb - b_sum * b_sum / count);
    let ab = ab - a_sum * b_sum / count;
    if aa > 0.0 && bb > 0.0 { (ab / (aa * bb).sqrt()) as f32 } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    /// A scene of smooth blobs with a gain, an offset and a shift.
    fn frame(scene: usize, gain: f32, offset: f32, shift: f32) -> Tensor {
        let (height, width) = (90, 160);
        let mut data = Vec::new();
        for y in 0..height {
            for x in 0..width {
                let (u, v) = ((x as f32 + shift) / 25.0, y as f32 / 20.0);
                let wave = match scene {
                    0 => (1.3 * u).sin() + (1.1 * v + u).cos(),
                    _ => (2.1 * v).sin() - (0.7 * u - 1.7 * v).cos(),
                };
                data.extend([1.0, 0.8, 0.6].map(|c: f32| (c * gain * (110.0 + 50.0 * wave) + offset) as u8));
            }
        }
        Tensor::from_vec(data, (height, width, 3), &Device::Cpu).unwrap()
    }

    /// The frames that start a shot.
    fn cuts(frames: &[Tensor]) -> Vec<usize> {
        let mut detector = CutDetector::default();
        let mut answers: Vec<bool> = frames.iter().map(|frame| detector.push(frame).unwrap()).collect();
        answers.push(detector.finish());
        // The first result does not belong to a frame.
        assert!(!answers.remove(0));
        (0..frames.len()).filter(|&i| answers[i]).collect()
    }

    fn pan(scene: usize, speed: f32, frames: usize) -> Vec<Tensor> {
        (0..frames).map(|i| frame(scene, 1.0, 0.0, speed * i as f32)).collect()
    }

    #[test]
    fn a_cut_is_found_at_its_frame() {
        let [a, b] = [pan(0, 1.0, 6), pan(1, 1.0, 6)];
        assert_eq!(cuts(&[a.clone(), b.clone(), a.clone()].concat()), [6, 12]);
        // Also a shot that consists of the last frame only.
        assert_eq!(cuts(&[&a[..], &b[..1]].concat()), [6]);
        assert_eq!(cuts(&a[..1]), [0; 0]);
    }

    #[test]
    fn movement_fades_and_flashes_are_not_cuts() {
        assert_eq!(cuts(&pan(0, 12.0, 20)), [0; 0]);
        let fade: Vec<_> = (0..20).map(|i| frame(0, (1.0 - i as f32 / 8.0).abs(), 0.0, 0.0)).collect();
        assert_eq!(cuts(&fade), [0; 0]);
        let to_white: Vec<_> = (0..9).map(|i| frame(0, 1.0, 32.0 * i as f32, 0.0)).collect();
        assert_eq!(cuts(&to_white), [0; 0]);
        let mut flash = pan(0, 1.0, 12);
        flash[5] = frame(0, 3.0, 40.0, 5.0);
        flash[6] = frame(0, 2.0, 20.0, 6.0);
        // A single different frame, as in a damaged stream.
        flash[9] = frame(1, 1.0, 0.0, 0.0);
        assert_eq!(cuts(&flash), [0; 0]);
    }

    #[test]
    fn a_scene_after_black_is_a_new_shot_if_it_differs_from_the_one_before() {
        let black = vec![frame(0, 0.0, 16.0, 0.0); 3];
        let [a, b] = [pan(0, 1.0, 4), pan(1, 1.0, 4)];
        assert_eq!(cuts(&[a.clone(), black.clone(), b].concat()), [7]);
        assert_eq!(cuts(&[a.clone(), black, a].concat()), [0; 0]);
    }
}
