//! Callbacks into a running job.

use candle_core::Tensor;

use crate::stages::noise::NoiseSource;

/// Callback that receives a frame or chunk number and a tensor.
pub type TensorHook<'a> = dyn Fn(usize, &Tensor) + Sync + 'a;

/// Replacements and observers for one job. The parity tests use them to inject the original's noise.
#[derive(Default)]
pub struct Hooks<'a> {
    /// Replaces [`SeededNoise`](crate::stages::noise::SeededNoise).
    pub noise: Option<&'a dyn NoiseSource>,
    /// Called with the number of each chunk and its final latents, (1, frames, height, width, channels).
    pub latents: Option<&'a TensorHook<'a>>,
    /// Called with the number of each output frame and its RGB picture, (height, width, 3) u8, before
    /// encoding.
    pub frame: Option<&'a TensorHook<'a>>,
}
