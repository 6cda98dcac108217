//! The encoder of OpenAI's Whisper, read off between its blocks: log-mel -> residual stream, 50 rows a second.
//!
//! Unlike transcription, which wants the encoder's last output, LatentSync hears with all of its layers: what is
//! kept is the input of the first block and the output of every block, without the final norm (`ln_post`).
//!
//! Origin: `AudioEncoder` of openai/whisper (`whisper/model.py`) with the changes of
//! bytedance/LatentSync (`latentsync/whisper/whisper/model.py`, `include_embeddings`).

use std::ops::Range;

use candle_core::{Result, Tensor, bail};
use candle_nn::VarBuilder;
use kernels::{LayerNorm, Linear, attention};
use serde::Deserialize;

use crate::layers::{layer_norm, linear, linear_no_bias};

/// Far beyond any published Whisper: sizes that can be computed with.
const MAX_SIZE: usize = 1 << 16;

/// What the checkpoint's `dims` says of the encoder; what it says of the decoder is not needed.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct WhisperDims {
    /// Mel bands: 80, or 128 from `large-v3` on.
    pub n_mels: usize,
    /// Rows that one window of the encoder gives: 1500, for 3000 mel frames.
    pub n_audio_ctx: usize,
    /// Channels: 384 for `tiny`, 768 for `small`.
    pub n_audio_state: usize,
    pub n_audio_head: usize,
    pub n_audio_layer: usize,
}

impl WhisperDims {
    /// Whisper `tiny`, which the published LatentSync checkpoints listen with.
    pub fn tiny() -> Self {
        Self { n_mels: 80, n_audio_ctx: 1500, n_audio_state: 384, n_audio_head: 6, n_audio_layer: 4 }
    }

    fn validate(&self) -> Result<()> {
        let sizes =
            [self.n_mels, self.n_audio_ctx, self.n_audio_state, self.n_audio_head, self.n_audio_layer];
        let fits = sizes.iter().all(|size| (1..=MAX_SIZE).contains(size));
        if !fits || !self.n_audio_state.is_multiple_of(self.n_audio_head) {
            bail!("whisper: these dimensions make no encoder: {self:?}");
        }
        Ok(())
    }
}

/// A convolution over time with three taps, as one linear layer over three neighbouring rows.
#[derive(Debug, Clone)]
struct Conv1d {
    linear: Linear,
    stride: usize,
}

impl Conv1d {
    fn load(input: usize, output: usize, stride: usize, vb: VarBuilder) -> Result<Self> {
        // (out, in, tap) in the checkpoint; (out, tap × in) to meet rows that lie one behind the other.
        let weight = vb.get((output, input, 3), "weight")?;
        let weight = weight.transpose(1, 2)?.reshape((output, 3 * input))?;
        let linear = Linear::new(weight, Some(vb.get(output, "bias")?))?;
        Ok(Self { linear, stride })
    }

    /// GELU of the convolution; zeros before and after.
    /// `x`: (rows, in) with rows a multiple of the stride → (rows / stride, out).
    fn forward_gelu(&self, x: &Tensor) -> Result<Tensor> {
        let (rows, channels) = x.dims2()?;
        let padded = x.pad_with_zeros(0, 1, self.stride)?;
        let tap = |tap: usize| {
            padded
                .narrow(0, tap, rows)?
                .reshape((rows / self.stride, self.stride, channels))?
                .narrow(1, 0, 1)?
                .squeeze(1)
        };
        self.linear.forward_gelu(&Tensor::cat(&[tap(0)?, tap(1)?, tap(2)?], 1)?)
    }
}

#[derive(Debug, Clone)]
struct MultiHeadAttention {
    query: Linear,
    key: Linear,
    value: Linear,
    out: Linear,
    heads: usize,
}

impl MultiHeadAttention {
    fn load(dims: &WhisperDims, vb: VarBuilder) -> Result<Self> {
        let state = dims.n_audio_state;
        Ok(Self {
            query: linear(state, state, vb.pp("query"))?,
            key: linear_no_bias(state, state, vb.pp("key"))?,
            value: linear(state, state, vb.pp("value"))?,
            out: linear(state, state, vb.pp("out"))?,
            heads: dims.n_audio_head,
        })
    }

    /// `x`, `residual`: (1, rows, state) → attention over `x`, plus `residual`.
    fn forward_add(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        let (q, k, v) = (self.query.forward(x)?, self.key.forward(x)?, self.value.forward(x)?);
        self.out.forward_add(&attention(&q, &k, &v, self.heads)?, residual)
    }
}

#[derive(Debug, Clone)]
struct ResidualAttentionBlock {
    attn: MultiHeadAttention,
    attn_ln: LayerNorm,
    /// Two linear layers with a GELU between them: keys `mlp.0` and `mlp.2`.
    mlp: [Linear; 2],
    mlp_ln: LayerNorm,
}

