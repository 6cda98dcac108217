//! The reference's detector: InsightFace's SCRFD and its 106-point landmarks, as ONNX files. The trained files
//! are for non-commercial research only; asking for that consent is the caller's business.
//!
//! The networks get red, green and blue, as they were trained. LatentSync hands its RGB frames to a function
//! that takes them for BGR and swaps them: [`ChannelOrder::AsOriginal`] repeats that accident.

use std::path::Path;

use candle_core::{Result, Tensor};

use super::onnx_network::OnnxNetwork;
use super::opencv_resample::{Zoom, crop};
use super::pixels::with_rgb;
use super::scrfd::{ScoredBox, Scrfd};
use super::{Anchors, Face, FaceDetector, FaceModelError, Rgb, overlap};

/// The landmark network sees a square of this side …
const CROP: usize = 192;
/// … around a box whose longer side fills this part of it.
const CROP_MARGIN: f32 = 1.5;
const LANDMARKS: usize = 106;

/// Faces smaller than this, in whole pixels, are ignored …
const SMALLEST: [i64; 2] = [50, 80];
/// … and those of another ratio of width to height.
const ASPECT: std::ops::RangeInclusive<f64> = 0.2..=1.5;

/// A face shares at least this part of its box's union with the box of the frame before.
const SAME_PLACE: f32 = 0.25;

/// The points whose mean each anchor is: an eyebrow's outer corner and upper edge, and the nose.
const LEFT_BROW: [usize; 5] = [43, 48, 49, 51, 50];
const RIGHT_BROW: [usize; 5] = [101, 102, 103, 104, 105];
const NOSE: [usize; 4] = [74, 77, 83, 86];

/// Which of the frame's channels the networks get as red, green and blue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelOrder {
    /// Themselves, as the networks were trained.
    Rgb,
    /// Blue, green and red, as LatentSync's networks get them.
    AsOriginal,
}

impl ChannelOrder {
    /// The network's plane that a channel of the frame goes to.
    pub(super) fn plane(self, channel: usize) -> usize {
        match self {
            Self::Rgb => channel,
            Self::AsOriginal => 2 - channel,
        }
    }
}

/// SCRFD boxes with 106 landmarks. It looks at every frame anew.
pub struct InsightFace {
    boxes: Scrfd,
    landmarks: OnnxNetwork,
    order: ChannelOrder,
}

impl InsightFace {
    /// `detection` is `det_10g.onnx`, `landmarks` is `2d106det.onnx`.
    pub fn open(
        detection: &Path,
        landmarks: &Path,
        order: ChannelOrder,
    ) -> std::result::Result<Self, FaceModelError> {
        Ok(Self { boxes: Scrfd::open(detection, order)?, landmarks: OnnxNetwork::open(landmarks, 1)?, order })
    }

    /// The boxes that are worth landmarks, most certain first.
    fn candidates(&self, image: &Rgb) -> Result<Vec<ScoredBox>> {
        let mut boxes = self.boxes.detect(image)?;
        boxes.retain(|found| {
            let [width, height] = whole_size(found);
            let large = width >= SMALLEST[0] && height >= SMALLEST[1];
            large && ASPECT.contains(&(width as f64 / height as f64))
        });
        Ok(boxes)
    }

    /// `None` where the landmark network answers with what is no number.
    fn face(&self, image: &Rgb, found: &ScoredBox) -> Result<Option<Face>> {
        let points = self.landmarks_of(image, found.bbox)?;
        if !points.as_flattened().iter().all(|v| v.is_finite()) {
            return Ok(None);
        }
        let mean = |indices: &[usize]| {
            let count = indices.len() as f32;
            let sum = indices.iter().fold([0.0; 2], |s, &i| [s[0] + points[i][0], s[1] + points[i][1]]);
            sum.map(|v| v / count)
        };
        let anchors =
            Anchors { left_brow: mean(&LEFT_BROW), right_brow: mean(&RIGHT_BROW), nose: mean(&NOSE) };
        Ok(Some(Face::new(found.bbox.map(f32::trunc), found.score, anchors, points)))
    }

    /// The 106 points in whole pixels of the frame.
    fn landmarks_of(&self, image: &Rgb, [x1, y1, x2, y2]: [f32; 4]) -> Result<Vec<[f32; 2]>> {
        let scale = CROP as f32 / ((x2 - x1).max(y2 - y1) * CROP_MARGIN);
        let shift = [(x1 + x2) / 2.0, (y1 + y2) / 2.0].map(|v| CROP as f64 / 2.0 - f64::from(v * scale));
        let zoom = Zoom { scale: f64::from(scale), shift };
        let pixels = crop(image, &zoom, CROP);
        let mut planes = vec![0.0; pixels.len()];
        for (i, pixel) in pixels.chunks_exact(3).enumerate() {
            for (c, &v) in pixel.iter().enumerate() {
                planes[self.order.plane(c) * CROP * CROP + i] = f32::from(v);
            }
        }
        let output = self.landmarks.run(&planes, CROP, &[2 * LANDMARKS])?;
        // The network's coordinates run from −1 to 1 across the crop.
        let to_crop = |v: f32| f64::from((v + 1.0) * (CROP / 2) as f32);
        let points = output[0].chunks_exact(2);
        Ok(points
            .map(|p| zoom.invert([to_crop(p[0]), to_crop(p[1])]).map(|v| (v as f32).round_ties_even()))
            .collect())
    }
}

impl FaceDetector for InsightFace {
    fn detect(&mut self, frame: &Tensor) -> Result<Vec<Face>> {
        with_rgb(frame, |image| {
            let faces = self.candidates(&image)?;
            faces.iter().filter_map(|found| self.face(&image, found).transpose()).collect()
        })
    }

    /// The box that shares most with the last one, if it shares enough to be the same face.
    fn follow(&mut self, frame: &Tensor, previous: &Face) -> Result<Option<Face>> {
        with_rgb(frame, |image| {
            let candidates = self.candidates(&image)?;
            let shared = |found: &&ScoredBox| overlap(found.bbox, previous.bbox);
            let nearest = candidates.iter().max_by(|a, b| shared(a).total_cmp(&shared(b)));
            match nearest.filter(|found| shared(found) >= SAME_PLACE) {
                Some(found) => self.face(&image, found),
                None => Ok(None),
            }
        })
    }
}

/// Width and height between the corners truncated to whole pixels.
fn whole_size(found: &ScoredBox) -> [i64; 2] {
    let [x1, y1, x2, y2] = found.bbox.map(|v| v as i64);
    [x2 - x1, y2 - y1]
}
