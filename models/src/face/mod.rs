//! Finding one speaker's face in a video and the three points that place the crop: the middles of the two
//! eyebrows and the nose. Two detectors stand behind one trait; `FaceTracker` stays with one person.

use std::path::PathBuf;

use candle_core::{Result, Tensor};

mod pixels;
mod face_frame;
mod dlib_reader;
mod dlib_shape_predictor;
mod seeta_boxes;
mod seeta_dlib;
mod onnx_wire;
mod onnx_network;
mod opencv_resample;
mod scrfd;
mod insightface;
mod appearance;
mod choice;
mod tracker;

pub use appearance::Appearance;
pub use choice::FaceChoice;
pub use dlib_shape_predictor::ShapePredictor;
pub use face_frame::FaceFrame;
pub use insightface::{ChannelOrder, InsightFace};
pub use pixels::Rgb;
pub use seeta_boxes::SEETA_LICENSE;
pub use seeta_dlib::SeetaDlib;
pub use tracker::FaceTracker;

/// The points that the face crop is fitted to, in pixels of the frame and not rounded. Left and right are
/// the picture's, not the person's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Anchors {
    pub left_brow: [f32; 2],
    pub right_brow: [f32; 2],
    pub nose: [f32; 2],
}

impl Anchors {
    /// The eyebrows' distance in pixels: the unit of the face's own frame.
    pub fn brow_distance(&self) -> f32 {
        let [dx, dy] = self.brow_line();
        dx.hypot(dy)
    }

    /// From the left eyebrow to the right one.
    pub fn brow_line(&self) -> [f32; 2] {
        [self.right_brow[0] - self.left_brow[0], self.right_brow[1] - self.left_brow[1]]
    }
}

/// One face in one frame.
#[derive(Clone, Debug)]
pub struct Face {
    /// x1, y1, x2, y2 in pixels; may reach over the frame's edge.
    pub bbox: [f32; 4],
    /// The detector's own measure of certainty; comparable only among faces of one detector.
    pub score: f32,
    pub anchors: Anchors,
    /// All points of the landmark model, in its own order, in pixels.
    pub landmarks: Vec<[f32; 2]>,
    /// What following the face needs to remember.
    track: seeta_dlib::Track,
}

impl Face {
    /// A face as a detector without a memory sees it.
    pub fn new(bbox: [f32; 4], score: f32, anchors: Anchors, landmarks: Vec<[f32; 2]>) -> Self {
        Self { bbox, score, anchors, landmarks, track: Default::default() }
    }

    /// Area of the box in square pixels.
    pub fn area(&self) -> f32 {
        let [x1, y1, x2, y2] = self.bbox;
        (x2 - x1) * (y2 - y1)
    }

    /// The middle of the box.
    pub(crate) fn center(&self) -> [f32; 2] {
        let [x1, y1, x2, y2] = self.bbox;
        [(x1 + x2) / 2.0, (y1 + y2) / 2.0]
    }

    /// From a point to the box, in pixels; 0 or less inside, least in the middle.
    pub(crate) fn distance_to(&self, [x, y]: [f32; 2]) -> f32 {
        let [x1, y1, x2, y2] = self.bbox;
        let (dx, dy) = ((x1 - x).max(x - x2), (y1 - y).max(y - y2));
        if dx > 0.0 && dy > 0.0 { dx.hypot(dy) } else { dx.max(dy) }
    }
}

/// Finds faces in an RGB frame, (height, width, 3) u8.
pub trait FaceDetector: Send {
    /// Searches the whole frame.
    fn detect(&mut self, frame: &Tensor) -> Result<Vec<Face>>;

    /// Searches the whole frame for small faces too, where that takes longer.
    fn detect_all(&mut self, frame: &Tensor) -> Result<Vec<Face>> {
        self.detect(frame)
    }

    /// Searches around the place of a face that was lost and that [`Self::detect`] did not find.
    fn detect_near(&mut self, _frame: &Tensor, _lost: &Face) -> Result<Vec<Face>> {
        Ok(Vec::new())
    }

    /// Finds the person of `previous` again in the next frame; `None` if no face is there any more.
    fn follow(&mut self, frame: &Tensor, previous: &Face) -> Result<Option<Face>>;

    /// Forgets whatever it remembers of earlier frames.
    fn reset(&mut self) {}
}

/// The part of two boxes' union that they share.
pub(crate) fn overlap(a: [f32; 4], b: [f32; 4]) -> f32 {
    let area = |[x1, y1, x2, y2]: [f32; 4]| (x2 - x1).max(0.0) * (y2 - y1).max(0.0);
    let shared = area([a[0].max(b[0]), a[1].max(b[1]), a[2].min(b[2]), a[3].min(b[3])]);
    let union = area(a) + area(b) - shared;
    if union > 0.0 { shared / union } else { 0.0 }
}

/// A face model that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FaceModelError {
    #[error("cannot read face model `{}`", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("face model `{}` is damaged at byte {offset}: {what}", path.display())]
    Damaged { path: PathBuf, offset: u64, what: String },
    #[error("face model `{}` is not the expected one: {what}", path.display())]
    Unexpected { path: PathBuf, what: String },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_eyebrows_make_the_unit() {
        let anchors = Anchors { left_brow: [0.0, 0.0], right_brow: [3.0, 4.0], nose: [1.0, 5.0] };
        assert_eq!(anchors.brow_distance(), 5.0);
    }

    #[test]
    fn boxes_share_a_part_of_their_union() {
        let unit = [0.0, 0.0, 2.0, 2.0];
        assert_eq!(overlap(unit, unit), 1.0);
        assert_eq!(overlap(unit, [1.0, 0.0, 3.0, 2.0]), 1.0 / 3.0);
        assert_eq!(overlap(unit, [3.0, 0.0, 4.0, 2.0]), 0.0);
        assert_eq!(overlap([0.0; 4], [0.0; 4]), 0.0);
    }
}
