//! The size of the latents of one frame.

use models::vae::AutoencoderKL;

/// The size of one frame of latents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LatentShape {
    pub height: usize,
    pub width: usize,
    pub channels: usize,
}

impl LatentShape {
    /// Of a square image with sides of `resolution`.
    pub fn of(vae: &AutoencoderKL, resolution: usize) -> Self {
        let side = resolution / vae.downscale();
        Self { height: side, width: side, channels: vae.latent_channels() }
    }

    pub fn elem_count(&self) -> usize {
        self.height * self.width * self.channels
    }
}
