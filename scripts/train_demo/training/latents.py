"""Precomputed VAE latents and audio features of every clip, so that the UNet's stages do not run these networks."""

import hashlib
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..config import RESOLUTION
from ..data.dataset import Clips, padded_mel
from ..data.mask import pixel_mask
from ..networks.autoencoder_kl import AutoencoderKL
from ..networks.whisper import AudioEncoder


class Latents:
    """`posterior`: (all frames, 4, 4, 16, 16) f16: mean and standard deviation of the masked face and of the whole face,
    unscaled. `features`: (rows, layers + 1, state) per clip."""

    def __init__(self, clips: Clips, posterior: Tensor, features: list[Tensor], scaling: float):
        self.clips, self.posterior, self.features, self.scaling = clips, posterior, features, scaling

    def draw(self, indices: np.ndarray, whole: bool, noise: Tensor) -> Tensor:
        """Scaled samples from the posterior, (n, 4, 16, 16)."""
        first = 2 if whole else 0
        posterior = self.posterior[indices].float()
        return self.scaling * (posterior[:, first] + posterior[:, first + 1] * noise)


def fingerprint(network: nn.Module) -> str:
    """SHA-256 of the weights."""
    digest = hashlib.sha256()
    for value in network.state_dict().values():
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


@torch.no_grad()
def encode_clips(work: Path, prefix: str, clips: Clips, vae: AutoencoderKL, whisper: AudioEncoder) -> Latents:
    """Encodes all clips on the networks' device. The result is cached in `work`, keyed by clips and weights."""
    device = next(vae.parameters()).device
    path = work / f"latents{prefix}.pt"
    networks = [fingerprint(vae), fingerprint(whisper)]
    if path.exists():
        stored = torch.load(path, weights_only=True)
        if stored["names"] == clips.names and stored.get("networks") == networks:
            return Latents(clips, stored["posterior"], stored["features"], stored["scaling"])
    mask = torch.from_numpy(pixel_mask(RESOLUTION)).to(device)
    parts = []
    for start in range(0, len(clips.faces), 32):
        images = clips.images(np.arange(start, min(start + 32, len(clips.faces)))).to(device)
        parts.append(torch.stack([*vae.encode(images * mask), *vae.encode(images)], 1).half().cpu())
    posterior = torch.cat(parts)
    features = []
    for mel in clips.mels:
        rows = min(mel.shape[1] // 2, whisper.dims.n_audio_ctx)
        features.append(whisper(padded_mel(mel)[None].to(device))[0, :rows].half().cpu())
    scaling = 1 / posterior[:, 2].float().std().item()
    unfinished = path.with_suffix(".part")
    torch.save({"posterior": posterior, "features": features, "scaling": scaling, "names": clips.names, "networks": networks}, unfinished)
    os.replace(unfinished, path)
    return Latents(clips, posterior, features, scaling)
