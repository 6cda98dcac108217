//! A detected face, and the geometry of boxes.

/// The three points that place the face crop, in pixels of the frame, not rounded. Left and right are as seen
/// in the picture, not the person's own.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Anchors {
    pub left_brow: [f32; 2],
    pub right_brow: [f32; 2],
    pub nose: [f32; 2],
}

impl Anchors {
    /// Distance between the eyebrows in pixels: the unit of face coordinates.
    pub fn brow_distance(&self) -> f32 {
        let [dx, dy] = self.brow_line();
        dx.hypot(dy)
    }

    /// Vector from the left eyebrow to the right one.
    pub fn brow_line(&self) -> [f32; 2] {
        [self.right_brow[0] - self.left_brow[0], self.right_brow[1] - self.left_brow[1]]
    }
}

/// A face in one frame.
#[derive(Clone, Debug)]
pub struct Face {
    /// x1, y1, x2, y2 in pixels; may extend beyond the frame.
    pub bbox: [f32; 4],
    /// Confidence of the detector; comparable only between faces of the same detector.
    pub score: f32,
    pub anchors: Anchors,
    /// All points of the landmark model, in its own order, in pixels.
    pub landmarks: Vec<[f32; 2]>,
    pub(super) track: TrackState,
}

/// State that [`SeetaDlib`](super::SeetaDlib) carries from frame to frame while it follows a face.
#[derive(Clone, Debug, Default)]
pub(super) struct TrackState {
    /// Frames since SeetaFace last confirmed the face.
    pub frames_since_confirmed: usize,
    /// Intensities on a grid over the face, as of the last confirmation.
    pub template: Vec<u8>,
}

impl Face {
    /// A face from a detector that keeps no state between frames.
    pub fn new(bbox: [f32; 4], score: f32, anchors: Anchors, landmarks: Vec<[f32; 2]>) -> Self {
        Self { bbox, score, anchors, landmarks, track: TrackState::default() }
    }

    /// Area of the box in square pixels.
    pub fn area(&self) -> f32 {
        let [x1, y1, x2, y2] = self.bbox;
        (x2 - x1) * (y2 - y1)
    }

    /// Centre of the box.
    pub(crate) fn center(&self) -> [f32; 2] {
        let [x1, y1, x2, y2] = self.bbox;
        [(x1 + x2) / 2.0, (y1 + y2) / 2.0]
    }

    /// Signed distance from a point to the box in pixels: negative inside, lowest at the centre.
    pub(crate) fn distance_to(&self, [x, y]: [f32; 2]) -> f32 {
        let [x1, y1, x2, y2] = self.bbox;
        let (dx, dy) = ((x1 - x).max(x - x2), (y1 - y).max(y - y2));
        if dx > 0.0 && dy > 0.0 { dx.hypot(dy) } else { dx.max(dy) }
    }
}

/// Intersection over union of two boxes; 0 for empty boxes.
pub(crate) fn iou(a: [f32; 4], b: [f32; 4]) -> f32 {
    let area = |[x1, y1, x2, y2]: [f32; 4]| (x2 - x1).max(0.0) * (y2 - y1).max(0.0);
    let intersection = area([a[0].max(b[0]), a[1].max(b[1]), a[2].min(b[2]), a[3].min(b[3])]);
    let union = area(a) + area(b) - intersection;
    if union > 0.0 { intersection / union } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_brow_distance_is_euclidean() {
        let anchors = Anchors { left_brow: [0.0, 0.0], right_brow: [3.0, 4.0], nose: [1.0, 5.0] };
        assert_eq!(anchors.brow_distance(), 5.0);
    }

    #[test]
    fn iou_of_equal_overlapping_disjoint_and_empty_boxes() {
        let unit = [0.0, 0.0, 2.0, 2.0];
        assert_eq!(iou(unit, unit), 1.0);
        assert_eq!(iou(unit, [1.0, 0.0, 3.0, 2.0]), 1.0 / 3.0);
        assert_eq!(iou(unit, [3.0, 0.0, 4.0, 2.0]), 0.0);
        assert_eq!(iou([0.0; 4], [0.0; 4]), 0.0);
    }
}
