//! The encoder of OpenAI's Whisper: log-mel spectrogram → hidden states of all layers, 50 rows per second.
//!
//! LatentSync uses the residual stream of every layer, not only the encoder's output: the features are the
//! input of the first block and the output of every block, without the final norm (`ln_post`).
//!
//! Origin: `AudioEncoder` of openai/whisper (`whisper/model.py`) with the changes of
//! bytedance/LatentSync (`latentsync/whisper/whisper/model.py`, `include_embeddings`).

use std::ops::Range;

use candle_core::{Result, Tensor, bail};
use candle_nn::VarBuilder;
use kernels::{LayerNorm, Linear, attention};
use serde::Deserialize;

use crate::layers::{layer_norm, linear, linear_no_bias};

/// Limit far above any published Whisper, so that derived sizes do not overflow.
const MAX_SIZE: usize = 1 << 16;

/// The encoder's part of the checkpoint's `dims`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct WhisperDims {
    /// Mel bands: 80, or 128 from `large-v3` on.
    pub n_mels: usize,
    /// Positions of one window: 1500, for 3000 mel frames.
    pub n_audio_ctx: usize,
    /// Channels: 384 for `tiny`, 768 for `small`.
    pub n_audio_state: usize,
    pub n_audio_head: usize,
    pub n_audio_layer: usize,
}

impl WhisperDims {
    /// Whisper `tiny`, which the published LatentSync checkpoints use.
    pub fn tiny() -> Self {
        Self { n_mels: 80, n_audio_ctx: 1500, n_audio_state: 384, n_audio_head: 6, n_audio_layer: 4 }
    }

    fn validate(&self) -> Result<()> {
        let sizes =
            [self.n_mels, self.n_audio_ctx, self.n_audio_state, self.n_audio_head, self.n_audio_layer];
        let valid = sizes.iter().all(|size| (1..=MAX_SIZE).contains(size));
        if !valid || !self.n_audio_state.is_multiple_of(self.n_audio_head) {
            bail!("whisper: invalid dimensions {self:?}");
        }
        Ok(())
    }
}

/// 1-D convolution with kernel size 3, as one linear layer over three neighbouring rows.
#[derive(Debug, Clone)]
struct Conv1d {
    linear: Linear,
    stride: usize,
}

impl Conv1d {
    fn load(input: usize, output: usize, stride: usize, vb: VarBuilder) -> Result<Self> {
        // (out, in, tap) in the checkpoint → (out, tap × in), to match the concatenated rows.
        let weight = vb.get((output, input, 3), "weight")?;
        let weight = weight.transpose(1, 2)?.reshape((output, 3 * input))?;
        let linear = Linear::new(weight, Some(vb.get(output, "bias")?))?;
        Ok(Self { linear, stride })
    }

    /// Zero-padded convolution, then GELU.
    /// `x`: (rows, in), rows a multiple of the stride → (rows / stride, out).
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

    /// Self-attention of `x`, plus `residual`. `x`, `residual`: (1, rows, state) → the same shape.
    fn forward_add(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        let (q, k, v) = (self.query.forward(x)?, self.key.forward(x)?, self.value.forward(x)?);
        self.out.forward_add(&attention(&q, &k, &v, self.heads)?, residual)
    }
}

#[derive(Debug, Clone)]
struct ResidualAttentionBlock {
    attn: MultiHeadAttention,
    attn_ln: LayerNorm,
    /// `mlp.0` and `mlp.2`, with GELU between them.
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

/// The encoder without its final norm. Clones share the weights.
#[derive(Debug, Clone)]
pub struct WhisperEncoder {
    conv1: Conv1d,
    conv2: Conv1d,
    positional_embedding: Tensor,
    blocks: Vec<ResidualAttentionBlock>,
    dims: WhisperDims,
}

impl WhisperEncoder {
    /// `vb`: root of the checkpoint's `model_state_dict`.
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

    /// Mel frames per window of the encoder: 3000, that is 30 s.
    pub fn window_frames(&self) -> usize {
        2 * self.dims.n_audio_ctx
    }

