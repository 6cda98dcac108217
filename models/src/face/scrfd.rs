//! InsightFace's face detector SCRFD (`det_10g.onnx`): boxes and scores on three grids of the picture.

use std::path::Path;

use candle_core::Result;

use super::insightface::ChannelOrder;
use super::onnx_network::OnnxNetwork;
use super::opencv_resample::resize;
use super::{FaceModelError, Rgb};

/// The network sees the picture in the upper left corner of a black square of this side.
const SIDE: usize = 512;
/// Pixels between the cells of the three grids.
const STRIDES: [usize; 3] = [8, 16, 32];
/// Every cell makes this many proposals.
const PROPOSALS: usize = 2;
/// Score, distances to the four sides, five points: one output each per grid, grids innermost.
const VALUES: [usize; 3] = [1, 4, 10];

/// From this score on, a proposal counts.
pub(super) const SCORE_THRESHOLD: f32 = 0.5;
/// Of two boxes that share more than this part of their union, the less certain goes.
const OVERLAP_THRESHOLD: f32 = 0.4;
/// No box has a corner further out, in pixels: one that does, or is no number at all, is the network's overflow.
const FARTHEST: f32 = 1e6;

/// A proposal in pixels of the frame.
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

    /// All faces of the frame, the most certain first.
    pub fn detect(&self, image: &Rgb) -> Result<Vec<ScoredBox>> {
        let (width, height) = letterbox(image.width, image.height);
        // A picture 512 times as long as wide has no row or column left.
        if width == 0 || height == 0 {
            return Ok(Vec::new());
        }
        let planes = self.to_planes(&resize(image, width, height), width, height);
        let cells = |stride: usize| (SIDE / stride).pow(2) * PROPOSALS;
        let lengths: Vec<usize> =
            VALUES.iter().flat_map(|values| STRIDES.map(|stride| cells(stride) * values)).collect();
        let outputs = self.network.run(&planes, SIDE, &lengths)?;
        let scale = (height as f64 / image.height as f64) as f32;
        let mut found = Vec::new();
        for (grid, &stride) in STRIDES.iter().enumerate() {
            let (scores, distances) = (&outputs[grid], &outputs[STRIDES.len() + grid]);
            for (index, (&score, reach)) in scores.iter().zip(distances.chunks_exact(4)).enumerate() {
                if score >= SCORE_THRESHOLD {
                    let bbox = to_box(index / PROPOSALS, stride, reach).map(|v| v / scale);
                    if is_plausible(&bbox) {
                        found.push(ScoredBox { bbox, score });
                    }
                }
            }
        }
        // A stable sort: proposals of equal score stay in the order of the grids.
        found.sort_by(|a, b| b.score.total_cmp(&a.score));
        Ok(suppress(found))
    }

    /// The network's three planes of the square, (v − 127.5) / 128; the unused part is black.
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

/// NaN is not.
fn is_plausible(bbox: &[f32; 4]) -> bool {
    bbox.iter().all(|v| v.abs() <= FARTHEST)
}

/// The size of the picture within the network's square.
fn letterbox(width: usize, height: usize) -> (usize, usize) {
    let ratio = height as f64 / width as f64;
    if ratio > 1.0 { ((SIDE as f64 / ratio) as usize, SIDE) } else { (SIDE, (SIDE as f64 * ratio) as usize) }
}

/// A cell's distances, in strides, to its box's sides: the box in the network's pixels.
fn to_box(cell: usize, stride: usize, reach: &[f32]) -> [f32; 4] {
    let columns = SIDE / stride;
    let (x, y) = ((cell % columns * stride) as f32, (cell / columns * stride) as f32);
    let stride = stride as f32;
    [x - reach[0] * stride, y - reach[1] * stride, x + reach[2] * stride, y + reach[3] * stride]
}

/// Non-maximum suppression; sides are counted in whole pixels, so a box of no extent covers one.
fn suppress(boxes: Vec<ScoredBox>) -> Vec<ScoredBox> {
    let area = |b: [f32; 4]| (b[2] - b[0] + 1.0) * (b[3] - b[1] + 1.0);
    let mut kept: Vec<ScoredBox> = Vec::new();
    for candidate in boxes {
        let hidden = kept.iter().any(|kept| {
            let (a, b) = (kept.bbox, candidate.bbox);
            let width = (a[2].min(b[2]) - a[0].max(b[0]) + 1.0).max(0.0);
            let height = (a[3].min(b[3]) - a[1].max(b[1]) + 1.0).max(0.0);
            let shared = width * height;
            shared / (area(a) + area(b) - shared) > OVERLAP_THRESHOLD
        });
        if !hidden {
            kept.push(candidate);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes_beyond_all_pictures_are_dropped() {
        assert!(is_plausible(&[-40.0, 0.0, 7680.0, 4320.0]));
        for v in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1.1e6, -3e38] {
            assert!(!is_plausible(&[0.0, 0.0, v, 80.0]), "{v}");
        }
    }
}
