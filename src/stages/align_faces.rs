//! Stage 2: aligns faces. Three anchor points define the similarity transform to the canonical pose and the
//! square crop.

use candle_core::{DType, Result, Tensor, bail};
use kernels::pixels::Rect;
use kernels::resize::resize_lanczos4;
use kernels::warp_affine::{Affine, warp_affine};
use models::face::Anchors;

/// Positions of the left eyebrow, the right eyebrow and the nose in a crop of scale 1.
const TEMPLATE: [[f64; 2]; 3] = [[17.0, 20.0], [58.0, 20.0], [37.5, 40.0]];

/// Width and height of a crop of scale 1.
const CROP: [f64; 2] = [75.0, 100.0];

/// Weight of the previous frame in the exponential smoothing of the nose bias.
const SMOOTHING: f64 = 0.2;

/// Grey level of crop pixels outside the frame.
pub(super) const OUTSIDE: f32 = 127.0;

/// A face in the canonical pose.
#[derive(Debug, Clone)]
pub struct AlignedFace {
    /// From the pixels of the frame to those of the crop before resizing to a square.
    pub matrix: Affine,
    /// (resolution, resolution, 3), u8.
    pub crop: Tensor,
}

/// Aligns the faces of one video. Frames must be passed in order, because the nose bias is smoothed over
/// time.
#[derive(Debug, Clone)]
pub struct FaceAligner {
    resolution: usize,
    nose_bias: Option<[f64; 2]>,
}

impl FaceAligner {
    /// `resolution`: height and width of the crops.
    pub fn new(resolution: usize) -> Self {
        Self { resolution, nose_bias: None }
    }

    /// `frame`: (height, width, 3), u8; `anchors`: in its pixels.
    pub fn align(&mut self, frame: &Tensor, anchors: &Anchors) -> Result<AlignedFace> {
        let matrix = self.matrix(anchors)?;
        Ok(AlignedFace { matrix, crop: self.crop(frame, &matrix)? })
    }

    /// The crop for the matrix of an earlier alignment.
    pub fn crop(&self, frame: &Tensor, matrix: &Affine) -> Result<Tensor> {
        resize_lanczos4(&cut_out(frame, matrix, self.resolution)?, self.resolution, self.resolution)
    }

    /// Restarts the smoothing, as at the start of a video or after the face was lost.
    pub fn reset(&mut self) {
        self.nose_bias = None;
    }

    /// The similarity transform from the anchors, rounded to whole pixels, to the template, shifted by the
    /// smoothed bias of the nose. Port of `AlignRestore.transformation_from_points` in the original's
    /// `affine_transform.py`.
    pub fn matrix(&mut self, anchors: &Anchors) -> Result<Affine> {
        let points = [anchors.left_brow, anchors.right_brow, anchors.nose];
        let points = points.map(|p| p.map(|v| f64::from(v.round_ties_even())));
        let scale = crop_scale(self.resolution);
        let from = Shape::of(points);
        let to = Shape::of(TEMPLATE.map(|p| p.map(|v| v * scale)));
        // Equals the rotation from an SVD of the 2×2 covariance with corrected reflections.
        let pairs = || from.points.iter().zip(&to.points);
        let cosine: f64 = pairs().map(|(a, b)| a[0] * b[0] + a[1] * b[1]).sum();
        let sine: f64 = pairs().map(|(a, b)| a[0] * b[1] - a[1] * b[0]).sum();
        let norm = cosine.hypot(sine);
        let zoom = to.deviation / from.deviation;
        if !(norm > 0.0 && norm.is_finite() && zoom.is_finite()) {
            bail!("invalid anchor points of a face: {points:?}");
        }
        let (cosine, sine) = (zoom * cosine / norm, zoom * sine / norm);

        let bias = std::array::from_fn(|i| to.points[2][i] - from.points[2][i]);
        let bias = match self.nose_bias {
            Some(last) => std::array::from_fn(|i| SMOOTHING * last[i] + (1.0 - SMOOTHING) * bias[i]),
            None => bias,
        };
        self.nose_bias = Some(bias);

        let [x, y] = from.center;
        Ok(Affine([
            [cosine, -sine, to.center[0] - (cosine * x - sine * y) + bias[0]],
            [sine, cosine, to.center[1] - (sine * x + cosine * y) + bias[1]],
        ]))
    }
}

/// Three points, normalised by position and size.
struct Shape {
    center: [f64; 2],
    deviation: f64,
    /// With mean 0 and standard deviation 1.
    points: [[f64; 2]; 3],
}

impl Shape {
    fn of(points: [[f64; 2]; 3]) -> Self {
        let center = std::array::from_fn(|i| points.iter().map(|p| p[i]).sum::<f64>() / 3.0);
        let centred = points.map(|p| [p[0] - center[0], p[1] - center[1]]);
        // Unbiased standard deviation of all six coordinates.
        let deviation = (centred.as_flattened().iter().map(|v| v * v).sum::<f64>() / 5.0).sqrt();
        Self { center, deviation, points: centred.map(|p| p.map(|v| v / deviation)) }
    }
}

fn crop_scale(resolution: usize) -> f64 {
    resolution as f64 / 256.0 * 2.8
}

