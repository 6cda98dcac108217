//! Rotation and mirroring of pictures according to their display matrix, without interpolation.

use ffmpeg_next as ffmpeg;
use ffmpeg_next::frame;

use crate::media::picture::{Plane, PlaneMut, planes, planes_mut};
use crate::media::scale::{Layout, allocate};

/// Transformation from the stored picture to the upright one: first transposed, then mirrored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Orientation {
    pub transpose: bool,
    pub mirror_x: bool,
    pub mirror_y: bool,
}

impl Orientation {
    /// Parses a display matrix: 3×3 native-endian 32-bit integers. The stored sample (p, q) is shown at
    /// (a p + c q, b p + d q) with a, b, c, d at indices 0, 1, 3, 4.
    ///
    /// `av_display_rotation_get` is not used: it counts counter-clockwise and ignores mirroring. Returns
    /// `None` for a matrix that is not a multiple of a quarter turn (within 1 %): players disagree on those.
    pub(crate) fn from_display_matrix(bytes: &[u8]) -> Option<Self> {
        let entry = |i: usize| {
            let bytes = bytes.get(4 * i..4 * i + 4)?.try_into().ok()?;
            Some(f64::from(i32::from_ne_bytes(bytes)))
        };
        let [a, b, c, d] = [entry(0)?, entry(1)?, entry(3)?, entry(4)?];
        let along = a.abs().min(d.abs());
        let across = b.abs().min(c.abs());
        let small = |x: f64, y: f64, than: f64| x.abs().max(y.abs()) < 0.01 * than;
        if small(b, c, along) {
            Some(Self { transpose: false, mirror_x: a < 0.0, mirror_y: d < 0.0 })
        } else if small(a, d, across) {
            Some(Self { transpose: true, mirror_x: c < 0.0, mirror_y: b < 0.0 })
        } else {
            None
        }
    }

    pub(crate) fn is_identity(self) -> bool {
        self == Self::default()
    }

    /// Transforms a planar picture. For a transposition, chroma must have the same subsampling in both
    /// directions.
    pub(super) fn apply(self, frame: &frame::Video) -> Result<frame::Video, ffmpeg::Error> {
        let mut layout = Layout::of(frame);
        if self.transpose {
            (layout.width, layout.height) = (layout.height, layout.width);
        }
        let mut rotated = allocate(layout)?;
        for (source, target) in planes(frame).zip(planes_mut(&mut rotated)) {
            match source.step {
                1 => self.rotate::<1>(&source, target),
                2 => self.rotate::<2>(&source, target),
                4 => self.rotate::<4>(&source, target),
                _ => return Err(ffmpeg::Error::PatchWelcome),
            }
        }
        // SAFETY: both frames are valid. The properties do not include format and size.
        crate::media::check(unsafe {
            ffmpeg::ffi::av_frame_copy_props(rotated.as_mut_ptr(), frame.as_ptr())
        })?;
        Ok(rotated)
    }

    /// `N`: bytes per sample, or per pair of interleaved chroma samples.
    fn rotate<const N: usize>(self, source: &Plane, mut target: PlaneMut) {
        let (width, height) = (target.width, target.height);
        for y in 0..height {
            let across = if self.mirror_y { height - 1 - y } else { y };
            let (row, _) = target.row_mut(y).as_chunks_mut::<N>();
            for (x, pixel) in row.iter_mut().enumerate() {
                let along = if self.mirror_x { width - 1 - x } else { x };
                let (p, q) = if self.transpose { (across, along) } else { (along, across) };
                pixel.copy_from_slice(&source.row(q)[p * N..(p + 1) * N]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(a: i32, b: i32, c: i32, d: i32) -> Vec<u8> {
        [a, b, 0, c, d, 0, 0, 0, 1 << 14].iter().flat_map(|v: &i32| (v << 16).to_ne_bytes()).collect()
    }

    #[test]
    fn quarter_turns_and_mirrored_pictures() {
        let orientation = |transpose, mirror_x, mirror_y| Some(Orientation { transpose, mirror_x, mirror_y });
        let read = |a, b, c, d| Orientation::from_display_matrix(&matrix(a, b, c, d));
        assert_eq!(read(1, 0, 0, 1), orientation(false, false, false));
        assert_eq!(read(-1, 0, 0, -1), orientation(false, true, true));
        // A phone held upright: the stored (1, 0), right, is shown at (0, 1), down.
        assert_eq!(read(0, 1, -1, 0), orientation(true, true, false));
        assert_eq!(read(0, -1, 1, 0), orientation(true, false, true));
        assert_eq!(read(1, 1, -1, 1), None);
        assert_eq!(Orientation::from_display_matrix(&[0; 12]), None);
    }
}