    /// Features of a whole recording. `mel`: (n_mels, frames) → (rows, layers + 1, state), one row per 20 ms.
    /// With `tiny` the result takes 384 KB per second, so long recordings are better processed by
    /// [`Self::window_features`].
    pub fn features(&self, mel: &Tensor) -> Result<Tensor> {
        let windows = windows(mel.dim(1)?, self.window_frames())
            .map(|window| self.window_features(mel, window))
            .collect::<Result<Vec<_>>>()?;
        if windows.is_empty() {
            bail!("whisper: mel {:?} is too short, expected at least 2 frames", mel.shape());
        }
        Tensor::cat(&windows, 0)
    }

    /// Features of one window. `mel`: (n_mels, frames); `window`: at most
    /// [`window_frames`](Self::window_frames) frames, padded with zeros → (window.len() / 2, layers + 1,
    /// state).
    pub fn window_features(&self, mel: &Tensor, window: Range<usize>) -> Result<Tensor> {
        let (bands, frames) = mel.dims2()?;
        if bands != self.dims.n_mels || window.end > frames || window.len() > self.window_frames() {
            bail!(
                "whisper: window {window:?} of mel {:?}, expected {} bands and at most {} frames",
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
            // A view would copy the whole recording to the device.
            .force_contiguous()?
            .to_device(pe.device())?
            .to_dtype(pe.dtype())?
            .pad_with_zeros(0, 0, self.window_frames() - window.len())?;
        let x = self.conv2.forward_gelu(&self.conv1.forward_gelu(&x)?)?;

        let mut x = (x + pe)?.unsqueeze(0)?;
        let mut hidden_states = vec![x.narrow(1, 0, rows)?];
        for block in &self.blocks {
            x = block.forward(&x)?;
            hidden_states.push(x.narrow(1, 0, rows)?);
        }
        Tensor::stack(&hidden_states, 2)?.squeeze(0)
    }
}

/// Consecutive windows of mel frames without overlap; the last one may be shorter. A remainder of one frame,
/// half a row, is dropped, as in the original.
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
        // The first load creates the variables; biases and norms are constants, so all are overwritten with
        // random values.
        WhisperEncoder::load(dims, vb.clone())?;
        for var in vars.all_vars() {
            var.set(&Tensor::randn(0f32, 0.5, var.shape(), &Device::Cpu)?)?;
        }
        WhisperEncoder::load(dims, vb)
    }

    #[test]
    fn excessive_sizes_are_rejected() {
        let dims = WhisperDims { n_audio_ctx: usize::MAX, ..small() };
        let message = random_encoder(&dims).map(drop).unwrap_err().to_string();
        assert!(message.contains("invalid dimensions"), "{message}");
    }

    #[test]
    fn conv1d_equals_candles() -> Result<()> {
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
    fn windows_are_consecutive_and_cover_the_recording() {
        let bounds =
            |frames| windows(frames, 3000).map(|window| (window.start, window.end)).collect::<Vec<_>>();
        assert_eq!(bounds(3100), [(0, 3000), (3000, 3100)]);
        assert_eq!(bounds(3000), [(0, 3000)]);
        assert_eq!(bounds(3001), [(0, 3000)]);
        assert_eq!(bounds(2), [(0, 2)]);
        assert!(bounds(1).is_empty());
    }

    #[test]
    fn features_are_the_concatenation_of_the_windows() -> Result<()> {
        let encoder = random_encoder(&small())?;
        let mel = Tensor::randn(0f32, 1.0, (4, 45), &Device::Cpu)?;
        let all = encoder.features(&mel)?;
        assert_eq!(all.dims(), [22, 3, 8]);
        // The second window does not depend on the first.
        let second = encoder.features(&mel.narrow(1, 20, 20)?)?;
        let worst = (all.narrow(0, 10, 10)? - second)?.abs()?.max_all()?.to_scalar::<f32>()?;
        assert!(worst < 1e-6, "{worst}");
        // The hidden states of the three levels differ.
        let sums: Vec<f32> = all.narrow(0, 0, 1)?.sum(2)?.flatten_all()?.to_vec1()?;
        assert!(sums[0] != sums[1] && sums[1] != sums[2]);
        Ok(())
    }

    #[test]
    fn invalid_input_is_reported() -> Result<()> {
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