impl ResidualAttentionBlock {
    fn load(dims: &WhisperDims, vb: VarBuilder) -> Result<Self> {
        let state = dims.n_audio_state;
        Ok(Self {
            attn: MultiHeadAttention::load(dims, vb.pp("attn"))?,
            attn_ln: layer_norm(state, vb.pp("attn_ln"))?,
            mlp: [linear(state, 4 * state, vb.pp("mlp.0"))?, linear(4 * state, state, vb.pp("mlp.2"))?],
            mlp_ln: layer_norm(state, vb.pp("mlp_ln"))?,
        })
    }

    /// `x`: (1, rows, state) → the same shape.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.attn.forward_add(&self.attn_ln.forward(x)?, x)?;
        let hidden = self.mlp[0].forward_gelu(&self.mlp_ln.forward(&x)?)?;
        self.mlp[1].forward_add(&hidden, &x)
    }
}

/// The encoder, without the norm behind its last block. Clones share their weights.
#[derive(Debug, Clone)]
pub struct WhisperEncoder {
    conv1: Conv1d,
    conv2: Conv1d,
    positional_embedding: Tensor,
    blocks: Vec<ResidualAttentionBlock>,
    dims: WhisperDims,
}

impl WhisperEncoder {
    /// `vb`: at the root of the checkpoint's `model_state_dict`.
    pub fn load(dims: &WhisperDims, vb: VarBuilder) -> Result<Self> {
        dims.validate()?;
        let (state, vb) = (dims.n_audio_state, vb.pp("encoder"));
        Ok(Self {
            conv1: Conv1d::load(dims.n_mels, state, 1, vb.pp("conv1"))?,
            conv2: Conv1d::load(state, state, 2, vb.pp("conv2"))?,
            positional_embedding: vb.get((dims.n_audio_ctx, state), "positional_embedding")?,
            blocks: (0..dims.n_audio_layer)
                .map(|i| ResidualAttentionBlock::load(dims, vb.pp("blocks").pp(i)))
                .collect::<Result<_>>()?,
            dims: dims.clone(),
        })
    }

    pub fn dims(&self) -> &WhisperDims {
        &self.dims
    }

    /// Mel frames that the encoder hears at once: 3000, half a minute.
    pub fn window_frames(&self) -> usize {
        2 * self.dims.n_audio_ctx
    }

    /// Everything at once. `mel`: (n_mels, frames) → (rows, layers + 1, state), one row for 20 ms; its size is
    /// 384 KB for each second with `tiny`, so long recordings are better read window by window.
    pub fn features(&self, mel: &Tensor) -> Result<Tensor> {
        let windows = windows(mel.dim(1)?, self.window_frames())
            .map(|window| self.window_features(mel, window))
            .collect::<Result<Vec<_>>>()?;
        if windows.is_empty() {
            bail!("whisper: {:?} is too short for one row of features", mel.shape());
        }
        Tensor::cat(&windows, 0)
    }

    /// One window. `mel`: (n_mels, frames); `window`: at most [`window_frames`](Self::window_frames) of its frames, the
    /// rest of the window is filled with zeros → (window's frames / 2, layers + 1, state).
    pub fn window_features(&self, mel: &Tensor, window: Range<usize>) -> Result<Tensor> {
        let (bands, frames) = mel.dims2()?;
        if bands != self.dims.n_mels || window.end > frames || window.len() > self.window_frames() {
            bail!(
                "whisper: window {window:?} of mel {:?}, {} bands and at most {} frames expected",
                mel.shape(),
                self.dims.n_mels,
                self.window_frames()
            );
        }
        let rows = window.len() / 2;
        let pe = &self.positional_embedding;
        let x = mel
            .narrow(1, window.start, window.len())?
            .t()?
            // A view would take the whole recording along to the device.
            .force_contiguous()?
            .to_device(pe.device())?
            .to_dtype(pe.dtype())?
            .pad_with_zeros(0, 0, self.window_frames() - window.len())?;
        let x = self.conv2.forward_gelu(&self.conv1.forward_gelu(&x)?)?;

        let mut x = (x + pe)?.unsqueeze(0)?;
        let mut stream = vec![x.narrow(1, 0, rows)?];
        for block in &self.blocks {
            x = block.forward(&x)?;
            stream.push(x.narrow(1, 0, rows)?);
        }
        Tensor::stack(&stream, 2)?.squeeze(0)
    }
}

