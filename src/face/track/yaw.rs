//! Yaw of a face, and the resulting opacity of the generated mouth.

use models::face::Anchors;

/// Depth of the nose tip in front of the eyebrows, relative to the distance of the eyebrows' centres: 28 mm
/// of 60 mm.
const NOSE_DEPTH: f32 = 28.0 / 60.0;
/// Angle in degrees before the limit over which the strength falls from 1 to 0.
const FADE: f32 = 10.0;

/// Yaw in degrees, 0 for a frontal face. In an orthographic projection, the eyebrows of a head with this yaw
/// are at ±30 cos(yaw) and the nose at 28 sin(yaw), so the nose is at 0.5 + 0.467 tan(yaw) along the line
/// between the eyebrows. Roll rotates the line as well and cancels out. Returns 90 if the eyebrows coincide.
pub fn yaw(anchors: &Anchors) -> f32 {
    let [x, y] = anchors.brow_line();
    let [nose_x, nose_y] = [0, 1].map(|i| anchors.nose[i] - anchors.left_brow[i]);
    let along = (nose_x * x + nose_y * y) / (x * x + y * y);
    let yaw = ((along - 0.5) / NOSE_DEPTH).atan().to_degrees();
    if yaw.is_finite() { yaw } else { 90.0 }
}

/// Opacity of the generated mouth: 1 up to 10 degrees before `max_yaw`, 0 from `max_yaw`, with a smoothstep
/// between.
pub fn strength(anchors: &Anchors, max_yaw: f32) -> f32 {
    let part = ((max_yaw - yaw(anchors).abs()) / FADE).clamp(0.0, 1.0);
    part * part * (3.0 - 2.0 * part)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Anchors of a head with these dimensions in orthographic projection.
    fn head(yaw: f32, roll: f32) -> Anchors {
        let (yaw, roll) = (yaw.to_radians(), roll.to_radians());
        let seen = |[x, y, z]: [f32; 3]| {
            let (x, y) = (x * yaw.cos() + z * yaw.sin(), y);
            [300.0 + 2.0 * (x * roll.cos() - y * roll.sin()), 200.0 + 2.0 * (x * roll.sin() + y * roll.cos())]
        };
        Anchors {
            left_brow: seen([-30.0, 0.0, 0.0]),
            right_brow: seen([30.0, 0.0, 0.0]),
            nose: seen([0.0, 45.0, 28.0]),
        }
    }

    #[test]
    fn the_angle_is_correct_for_any_yaw_and_roll() {
        for angle in [-80.0, -40.0, 0.0, 15.0, 60.0] {
            for roll in [-30.0, 0.0, 20.0] {
                assert!((yaw(&head(angle, roll)) - angle).abs() < 0.1, "{angle} {roll}");
            }
        }
        let point = [5.0, 5.0];
        assert_eq!(yaw(&Anchors { left_brow: point, right_brow: point, nose: [7.0, 9.0] }), 90.0);
    }

    #[test]
    fn the_strength_fades_before_the_limit() {
        let at = |angle| strength(&head(angle, 10.0), 55.0);
        assert_eq!([at(0.0), at(-44.0), at(56.0), at(-80.0)], [1.0, 1.0, 0.0, 0.0]);
        assert!((at(50.0) - 0.5).abs() < 0.02 && (at(-50.0) - 0.5).abs() < 0.02, "{}", at(50.0));
        assert!(at(47.0) > at(50.0) && at(50.0) > at(53.0));
    }
}
