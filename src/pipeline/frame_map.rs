//! Mapping between output frames and model frames. The model works at 25 frames per second; the output may
//! have another rate.
//!
//! Model frame `k` is generated for the time k / 25. An output frame shows the mouth of the model frame that
//! is nearest in time. At 25 frames per second the mapping is the identity.

use std::ops::Range;

use crate::options::{FPS, FrameRate};

/// Mapping between the frames of an output at a given rate and model frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameMap {
    numerator: u64,
    denominator: u64,
}

impl FrameMap {
    pub fn new(rate: FrameRate) -> Self {
        Self { numerator: u64::from(rate.numerator()), denominator: u64::from(rate.denominator()) }
    }

    pub fn frames_per_second(&self) -> f64 {
        self.numerator as f64 / self.denominator as f64
    }

    /// Number of output frames in the duration of `model_frames`, rounded up.
    pub fn output_frames_for(&self, model_frames: usize) -> usize {
        (model_frames as u64 * self.numerator).div_ceil(FPS as u64 * self.denominator) as usize
    }

    /// The model frame whose mouth is shown in output frame `output`.
    pub fn model_frame(&self, output: usize) -> usize {
        round(output as u64 * FPS as u64 * self.denominator, self.numerator)
    }

    /// Number of model frames for an output of `frames` frames.
    pub fn model_frames(&self, frames: usize) -> usize {
        frames.checked_sub(1).map_or(0, |last| self.model_frame(last) + 1)
    }

    /// The output frames that show one of `model_frames`. Adjacent ranges have adjacent outputs.
    pub fn outputs(&self, model_frames: Range<usize>) -> Range<usize> {
        self.first_output(model_frames.start)..self.first_output(model_frames.end)
    }

    /// The output frame, of `outputs` (not empty), whose picture is the source of `model_frame`: the nearest
    /// in time.
    pub fn source_output(&self, model_frame: usize, outputs: &Range<usize>) -> usize {
        let nearest = round(model_frame as u64 * self.numerator, FPS as u64 * self.denominator);
        nearest.clamp(outputs.start, outputs.end.saturating_sub(1))
    }

    /// The first output frame that shows `model_frame` or a later one.
    fn first_output(&self, model_frame: usize) -> usize {
        let near = (model_frame as u64 * self.numerator / (FPS as u64 * self.denominator)) as usize;
        // Rounding moves the result by at most half a model frame.
        let reach = (self.numerator / (FPS as u64 * self.denominator)) as usize + 1;
        (near.saturating_sub(reach)..).find(|&output| self.model_frame(output) >= model_frame).unwrap_or(near)
    }
}

/// `a` / `b` rounded to the nearest integer, halves down: half a frame at the end has no model frame of its
/// own.
fn round(a: u64, b: u64) -> usize {
    ((2 * a + b - 1) / (2 * b)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame_map(numerator: u32, denominator: u32) -> FrameMap {
        FrameMap::new(FrameRate::new(numerator, denominator).unwrap())
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
    fn at_25_frames_per_second_the_mapping_is_the_identity() {
        let frame_map = frame_map(50, 2);
        assert!(
            (0..1000).all(|i| frame_map.model_frame(i) == i && frame_map.source_output(i, &(0..1000)) == i)
        );
        assert_eq!((frame_map.outputs(16..32), frame_map.model_frames(33)), (16..32, 33));
    }

    #[test]
    fn every_output_frame_belongs_to_one_chunk_and_shows_its_own_time() {
        for (numerator, denominator) in RATES {
            let frame_map = frame_map(numerator, denominator);
            let mut next = 0;
            for chunk in 0..100 {
                let outputs = frame_map.outputs(chunk * 16..(chunk + 1) * 16);
                assert_eq!(outputs.start, next, "{numerator}/{denominator}: chunk {chunk}");
                next = outputs.end;
                for output in outputs.clone() {
                    let model = frame_map.model_frame(output);
                    assert!((chunk * 16..(chunk + 1) * 16).contains(&model));
                    let late = output as f64 / frame_map.frames_per_second() - model as f64 / 25.0;
                    assert!(late.abs() <= 0.02 + 1e-9, "{numerator}/{denominator}: frame {output} {late}");
                }
                if outputs.is_empty() {
                    continue;
                }
                for model in chunk * 16..(chunk + 1) * 16 {
                    let source = frame_map.source_output(model, &outputs);
                    assert!(outputs.contains(&source));
                    if numerator >= 25 * denominator {
                        assert_eq!(frame_map.model_frame(source), model, "{numerator}/{denominator}");
                    }
                }
            }
        }
    }

    #[test]
    fn ten_minutes_do_not_drift() {
        let frame_map = frame_map(30000, 1001);
        let frames = FrameRate::new(30000, 1001).unwrap().frames_in(600.0);
        // The last frame begins 0.6 ms before the end; the nearest model frame would be the one after the
        // end.
        assert_eq!((frames, frame_map.model_frames(frames)), (17983, 15001));
        assert_eq!(frame_map.output_frames_for(15000), 17983);
    }
}
