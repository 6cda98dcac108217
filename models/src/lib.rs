//! The networks of LatentSync: the 3-D UNet and its scheduler, the VAE, the Whisper encoder, and the face
//! detectors. Tensors are channels-last; field names are checkpoint keys; every network is `X::load(&cfg, vb)`
//! and `forward(&self, ...)`, and calls the operations of the `kernels` crate.

pub mod layers;
pub mod unet;
pub mod ddim;
pub mod vae;
pub mod mel;
pub mod whisper;
pub mod face;
pub mod mouth_mask;
pub mod synthetic;