/// The stretches of mel frames that the encoder hears one by one: end to end, the last one shorter. A remainder
/// of one frame is half a row and left out, as the original does.
pub fn windows(frames: usize, window: usize) -> impl Iterator<Item = Range<usize>> {
    (0..frames)
        .step_by(window)
        .map(move |start| start..frames.min(start + window))
        .filter(|window| window.len() > 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};
    use candle_nn::VarMap;

    fn small() -> WhisperDims {
        WhisperDims { n_mels: 4, n_audio_ctx: 10, n_audio_state: 8, n_audio_head: 2, n_audio_layer: 2 }
    }

    fn random_encoder(dims: &WhisperDims) -> Result<WhisperEncoder> {
        let vars = VarMap::new();
        let vb = VarBuilder::from_varmap(&vars, DType::F32, &Device::Cpu);
        // The first load creates the variables; biases and norms start as constants, so all are drawn again.
        WhisperEncoder::load(dims, vb.clone())?;
        for var in vars.all_vars() {
            var.set(&Tensor::randn(0f32, 0.5, var.shape(), &Device::Cpu)?)?;
        }
        WhisperEncoder::load(dims, vb)
    }

    #[test]
    fn sizes_beyond_all_sense_are_refused() {
        let dims = WhisperDims { n_audio_ctx: usize::MAX, ..small() };
        let message = random_encoder(&dims).map(drop).unwrap_err().to_string();
        assert!(message.contains("these dimensions make no encoder"), "{message}");
    }

    #[test]
    fn the_convolution_equals_candles() -> Result<()> {
        for stride in [1, 2] {
            let weight = Tensor::randn(0f32, 1.0, (5, 3, 3), &Device::Cpu)?;
            let bias = Tensor::randn(0f32, 1.0, 5, &Device::Cpu)?;
            let tensors = [("weight".to_string(), weight.clone()), ("bias".to_string(), bias.clone())];
            let vb = VarBuilder::from_tensors(tensors.into(), DType::F32, &Device::Cpu);
            let x = Tensor::randn(0f32, 1.0, (12, 3), &Device::Cpu)?;
            let got = Conv1d::load(3, 5, stride, vb)?.forward_gelu(&x)?;
            let want = x
                .t()?
                .unsqueeze(0)?
                .contiguous()?
                .conv1d(&weight, 1, stride, 1, 1)?
                .squeeze(0)?
                .t()?
                .broadcast_add(&bias)?
                .gelu_erf()?;
            assert_eq!(got.dims(), want.dims());
            let worst = (got - want)?.abs()?.max_all()?.to_scalar::<f32>()?;
            assert!(worst < 1e-5, "stride {stride}: {worst}");
        }
        Ok(())
    }

    #[test]
    fn windows_lie_end_to_end() {
        let bounds =
            |frames| windows(frames, 3000).map(|window| (window.start, window.end)).collect::<Vec<_>>();
        assert_eq!(bounds(3100), [(0, 3000), (3000, 3100)]);
        assert_eq!(bounds(3000), [(0, 3000)]);
        assert_eq!(bounds(3001), [(0, 3000)]);
        assert_eq!(bounds(2), [(0, 2)]);
        assert!(bounds(1).is_empty());
    }

    #[test]
    fn features_are_those_of_the_windows_one_after_the_other() -> Result<()> {
        let encoder = random_encoder(&small())?;
        let mel = Tensor::randn(0f32, 1.0, (4, 45), &Device::Cpu)?;
        let all = encoder.features(&mel)?;
        assert_eq!(all.dims(), [22, 3, 8]);
        // The second window hears nothing of the first.
        let second = encoder.features(&mel.narrow(1, 20, 20)?)?;
        let worst = (all.narrow(0, 10, 10)? - second)?.abs()?.max_all()?.to_scalar::<f32>()?;
        assert!(worst < 1e-6, "{worst}");
        // A row is more than its own layer: the three levels differ.
        let levels: Vec<f32> = all.narrow(0, 0, 1)?.sum(2)?.flatten_all()?.to_vec1()?;
        assert!(levels[0] != levels[1] && levels[1] != levels[2]);
        Ok(())
    }

    #[test]
    fn bad_input_is_named() -> Result<()> {
        let encoder = random_encoder(&small())?;
        let wrong_bands = Tensor::zeros((5, 20), DType::F32, &Device::Cpu)?;
        let message = encoder.features(&wrong_bands).unwrap_err().to_string();
        assert!(message.contains("[5, 20]") && message.contains("4 bands"), "{message}");
        let one_frame = Tensor::zeros((4, 1), DType::F32, &Device::Cpu)?;
        assert!(encoder.features(&one_frame).is_err());
        let bad = WhisperDims { n_audio_head: 3, ..small() };
        let vb = VarBuilder::zeros(DType::F32, &Device::Cpu);
        assert!(WhisperEncoder::load(&bad, vb).unwrap_err().to_string().contains("n_audio_head: 3"));
        Ok(())
    }
}
