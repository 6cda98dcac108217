"""Whisper's encoder and log-mel spectrogram, with the keys of OpenAI's checkpoints."""

from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .layers import multi_head_attention

HOP, N_FFT, SAMPLE_RATE = 160, 400, 16_000


@dataclass
class WhisperDims:
    """`dims` of a checkpoint. The format includes the decoder's sizes; this model has no decoder."""

    n_mels: int = 80
    n_audio_ctx: int = 1500
    n_audio_state: int = 384
    n_audio_head: int = 6
    n_audio_layer: int = 4
    n_vocab: int = 0
    n_text_ctx: int = 0
    n_text_state: int = 0
    n_text_head: int = 0
    n_text_layer: int = 0

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


class MultiHeadAttention(nn.Module):
    def __init__(self, state: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(state, state)
        self.key = nn.Linear(state, state, bias=False)
        self.value = nn.Linear(state, state)
        self.out = nn.Linear(state, state)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(multi_head_attention(self.query(x), self.key(x), self.value(x), self.heads))


class ResidualAttentionBlock(nn.Module):
    def __init__(self, state: int, heads: int):
        super().__init__()
        self.attn = MultiHeadAttention(state, heads)
        self.attn_ln = nn.LayerNorm(state)
        self.mlp = nn.Sequential(nn.Linear(state, 4 * state), nn.GELU(), nn.Linear(4 * state, state))
        self.mlp_ln = nn.LayerNorm(state)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.attn_ln(x))
        return x + self.mlp(self.mlp_ln(x))


def sinusoids(length: int, channels: int) -> Tensor:
    rate = torch.exp(-np.log(10000) / (channels // 2 - 1) * torch.arange(channels // 2))
    angle = torch.arange(length)[:, None] * rate
    return torch.cat([angle.sin(), angle.cos()], 1)


class AudioEncoder(nn.Module):
    def __init__(self, dims: WhisperDims):
        super().__init__()
        self.dims = dims
        state = dims.n_audio_state
        self.conv1 = nn.Conv1d(dims.n_mels, state, 3, padding=1)
        self.conv2 = nn.Conv1d(state, state, 3, stride=2, padding=1)
        self.register_buffer("positional_embedding", sinusoids(dims.n_audio_ctx, state))
        self.blocks = nn.ModuleList(ResidualAttentionBlock(state, dims.n_audio_head) for _ in range(dims.n_audio_layer))
        self.ln_post = nn.LayerNorm(state)

    def forward(self, mel: Tensor) -> Tensor:
        """`mel`: (n, bands, 2 · n_audio_ctx) → hidden states, (n, n_audio_ctx, layers + 1, state)."""
        x = F.gelu(self.conv2(F.gelu(self.conv1(mel)))).transpose(1, 2)
        hidden_states = [x + self.positional_embedding]
        for block in self.blocks:
            hidden_states.append(block(hidden_states[-1]))
        return torch.stack(hidden_states, 2)

    def features(self, mel: Tensor) -> Tensor:
        """`mel`: (bands, frames) of a whole recording → (frames / 2, layers + 1, state), computed in consecutive windows."""
        size, parts = 2 * self.dims.n_audio_ctx, []
        for start in range(0, mel.shape[1] - 1, size):
            window = mel[:, start : start + size]
            rows = window.shape[1] // 2
            padded = F.pad(window, (0, size - window.shape[1]))
            parts.append(self(padded[None])[0, :rows])
        return torch.cat(parts)


def frame_windows(features: Tensor, frames: Tensor, reach: tuple[int, int] = (2, 2)) -> Tensor:
    """Audio windows of video frames: `features` (rows, layers, state), `frames` (n) indices → (n, tokens, state)."""
    rows = 2 * frames[:, None] + torch.arange(-2 * reach[0], 2 * reach[1] + 2)
    rows = rows.to(features.device)
    return features[rows.clamp(0, len(features) - 1)].flatten(1, 2)


def mel_filters(bands: int) -> np.ndarray:
    """(bands, bins): `librosa.filters.mel` with its defaults: Slaney's mel scale, triangles of unit area."""
    break_hz, step = 1000.0, np.log(6.4) / 27

    def to_mel(hz: float) -> float:
        return hz * 3 / 200 if hz < break_hz else 15 + np.log(hz / break_hz) / step

    def to_hz(mel: np.ndarray) -> np.ndarray:
        return np.where(mel < 15, mel * 200 / 3, break_hz * np.exp(step * (mel - 15)))

    edges = to_hz(np.linspace(0, to_mel(SAMPLE_RATE / 2), bands + 2))
    hz = np.linspace(0, SAMPLE_RATE / 2, N_FFT // 2 + 1)
    low, peak, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    triangles = np.minimum((hz - low) / (peak - low), (high - hz) / (high - peak))
    return np.maximum(triangles, 0) * 2 / (high - low)


def log_mel(samples: np.ndarray, bands: int = 80) -> Tensor:
    """16 kHz mono → (bands, samples / 160). The floor is relative to the maximum of the whole recording."""
    # Quantised as in a 16-bit file.
    samples = np.round(np.asarray(samples, np.float64) * 32768).clip(-32768, 32767) / 32768
    window = torch.hann_window(N_FFT, dtype=torch.float64)
    x = torch.from_numpy(samples)
    spectrum = torch.stft(x, N_FFT, HOP, window=window, center=True, pad_mode="reflect", return_complex=True)
    power = spectrum[:, :-1].abs() ** 2
    mel = (torch.from_numpy(mel_filters(bands)) @ power).clamp(min=1e-10).log10()
    return ((torch.maximum(mel, mel.max() - 8) + 4) / 4).float()
