//! Placement of a face in the picture, and the similarity transform between two sets of landmarks.

/// Affine map from the unit square of the shape model to the picture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FaceFrame {
    /// Top left corner in pixels.
    pub origin: [f64; 2],
    /// Top side, from left to right.
    pub x_axis: [f64; 2],
    /// Left side, from top to bottom.
    pub y_axis: [f64; 2],
}

impl FaceFrame {
    /// From a dlib rectangle, whose right and bottom pixels are inclusive.
    pub fn from_rectangle(left: f64, top: f64, right: f64, bottom: f64) -> Self {
        Self { origin: [left, top], x_axis: [right - left, 0.0], y_axis: [0.0, bottom - top] }
    }

    /// A square with side length `side`, rotated clockwise by `tilt` radians.
    pub(super) fn square(center: [f64; 2], side: f64, tilt: f64) -> Self {
        let (sin, cos) = tilt.sin_cos();
        let (x_axis, y_axis) = ([side * cos, side * sin], [-side * sin, side * cos]);
        Self {
            origin: [center[0] - (x_axis[0] + y_axis[0]) / 2.0, center[1] - (x_axis[1] + y_axis[1]) / 2.0],
            x_axis,
            y_axis,
        }
    }

    /// The same area with left and right exchanged: the model sees the mirrored face.
    pub(super) fn mirrored(self) -> Self {
        let [x, y] = self.x_axis;
        Self { origin: [self.origin[0] + x, self.origin[1] + y], x_axis: [-x, -y], y_axis: self.y_axis }
    }

    /// The area scaled about its centre.
    pub(super) fn scaled(self, factor: f64) -> Self {
        let shift = (1.0 - factor) / 2.0;
        let grow = |axis: [f64; 2]| axis.map(|v| v * factor);
        Self { origin: self.apply([shift, shift]), x_axis: grow(self.x_axis), y_axis: grow(self.y_axis) }
    }

    /// From the unit square to pixels.
    pub(super) fn apply(&self, [x, y]: [f64; 2]) -> [f64; 2] {
        [
            self.origin[0] + x * self.x_axis[0] + y * self.y_axis[0],
            self.origin[1] + x * self.x_axis[1] + y * self.y_axis[1],
        ]
    }

    pub(super) fn center(&self) -> [f64; 2] {
        self.apply([0.5, 0.5])
    }

    /// Length of the top side in pixels.
    pub(super) fn side(&self) -> f64 {
        self.x_axis[0].hypot(self.x_axis[1])
    }
}

/// Least-squares similarity transform (x, y) → (a x − b y, b x + a y) + t from one shape to another. In two
/// dimensions this closed form equals the singular value decomposition that dlib uses.
pub(super) struct Similarity {
    /// a, b.
    pub linear: [f64; 2],
    pub translation: [f64; 2],
    /// Root mean square distance between the transformed and the target points, in units of the first shape.
    pub residual: f64,
}

impl Similarity {
    /// Both shapes are x, y, x, y, … with the same number of points.
    pub fn between(from: &[f32], to: &[f32]) -> Self {
        let count = (from.len() / 2) as f64;
        let mean = |points: &[f32]| {
            let sum = points
                .chunks_exact(2)
                .fold([0.0; 2], |s, p| [s[0] + f64::from(p[0]), s[1] + f64::from(p[1])]);
            sum.map(|v| v / count)
        };
        let (from_mean, to_mean) = (mean(from), mean(to));
        let (mut from_square, mut to_square, mut dot, mut cross) = (0.0, 0.0, 0.0, 0.0);
        for (f, t) in from.chunks_exact(2).zip(to.chunks_exact(2)) {
            let (fx, fy) = (f64::from(f[0]) - from_mean[0], f64::from(f[1]) - from_mean[1]);
            let (tx, ty) = (f64::from(t[0]) - to_mean[0], f64::from(t[1]) - to_mean[1]);
            from_square += fx * fx + fy * fy;
            to_square += tx * tx + ty * ty;
            dot += fx * tx + fy * ty;
            cross += fx * ty - fy * tx;
        }
        // A single point has no extent; dlib uses the identity.
        let [a, b] = if from_square == 0.0 { [1.0, 0.0] } else { [dot / from_square, cross / from_square] };
        let scale_square = a * a + b * b;
        let residual_square = (to_square - scale_square * from_square).max(0.0);
        Self {
            linear: [a, b],
            translation: [
                to_mean[0] - (a * from_mean[0] - b * from_mean[1]),
                to_mean[1] - (b * from_mean[0] + a * from_mean[1]),
            ],
            residual: if scale_square > 0.0 {
                (residual_square / count / scale_square).sqrt()
            } else {
                f64::INFINITY
            },
        }
    }

    /// Clockwise rotation in radians.
    pub fn angle(&self) -> f64 {
        self.linear[1].atan2(self.linear[0])
    }

    pub fn scale(&self) -> f64 {
        self.linear[0].hypot(self.linear[1])
    }

    pub fn apply(&self, [x, y]: [f64; 2]) -> [f64; 2] {
        let [a, b] = self.linear;
        [a * x - b * y + self.translation[0], b * x + a * y + self.translation[1]]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_close(a: [f64; 2], b: [f64; 2]) {
        assert!((a[0] - b[0]).hypot(a[1] - b[1]) < 1e-5, "{a:?} for {b:?}");
    }

    #[test]
    fn a_similarity_is_recovered_with_its_residual() {
        let from = [0.0f32, 0.0, 4.0, 0.0, 4.0, 2.0, 0.0, 2.0];
        // Rotated by 90° clockwise (y points down), scaled by 2, translated.
        let to = [10.0f32, 20.0, 10.0, 28.0, 6.0, 28.0, 6.0, 20.0];
        let fit = Similarity::between(&from, &to);
        assert!((fit.angle() - std::f64::consts::FRAC_PI_2).abs() < 1e-6);
        assert!((fit.scale() - 2.0).abs() < 1e-6 && fit.residual < 1e-5, "{}", fit.residual);
        assert_close(fit.apply([4.0, 2.0]), [6.0, 28.0]);
        // Opposite corners moved outwards by 0.2 along x, which no similarity reproduces.
        let bent = [9.8f32, 20.0, 10.0, 28.0, 6.2, 28.0, 6.0, 20.0];
        assert!(Similarity::between(&from, &bent).residual > 0.02);
    }

    #[test]
    fn scaling_and_mirroring_keep_the_centre() {
        let frame = FaceFrame::square([50.0, 60.0], 20.0, 0.4);
        assert!((frame.side() - 20.0).abs() < 1e-9);
        for other in [frame, frame.scaled(1.3), frame.mirrored()] {
            assert_close(other.center(), [50.0, 60.0]);
        }
        assert_close(frame.mirrored().apply([0.0, 0.25]), frame.apply([1.0, 0.25]));
        assert_close(frame.scaled(2.0).apply([0.25, 0.25]), frame.apply([0.0, 0.0]));
        assert_close(FaceFrame::from_rectangle(1.0, 2.0, 5.0, 8.0).apply([1.0, 1.0]), [5.0, 8.0]);
    }
}
