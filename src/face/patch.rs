//! The rectangle of a frame that a generated face changes.

use candle_core::{Result, Tensor};

/// A rectangle of a frame that changes.
#[derive(Debug, Clone)]
pub struct Patch {
    /// Of the top left corner, in the frame's pixels.
    pub x: usize,
    pub y: usize,
    /// The new pixels, (height, width, 3), u8.
    pub rgb: Tensor,
    /// The share of the new face in them, (height, width), f32 in 0..=1; where it is 0 the pixel is the frame's.
    pub weight: Tensor,
}

impl Patch {
    /// `frame`, (height, width, 3) u8, with the patch in its place.
    pub fn applied_to(&self, frame: &Tensor) -> Result<Tensor> {
        let (height, width, channels) = self.rgb.dims3()?;
        if height * width == 0 {
            return Ok(frame.clone());
        }
        let place = [self.y..self.y + height, self.x..self.x + width, 0..channels];
        frame.slice_assign(&place, &self.rgb)
    }
}
