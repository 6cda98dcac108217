//! InsightFace's face detector SCRFD (`det_10g.onnx`): pre- and postprocessing of its three feature maps.

use std::path::Path;

use candle_core::Result;

use super::error::FaceModelError;
use super::onnx_network::OnnxNetwork;
use super::opencv_resample::resize;
use super::pixels::{ChannelOrder, Rgb};

/// Side length of the network's input: a black square with the picture in its top left corner.
const SIDE: usize = 512;
/// Strides of the three feature maps in pixels.
const STRIDES: [usize; 3] = [8, 16, 32];
/// Anchors per cell.
const ANCHORS_PER_CELL: usize = 2;
/// Values per anchor of each output: score, distances to the four sides, five points. Outputs are ordered by
/// kind, then by stride.
const VALUES: [usize; 3] = [1, 4, 10];

/// Minimum score of a box.
const SCORE_THRESHOLD: f32 = 0.5;
/// IoU above which non-maximum suppression removes the box with the lower score.
const IOU_THRESHOLD: f32 = 0.4;
/// Maximum absolute coordinate in pixels. Boxes beyond it, or with NaN, come from overflow in the network.
const MAX_COORDINATE: f32 = 1e6;

/// A detection in pixels of the frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct ScoredBox {
    pub bbox: [f32; 4],
    pub score: f32,
}

pub(super) struct Scrfd {
    network: OnnxNetwork,
    order: ChannelOrder,
}

impl Scrfd {
    pub fn open(path: &Path, order: ChannelOrder) -> std::result::Result<Self, FaceModelError> {
        Ok(Self { network: OnnxNetwork::open(path, STRIDES.len() * VALUES.len())?, order })
    }

    /// All faces of the frame, by descending score.
    pub fn detect(&self, image: &Rgb) -> Result<Vec<ScoredBox>> {
        let (width, height) = letterbox(image.width, image.height);
        // An aspect ratio above 512 leaves no row or column after scaling.
        if width == 0 || height == 0 {
            return Ok(Vec::new());
        }
        let planes = self.to_planes(&resize(image, width, height), width, height);
        let cells = |stride: usize| (SIDE / stride).pow(2) * ANCHORS_PER_CELL;
        let lengths: Vec<usize> =
            VALUES.iter().flat_map(|values| STRIDES.map(|stride| cells(stride) * values)).collect();
        let outputs = self.network.run(&planes, SIDE, &lengths)?;
        let scale = (height as f64 / image.height as f64) as f32;
        let mut found = Vec::new();
        for (level, &stride) in STRIDES.iter().enumerate() {
            let (scores, distances) = (&outputs[level], &outputs[STRIDES.len() + level]);
            for (index, (&score, distances)) in scores.iter().zip(distances.chunks_exact(4)).enumerate() {
                if score >= SCORE_THRESHOLD {
                    let bbox = to_box(index / ANCHORS_PER_CELL, stride, distances).map(|v| v / scale);
                    if is_plausible(&bbox) {
                        found.push(ScoredBox { bbox, score });
                    }
                }
            }
        }
        // A stable sort: boxes of equal score keep the order of the feature maps.
        found.sort_by(|a, b| b.score.total_cmp(&a.score));
        Ok(non_maximum_suppression(found))
    }

    /// The network's input, three planes of (v − 127.5) / 128; padding is black.
    fn to_planes(&self, pixels: &[u8], width: usize, height: usize) -> Vec<f32> {
        let value = |v: u8| (f32::from(v) - 127.5) / 128.0;
        let mut planes = vec![value(0); 3 * SIDE * SIDE];
        for (y, row) in pixels.chunks_exact(3 * width).take(height).enumerate() {
            for (x, pixel) in row.chunks_exact(3).enumerate() {
                for (c, &v) in pixel.iter().enumerate() {
                    planes[(self.order.plane(c) * SIDE + y) * SIDE + x] = value(v);
                }
            }
        }
        planes
    }
}

/// False for NaN.
fn is_plausible(bbox: &[f32; 4]) -> bool {
    bbox.iter().all(|v| v.abs() <= MAX_COORDINATE)
}

/// Size of the picture scaled to fit the network's input.
fn letterbox(width: usize, height: usize) -> (usize, usize) {
    let ratio = height as f64 / width as f64;
    if ratio > 1.0 { ((SIDE as f64 / ratio) as usize, SIDE) } else { (SIDE, (SIDE as f64 * ratio) as usize) }
}

/// The box of a cell, in pixels of the network's input, from its distances to the four sides in strides.
fn to_box(cell: usize, stride: usize, distances: &[f32]) -> [f32; 4] {
    let columns = SIDE / stride;
    let (x, y) = ((cell % columns * stride) as f32, (cell / columns * stride) as f32);
    let stride = stride as f32;
    [
        x - distances[0] * stride,
        y - distances[1] * stride,
        x + distances[2] * stride,
        y + distances[3] * stride,
    ]
}

/// Non-maximum suppression of boxes sorted by score. As in InsightFace, side lengths include both end pixels,
/// so an empty box covers one pixel.
fn non_maximum_suppression(boxes: Vec<ScoredBox>) -> Vec<ScoredBox> {
    let area = |b: [f32; 4]| (b[2] - b[0] + 1.0) * (b[3] - b[1] + 1.0);
    let mut kept: Vec<ScoredBox> = Vec::new();
    for candidate in boxes {
        let suppressed = kept.iter().any(|kept| {
            let (a, b) = (kept.bbox, candidate.bbox);
            let width = (a[2].min(b[2]) - a[0].max(b[0]) + 1.0).max(0.0);
            let height = (a[3].min(b[3]) - a[1].max(b[1]) + 1.0).max(0.0);
            let intersection = width * height;
            intersection / (area(a) + area(b) - intersection) > IOU_THRESHOLD
        });
        if !suppressed {
            kept.push(candidate);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes_with_nan_or_huge_coordinates_are_dropped() {
        assert!(is_plausible(&[-40.0, 0.0, 7680.0, 4320.0]));
        for v in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1.1e6, -3e38] {
            assert!(!is_plausible(&[0.0, 0.0, v, 80.0]), "{v}");
        }
    }
}
