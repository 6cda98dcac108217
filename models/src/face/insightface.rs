//! The detector of the original: InsightFace's SCRFD and 106-point landmark networks, as ONNX files. The
//! trained files are licensed for non-commercial research only; the caller must obtain the user's consent.
//!
//! The networks were trained on RGB. LatentSync passes RGB frames to a function that expects BGR and swaps
//! the channels; [`ChannelOrder::AsOriginal`] reproduces this.

use std::path::Path;

use candle_core::{Result, Tensor};

use super::detector::FaceDetector;
use super::error::FaceModelError;
use super::onnx_network::OnnxNetwork;
use super::opencv_resample::{Zoom, crop};
use super::pixels::{ChannelOrder, Rgb, with_rgb};
use super::scrfd::{ScoredBox, Scrfd};
use super::types::{Anchors, Face, iou};

/// Side length of the landmark network's input.
const CROP: usize = 192;
/// Side length of the crop, relative to the longer side of the face box.
const CROP_MARGIN: f32 = 1.5;
const LANDMARKS: usize = 106;

/// Minimum width and height of a face in whole pixels.
const MIN_SIZE: [i64; 2] = [50, 80];
/// Accepted ratios of width to height.
const ASPECT: std::ops::RangeInclusive<f64> = 0.2..=1.5;

/// Minimum IoU between the boxes of one face in consecutive frames.
const MIN_IOU: f32 = 0.25;

/// Landmarks whose mean is the anchor: outer corner and upper edge of an eyebrow, and the nose.
const LEFT_BROW: [usize; 5] = [43, 48, 49, 51, 50];
const RIGHT_BROW: [usize; 5] = [101, 102, 103, 104, 105];
const NOSE: [usize; 4] = [74, 77, 83, 86];

/// SCRFD boxes with 106 landmarks. Every frame is searched independently.
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

    /// Boxes with an accepted size and aspect ratio, by descending score.
    fn candidates(&self, image: &Rgb) -> Result<Vec<ScoredBox>> {
        let mut boxes = self.boxes.detect(image)?;
        boxes.retain(|candidate| {
            let [width, height] = pixel_size(candidate);
            let large = width >= MIN_SIZE[0] && height >= MIN_SIZE[1];
            large && ASPECT.contains(&(width as f64 / height as f64))
        });
        Ok(boxes)
    }

    /// The face in a box; `None` if a landmark is not finite.
    fn face(&self, image: &Rgb, candidate: &ScoredBox) -> Result<Option<Face>> {
        let points = self.landmarks_of(image, candidate.bbox)?;
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
        Ok(Some(Face::new(candidate.bbox.map(f32::trunc), candidate.score, anchors, points)))
    }

    /// The 106 landmarks, rounded to whole pixels of the frame.
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
        // The network's coordinates range from −1 to 1 across the crop.
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
            let candidates = self.candidates(&image)?;
            candidates.iter().filter_map(|candidate| self.face(&image, candidate).transpose()).collect()
        })
    }

    /// The box with the highest IoU with the previous one, if the IoU is at least 0.25.
    fn follow(&mut self, frame: &Tensor, previous: &Face) -> Result<Option<Face>> {
        with_rgb(frame, |image| {
            let candidates = self.candidates(&image)?;
            let overlap = |candidate: &&ScoredBox| iou(candidate.bbox, previous.bbox);
            let nearest = candidates.iter().max_by(|a, b| overlap(a).total_cmp(&overlap(b)));
            match nearest.filter(|candidate| overlap(candidate) >= MIN_IOU) {
                Some(candidate) => self.face(&image, candidate),
                None => Ok(None),
            }
        })
    }
}

/// Width and height, with the corners truncated to whole pixels.
fn pixel_size(candidate: &ScoredBox) -> [i64; 2] {
    let [x1, y1, x2, y2] = candidate.bbox.map(|v| v as i64);
    [x2 - x1, y2 - y1]
}
