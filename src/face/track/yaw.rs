//! How far a face is turned away, and how much of it the model may replace.

use models::face::Anchors;

/// How far the tip of the nose stands out in front of the brows, in parts of the brows' distance: 28 of 60 mm,
/// the brows' middles lying 30 mm to either side.
const NOSE_DEPTH: f32 = 28.0 / 60.0;
/// Degrees before the limit over which the strength falls from 1 to 0.
const FADE: f32 = 10.0;

/// Degrees to either side, 0 from the front. Seen from afar, a head turned by yaw shows its brows at
/// ±30 cos(yaw) and its nose at 28 sin(yaw): along the brow line the nose stands at 0.5 + 0.467 tan(yaw). A head
/// tilted sideways turns the line with it. 90 where the brows cover each other.
pub fn yaw(anchors: &Anchors) -> f32 {
    let [x, y] = anchors.brow_line();
    let [nose_x, nose_y] = [0, 1].map(|i| anchors.nose[i] - anchors.left_brow[i]);
    let along = (nose_x * x + nose_y * y) / (x * x + y * y);
    let yaw = ((along - 0.5) / NOSE_DEPTH).atan().to_degrees();
    if yaw.is_finite() { yaw } else { 90.0 }
}

/// 1 up to 10 degrees before `max_yaw`, 0 from there on, smooth between.
pub fn strength(anchors: &Anchors, max_yaw: f32) -> f32 {
    let part = ((max_yaw - yaw(anchors).abs()) / FADE).clamp(0.0, 1.0);
    part * part * (3.0 - 2.0 * part)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A head of those measures, tilted by `roll`, from afar.
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
    fn the_angle_is_that_of_a_head_that_turns_and_tilts() {
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
