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
mod onnx_network;
mod opencv_resample;
mod scrfd;
mod insightface;

pub use dlib_shape_predictor::ShapePredictor;
pub use face_frame::FaceFrame;
pub use insightface::{ChannelOrder, InsightFace};
pub use pixels::Rgb;
pub use seeta_boxes::SEETA_LICENSE;
pub use seeta_dlib::SeetaDlib;

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
}

/// Finds faces in an RGB frame, (height, width, 3) u8.
pub trait FaceDetector: Send {
    /// Searches the whole frame.
    fn detect(&mut self, frame: &Tensor) -> Result<Vec<Face>>;

    /// Finds the person of `previous` again in the next frame; `None` if no face is there any more.
    fn follow(&mut self, frame: &Tensor, previous: &Face) -> Result<Option<Face>>;

    /// Forgets whatever it remembers of earlier frames.
    fn reset(&mut self) {}
}

/// Takes the frames of one video in order and stays with the largest face that it met first.
pub struct FaceTracker {
    detector: Box<dyn FaceDetector>,
    previous: Option<Face>,
}

impl FaceTracker {
    pub fn new(detector: Box<dyn FaceDetector>) -> Self {
        Self { detector, previous: None }
    }

    /// The speaker's face in the next frame, or `None` where there is none.
    pub fn next(&mut self, frame: &Tensor) -> Result<Option<Face>> {
        let followed = match &self.previous {
            Some(previous) => self.detector.follow(frame, previous)?,
            None => None,
        };
        self.previous = match followed {
            Some(face) => Some(face),
            None => largest(self.detector.detect(frame)?),
        };
        Ok(self.previous.clone())
    }

    /// Forgets the person: the next frame belongs to another scene.
    pub fn reset(&mut self) {
        self.previous = None;
        self.detector.reset();
    }
}

/// The face with the largest box; the first of equals.
fn largest(faces: Vec<Face>) -> Option<Face> {
    faces.into_iter().reduce(|best, face| if face.area() > best.area() { face } else { best })
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
    use candle_core::{DType, Device};

    use super::*;

    /// Plays back what it is told to find, and counts its searches.
    struct Scripted {
        detected: Vec<Vec<Face>>,
        followed: Vec<Option<Face>>,
    }

    impl FaceDetector for Scripted {
        fn detect(&mut self, _: &Tensor) -> Result<Vec<Face>> {
            Ok(self.detected.remove(0))
        }

        fn follow(&mut self, _: &Tensor, _: &Face) -> Result<Option<Face>> {
            Ok(self.followed.remove(0))
        }
    }

    fn face(side: f32) -> Face {
        let anchors = Anchors { left_brow: [0.0, 0.0], right_brow: [3.0, 4.0], nose: [1.0, 5.0] };
        Face::new([0.0, 0.0, side, side], side, anchors, Vec::new())
    }

    #[test]
    fn the_tracker_takes_the_largest_follows_it_and_searches_again_when_it_is_lost() {
        let detector = Scripted {
            detected: vec![
                vec![],
                vec![face(2.0), face(5.0), face(5.0), face(1.0)],
                vec![face(3.0)],
                vec![face(7.0)],
            ],
            followed: vec![Some(face(4.0)), None],
        };
        let mut tracker = FaceTracker::new(Box::new(detector));
        let frame = Tensor::zeros((1, 1, 3), DType::U8, &Device::Cpu).unwrap();
        let mut next = || tracker.next(&frame).unwrap().map(|face| face.score);
        // Nothing; found; followed; lost and found again in the same frame.
        assert_eq!([next(), next(), next(), next()], [None, Some(5.0), Some(4.0), Some(3.0)]);
        tracker.reset();
        assert_eq!(tracker.next(&frame).unwrap().map(|face| face.score), Some(7.0));
    }

    #[test]
    fn the_eyebrows_make_the_unit() {
        assert_eq!(face(1.0).anchors.brow_distance(), 5.0);
    }
}
