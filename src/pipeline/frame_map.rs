//! Which moment of the voice each output frame shows. The model works at 25 frames a second, whatever the
//! output's rate is.
//!
//! Model frame `k` is made for the time k / 25; an output frame shows the mouth of the model frame that is nearest to
//! its own time. At 25 frames a second both are one sequence.

use std::ops::Range;

use crate::options::{FPS, FrameRate, frames_in};

/// The output's frame rate, frames a second as a fraction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    numerator: u64,
    denominator: u64,
}

impl Timing {
    pub fn new(rate: FrameRate) -> Self {
        Self { numerator: u64::from(rate.numerator()), denominator: u64::from(rate.denominator()) }
    }

    pub fn frames_per_second(&self) -> f64 {
        self.numerator as f64 / self.denominator as f64
    }

    /// Output frames that begin within `seconds`.
    pub fn frames_of(&self, seconds: f64) -> usize {
        frames_in(seconds, self.frames_per_second())
    }

    /// Output frames within the time of `model_frames`, rounded up.
    pub fn frames_of_model(&self, model_frames: usize) -> usize {
        (model_frames as u64 * self.numerator).div_ceil(FPS as u64 * self.denominator) as usize
    }

    /// The model frame whose mouth output frame `output` shows.
    pub fn model_frame(&self, output: usize) -> usize {
        round(output as u64 * FPS as u64 * self.denominator, self.numerator)
    }

    /// Model frames for an output of `frames` frames.
    pub fn model_frames(&self, frames: usize) -> usize {
        frames.checked_sub(1).map_or(0, |last| self.model_frame(last) + 1)
    }

    /// The output frames that show one of `model_frames`. Of neighbouring ranges, neighbouring outputs.
    pub fn outputs(&self, model_frames: Range<usize>) -> Range<usize> {
        self.first_output(model_frames.start)..self.first_output(model_frames.end)
    }

    /// The one of `outputs` (not empty) whose picture model frame `model_frame` is made from: the nearest in time.
    pub fn picture_of(&self, model_frame: usize, outputs: &Range<usize>) -> usize {
        let nearest = round(model_frame as u64 * self.numerator, FPS as u64 * self.denominator);
        nearest.clamp(outputs.start, outputs.end.saturating_sub(1))
    }

    /// The first output frame that shows `model_frame` or a later one.
    fn first_output(&self, model_frame: usize) -> usize {
        let near = (model_frame as u64 * self.numerator / (FPS as u64 * self.denominator)) as usize;
        // Rounding can only reach half a model frame back.
        let reach = (self.numerator / (FPS as u64 * self.denominator)) as usize + 1;
        (near.saturating_sub(reach)..).find(|&output| self.model_frame(output) >= model_frame).unwrap_or(near)
    }
}

/// `a` / `b` to the nearest whole number, halves down: no model frame is made for half a frame at the end.
fn round(a: u64, b: u64) -> usize {
    ((2 * a + b - 1) / (2 * b)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timing(numerator: u32, denominator: u32) -> Timing {
        Timing::new(FrameRate::new(numerator, denominator).unwrap())
    }

    const RATES: [(u32, u32); 10] = [
        (25, 1),
        (24, 1),
        (30, 1),
        (30000, 1001),
        (24000, 1001),
        (50, 1),
        (60, 1),
        (240, 1),
        (12, 1),
        (1, 1),
    ];

    #[test]
    fn at_25_frames_a_second_nothing_happens() {
        let timing = timing(50, 2);
        assert!((0..1000).all(|i| timing.model_frame(i) == i && timing.picture_of(i, &(0..1000)) == i));
        assert_eq!((timing.outputs(16..32), timing.model_frames(33)), (16..32, 33));
        assert_eq!((timing.frames_of(0.28), timing.frames_of(3.2), timing.frames_of(3.201)), (7, 80, 81));
    }

    #[test]
    fn every_output_belongs_to_one_chunk_and_shows_its_own_time() {
        for (numerator, denominator) in RATES {
            let timing = timing(numerator, denominator);
            let mut next = 0;
            for chunk in 0..100 {
                let outputs = timing.outputs(chunk * 16..(chunk + 1) * 16);
                assert_eq!(outputs.start, next, "{numerator}/{denominator}: chunk {chunk}");
                next = outputs.end;
                for output in outputs.clone() {
                    let model = timing.model_frame(output);
                    assert!((chunk * 16..(chunk + 1) * 16).contains(&model));
                    let late = output as f64 / timing.frames_per_second() - model as f64 / 25.0;
                    assert!(late.abs() <= 0.02 + 1e-9, "{numerator}/{denominator}: frame {output} {late}");
                }
                if outputs.is_empty() {
                    continue;
                }
                for model in chunk * 16..(chunk + 1) * 16 {
                    let picture = timing.picture_of(model, &outputs);
                    assert!(outputs.contains(&picture));
                    if numerator >= 25 * denominator {
                        assert_eq!(timing.model_frame(picture), model, "{numerator}/{denominator}");
                    }
                }
            }
        }
    }

    #[test]
    fn ten_minutes_do_not_drift() {
        let timing = timing(30000, 1001);
        let frames = timing.frames_of(600.0);
        // The last begins 0.6 ms before the end: the model frame nearest to it is the one that would follow.
        assert_eq!((frames, timing.model_frames(frames)), (17983, 15001));
        assert_eq!(timing.frames_of_model(15000), 17983);
    }
}
