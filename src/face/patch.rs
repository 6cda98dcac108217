//! The rectangle of a frame that a generated face changes.

use candle_core::{Result, Tensor};

/// A rectangle of a frame that changes.
#[derive(Debug, Clone)]
pub struct Patch {
    /// Top left corner in pixels of the frame.
    pub x: usize,
    pub y: usize,
    /// The new pixels, (height, width, 3), u8.
    pub rgb: Tensor,
    /// Opacity of the generated face, (height, width), f32 in 0..=1. Where it is 0, the pixel equals that of
    /// the frame.
    pub weight: Tensor,
}

impl Patch {
    /// `frame`, (height, width, 3) u8, with the patch applied.
    pub fn applied_to(&self, frame: &Tensor) -> Result<Tensor> {
        let (height, width, channels) = self.rgb.dims3()?;
        if height * width == 0 {
            return Ok(frame.clone());
        }
        let place = [self.y..self.y + height, self.x..self.x + width, 0..channels];
        frame.slice_assign(&place, &self.rgb)
    }
}
