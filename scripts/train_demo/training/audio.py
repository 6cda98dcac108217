"""Stage 2: the audio encoder, trained to predict the mouth curves from the tokens that the UNet attends to."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..config import WHISPER, StagePlan
from ..data.dataset import Clips, padded_mel
from ..networks.layers import multi_head_attention
from ..networks.whisper import AudioEncoder, frame_windows
from ..speech.visemes import CHANNELS
from .loop import StepRandom, Stage

QUERIES = 8


class AudioProbe(nn.Module):
    """The encoder, and a probe in place of the UNet: learned queries with cross-attention to a frame's window, like every layer of
    the UNet."""

    def __init__(self):
        super().__init__()
        state = WHISPER.n_audio_state
        self.encoder = AudioEncoder(WHISPER)
        # Unlike in a published encoder, the position embedding is trained.
        positions = self.encoder.positional_embedding
        del self.encoder.positional_embedding
        self.encoder.positional_embedding = nn.Parameter(0.3 * positions)
        self.queries = nn.Parameter(torch.randn(1, QUERIES, state))
        self.to_k = nn.Linear(state, state, bias=False)
        self.to_v = nn.Linear(state, state, bias=False)
        self.head = nn.Sequential(
            nn.LayerNorm(QUERIES * state), nn.Linear(QUERIES * state, state), nn.GELU(), nn.Linear(state, len(CHANNELS))
        )

    def predict(self, windows: Tensor) -> Tensor:
        """(frames, tokens, state) → (frames, 8) curves."""
        queries = self.queries.expand(len(windows), -1, -1)
        return self.head(multi_head_attention(queries, self.to_k(windows), self.to_v(windows), WHISPER.n_audio_head).flatten(1))

    def forward(self, mels: Tensor, frames: list[int]) -> Tensor:
        """(n, 80, 3000) → curves of the first `frames[i]` frames of each recording, concatenated."""
        features = self.encoder(mels)
        windows = [frame_windows(rows[: 2 * count], torch.arange(count)) for rows, count in zip(features, frames)]
        return self.predict(torch.cat(windows))


class AudioStage(Stage):
    name = "audio"

    def __init__(self, plan: StagePlan, work: Path, validation: Clips, device: torch.device):
        self.plan, self.validation, self.device = plan, validation, device
        self.recordings = []
        for path in sorted((work / "recordings").glob("[0-9]*.npz")):
            if not path.name.endswith(".part.npz"):
                with np.load(path) as file:
                    self.recordings.append((file["mel"], torch.from_numpy(file["curves"])))
        torch.manual_seed(2)
        self.network: nn.Module = AudioProbe().to(device)
        curves = torch.cat([curves for _, curves in self.recordings])
        self.std = curves.std(0).to(device)

    def loss(self, rng: StepRandom, progress: float) -> dict[str, Tensor]:
        chosen = [self.recordings[i] for i in rng.numpy.integers(0, len(self.recordings), self.plan.batch)]
        mels, targets = [], []
        for mel, curves in chosen:
            # A random start, so that the position does not identify the sentence.
            start = int(rng.numpy.integers(0, max(1, len(curves) // 2)))
            mels.append(padded_mel(torch.from_numpy(mel[:, 4 * start :]).float()))
            rows = min(mel.shape[1] // 4 - start, len(curves) - start)
            targets.append(curves[start : start + rows])
        got = self.network(torch.stack(mels).to(self.device), [len(curves) for curves in targets])
        want = torch.cat(targets).to(self.device)
        error = ((got - want) / self.std) ** 2
        return {"loss": error.mean(), "jaw": error[:, 0].mean()}

    def validate(self, network: nn.Module) -> dict[str, float]:
        """Correlation over time with the ground truth, mean over clips of unseen people."""
        jaw, width = [], []
        clips = self.validation
        for i in range(len(clips)):
            part = slice(clips.offsets[i], clips.offsets[i + 1])
            truth, first = clips.curves[part], clips.firsts[i]
            mel = padded_mel(clips.mels[i])[None].to(self.device)
            got = network(mel, [first + len(truth)])[first:].cpu().numpy()
            jaw.append(np.corrcoef(got[:, 0], truth[:, 0])[0, 1])
            width.append(np.corrcoef(got[:, 3], truth[:, 3])[0, 1])
        return {"jaw": float(np.mean(jaw)), "worst_jaw": float(np.min(jaw)), "wide": float(np.mean(width))}
