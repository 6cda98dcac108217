//! The time embedding.

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::VarBuilder;
use kernels::Linear;

use super::config::UNet3DConfig;
use crate::layers;

/// Longest period of the sinusoids.
const MAX_PERIOD: f32 = 10_000.0;

/// Sinusoidal embedding of the timestep and a two-layer MLP with SiLU.
#[derive(Debug)]
pub(super) struct TimeEmbedding {
    linear_1: Linear,
    linear_2: Linear,
    channels: usize,
    flip_sin_to_cos: bool,
    freq_shift: f64,
    dtype: DType,
    device: Device,
}

impl TimeEmbedding {
    pub fn load(cfg: &UNet3DConfig, vb: VarBuilder) -> Result<Self> {
        let channels = cfg.block_out_channels[0];
        let time_embed_dim = cfg.time_embed_dim();
        Ok(Self {
            linear_1: layers::linear(channels, time_embed_dim, vb.pp("linear_1"))?,
            linear_2: layers::linear(time_embed_dim, time_embed_dim, vb.pp("linear_2"))?,
            channels,
            flip_sin_to_cos: cfg.flip_sin_to_cos,
            freq_shift: cfg.freq_shift,
            dtype: vb.dtype(),
            device: vb.device().clone(),
        })
    }

    /// → (1, 4 · block_out_channels[0]), the same for every frame.
    pub fn forward(&self, timestep: usize) -> Result<Tensor> {
        let sinusoids = Tensor::from_vec(self.sinusoids(timestep), (1, self.channels), &self.device)?;
        let x = self.linear_1.forward_silu(&sinusoids.to_dtype(self.dtype)?)?;
        self.linear_2.forward(&x)
    }

    /// In f32 for every dtype of the weights, as in the original.
    fn sinusoids(&self, timestep: usize) -> Vec<f32> {
        let half = self.channels / 2;
        let step = -MAX_PERIOD.ln() / (half as f64 - self.freq_shift) as f32;
        let angles = (0..half).map(|i| timestep as f32 * (step * i as f32).exp());
        let (sin, cos) = (angles.clone().map(f32::sin), angles.map(f32::cos));
        if self.flip_sin_to_cos { cos.chain(sin).collect() } else { sin.chain(cos).collect() }
    }
}
