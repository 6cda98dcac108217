//! Inputs of one forward pass that all layers share.

use candle_core::Tensor;

#[derive(Debug)]
pub(super) struct Pass {
    /// Frames of each video of the batch.
    pub frames: usize,
    /// SiLU of the time embedding, (1, channels): the input of `time_emb_proj` in every resnet.
    pub temb: Tensor,
}
