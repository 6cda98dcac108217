//! Whether a model fits into memory, asked before gigabytes of it are read.

use candle_core::{DType, Device};
use models::unet::UNet3DConfig;

use super::Checkpoint;
use super::tensor_file::TensorFile;
use crate::{Error, Result, system};

/// The UNet's largest tensors, those of its first level, that are there at once beside the weights. In the last
/// transformers of the decoder: four for the feed-forward's inner layer, its normed input, its residual, its
/// result, the transformer's residual, and two outputs of the encoder that wait for their turn.
const TENSORS_AT_ONCE: usize = 10;

impl Checkpoint {
    /// Refuses what does not fit into the CPU's memory, where the system tells how much is left. A GPU's driver
    /// has its own say.
    pub fn check_memory(&self, dtype: DType, device: &Device) -> Result<()> {
        let needed = self.memory_needed(dtype)?;
        match system::memory_available_bytes() {
            Some(available) if device.is_cpu() && needed > available => {
                Err(Error::Memory { needed, available })
            }
            _ => Ok(()),
        }
    }

    /// Bytes that the networks take on the CPU, and the largest of what they compute. What a job's pictures
    /// take comes on top.
    pub fn memory_needed(&self, dtype: DType) -> Result<u64> {
        let config: UNet3DConfig = self.unet_config()?;
        let [unet, vae, whisper] = self.files();
        let encoder = |key: &str| key.starts_with("encoder.");
        let weights = (elements(unet, |_| true) + elements(vae, |_| true)) * kept_bytes(dtype)
            + elements(whisper, encoder) * DType::F32.size_in_bytes();
        let positions = self.num_frames() * (self.resolution() / 8).pow(2);
        let channels = config.block_out_channels.first().copied().unwrap_or_default();
        let activations = TENSORS_AT_ONCE * positions * channels * dtype.size_in_bytes();
        Ok((weights + activations) as u64)
    }
}

/// The CPU has no arithmetic for f16 and keeps such weights as f32.
fn kept_bytes(dtype: DType) -> usize {
    match dtype {
        DType::F16 => DType::F32.size_in_bytes(),
        dtype => dtype.size_in_bytes(),
    }
}

fn elements(file: &TensorFile, used: impl Fn(&str) -> bool) -> usize {
    file.tensors().iter().filter(|(key, _)| used(key)).map(|(_, tensor)| tensor.len()).sum()
}
