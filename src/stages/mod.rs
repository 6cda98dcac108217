//! The eight stages of the pipeline, in the order of the data flow.

#[cfg(feature = "media")]
pub mod decode_video;
pub mod align_faces;
pub mod audio_features;
pub mod encode_latents;
pub mod denoise_latents;
pub mod decode_latents;
pub mod compose_face;
pub mod colour_match;
pub mod blend_faces;
#[cfg(feature = "media")]
pub mod mux_video;
pub mod noise;
