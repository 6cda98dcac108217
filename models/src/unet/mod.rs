//! The 3-D UNet of LatentSync: the UNet of Stable Diffusion 1.5 inflated over frames, with cross-attention to
//! the audio and motion modules.
//!
//! Ported from `latentsync/models` of the original (<https://github.com/bytedance/LatentSync>); the parity
//! tests `networks` compare every block with the original's output. Activations of a video are a batch of
//! images, (batch · frames, h, w, channels). Only the layers that work across frames (group norms of the
//! resnets, motion modules) take the number of frames.

mod config;
mod pass;
mod embeddings;
mod resnet;
mod transformer;
mod motion_module;
mod blocks;
mod model;
#[cfg(test)]
mod tests;

pub use config::{Heads, MotionModuleConfig, UNet3DConfig};
pub use model::{AudioContext, CachedHiddenState, Observer, UNet3D};