/// Size of the crop before resizing to a square.
pub(super) fn crop_rect(resolution: usize) -> Rect {
    let [width, height] = CROP.map(|side| (side * crop_scale(resolution)) as usize);
    Rect { x: 0, y: 0, width, height }
}

/// The crop before resizing to a square. `frame`: (height, width, 3), u8 → for resolution 256, (280, 210, 3),
/// u8, truncated as in the original.
pub fn cut_out(frame: &Tensor, matrix: &Affine, resolution: usize) -> Result<Tensor> {
    warp_affine(frame, matrix, crop_rect(resolution), OUTSIDE)?.to_dtype(DType::U8)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn anchors(points: [[f32; 2]; 3]) -> Anchors {
        let [left_brow, right_brow, nose] = points;
        Anchors { left_brow, right_brow, nose }
    }

    fn template_moved_by(offset: f32) -> Anchors {
        // The template at resolution 512, whose scale is 5.6, shifted and rounded.
        anchors([
            [95.2 + offset, 112.0 + offset],
            [324.8 + offset, 112.0 + offset],
            [210.0 + offset, 224.0 + offset],
        ])
    }

    #[test]
    fn a_face_in_the_canonical_pose_is_only_translated() -> Result<()> {
        let Affine([[a, b, x], [c, d, y]]) = FaceAligner::new(512).matrix(&template_moved_by(40.0))?;
        for (value, want, tolerance) in
            [(a, 1.0, 0.01), (b, 0.0, 0.01), (x, -40.0, 1.0), (c, 0.0, 0.01), (d, 1.0, 0.01), (y, -40.0, 1.0)]
        {
            assert!((value - want).abs() < tolerance, "{value} is not {want}");
        }
        Ok(())
    }

    #[test]
    fn a_rotated_face_is_rotated_back() -> Result<()> {
        // Rotated by a quarter turn.
        let turned = anchors([[200.0, 100.0], [200.0, 264.0], [120.0, 182.0]]);
        let matrix = FaceAligner::new(256).matrix(&turned)?;
        let [left, right] = [turned.left_brow, turned.right_brow].map(|p| matrix.apply(p.map(f64::from)));
        assert!(right[0] - left[0] > 100.0, "{left:?} {right:?}");
        assert!((right[1] - left[1]).abs() < 1e-6, "{left:?} {right:?}");
        Ok(())
    }

    #[test]
    fn mirrored_points_do_not_mirror_the_crop() -> Result<()> {
        let mirrored = anchors([[300.0, 100.0], [100.0, 100.0], [200.0, 200.0]]);
        let Affine([[a, b, _], [c, d, _]]) = FaceAligner::new(256).matrix(&mirrored)?;
        assert!(a * d - b * c > 0.0);
        Ok(())
    }

    #[test]
    fn the_bias_is_smoothed_until_reset() -> Result<()> {
        let [first, second] = [
            anchors([[100.0, 100.0], [200.0, 110.0], [150.0, 190.0]]),
            anchors([[100.0, 100.0], [200.0, 100.0], [170.0, 150.0]]),
        ];
        let mut aligner = FaceAligner::new(256);
        let alone = |anchors| FaceAligner::new(256).matrix(anchors);
        assert_eq!(aligner.matrix(&first)?, alone(&first)?);
        let smoothed = aligner.matrix(&second)?;
        let fresh = alone(&second)?;
        assert_eq!(smoothed.0[0][..2], fresh.0[0][..2]);
        assert_ne!(smoothed.0[0][2], fresh.0[0][2]);
        aligner.reset();
        assert_eq!(aligner.matrix(&second)?, fresh);
        Ok(())
    }

    #[test]
    fn anchors_are_rounded_half_to_even() -> Result<()> {
        let exact = anchors([[100.0, 102.0], [200.0, 110.0], [150.0, 190.0]]);
        let near = anchors([[100.5, 101.5], [200.4, 109.6], [149.6, 190.5]]);
        let matrix = |anchors| FaceAligner::new(256).matrix(anchors);
        assert_eq!(matrix(&near)?, matrix(&exact)?);
        Ok(())
    }

    #[test]
    fn degenerate_anchors_are_refused() {
        for points in [[[5.0, 5.0]; 3], [[f32::NAN, 0.0], [1.0, 0.0], [0.0, 1.0]]] {
            let error = FaceAligner::new(256).matrix(&anchors(points));
            assert!(error.is_err_and(|e| e.to_string().contains("anchor points")), "{points:?}");
        }
    }

    #[test]
    fn crops_have_the_resolution_and_are_grey_outside_the_frame() -> Result<()> {
        for (resolution, size) in [(128, (140, 105)), (256, (280, 210)), (512, (560, 420))] {
            let rect = crop_rect(resolution);
            assert_eq!((rect.height, rect.width), size);
        }
        let frame = Tensor::full(9u8, (60, 80, 3), &Device::Cpu)?;
        let outside = anchors([[500.0, 100.0], [600.0, 100.0], [550.0, 160.0]]);
        let face = FaceAligner::new(128).align(&frame, &outside)?;
        assert_eq!(face.crop.dims(), [128, 128, 3]);
        assert_eq!(face.crop.flatten_all()?.to_vec1::<u8>()?, vec![127; 128 * 128 * 3]);
        Ok(())
    }
}
