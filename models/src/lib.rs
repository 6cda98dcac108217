//! The networks of LatentSync: 3-D UNet, DDIM schedule, VAE, Whisper encoder and face detectors.
//!
//! Activations are channels-last. Field names are checkpoint keys. Every network is built by `X::load(&cfg,
//! vb)` and called by `forward(&self, &Tensor, ...)` (the VAE by `encode` and `decode`). All heavy operations
//! are those of the `kernels` crate.

pub mod layers;
pub mod guidance;
pub mod unet;
pub mod ddim;
pub mod vae;
pub mod mel;
pub mod whisper;
pub mod face;
pub mod mouth_mask;
pub mod synthetic;
