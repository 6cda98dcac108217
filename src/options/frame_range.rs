//! Ranges of frames.

use serde::Serialize;

/// Frames `first` to `last`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct FrameRange {
    pub first: usize,
    pub last: usize,
}

impl FrameRange {
    /// Adds a frame to ranges that are built in ascending order.
    pub fn push(ranges: &mut Vec<FrameRange>, frame: usize) {
        match ranges.last_mut() {
            Some(range) if range.last + 1 == frame => range.last = frame,
            _ => ranges.push(FrameRange { first: frame, last: frame }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_without_face_become_ranges() {
        let mut ranges = Vec::new();
        for frame in [0, 1, 2, 7, 9, 10] {
            FrameRange::push(&mut ranges, frame);
        }
        let pairs: Vec<_> = ranges.iter().map(|r| (r.first, r.last)).collect();
        assert_eq!(pairs, [(0, 2), (7, 7), (9, 10)]);
    }
}
