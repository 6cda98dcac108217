//! The eight stages, in running order.

pub mod decode_video;
pub mod align_faces;
pub mod audio_features;
pub mod encode_latents;
pub mod denoise_latents;
pub mod decode_latents;
pub mod blend_faces;
pub mod mux_video;
