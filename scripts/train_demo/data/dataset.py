"""Loads the clips into memory."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..config import WHISPER


class Clips:
    """`names`: file names. `faces`: (all frames, 128, 128, 3) u8; the frames of clip i are `offsets[i]:offsets[i + 1]`."""

    def __init__(self, work: Path, prefix: str = ""):
        folder = work / "clips"
        paths = sorted(path for path in folder.glob(f"{prefix}[0-9]*.npz") if not path.name.endswith(".part.npz"))
        if not paths:
            raise SystemExit(f"no clips in `{folder}`")
        self.names = [path.stem for path in paths]
        faces, curves, self.mels, self.firsts = [], [], [], []
        for path in paths:
            with np.load(path) as clip:
                faces.append(clip["faces"])
                curves.append(clip["curves"])
                self.mels.append(torch.from_numpy(clip["mel"]).float())
                self.firsts.append(int(clip["first"]))
        self.offsets = np.cumsum([0, *(len(part) for part in faces)])
        self.faces, self.curves = np.concatenate(faces), np.concatenate(curves)

    def __len__(self) -> int:
        return len(self.names)

    def images(self, indices: np.ndarray) -> Tensor:
        """(n) → (n, 3, 128, 128) in -1..1."""
        return torch.from_numpy(self.faces[indices]).permute(0, 3, 1, 2).float() / 127.5 - 1


def padded_mel(mel: Tensor) -> Tensor:
    """Pads a recording of at most one window with zeros, as the engine does: (80, frames) → (80, 3000)."""
    frames = 2 * WHISPER.n_audio_ctx
    mel = mel[:, : min(frames, mel.shape[1] // 2 * 2)]
    return F.pad(mel, (0, frames - mel.shape[1]))
