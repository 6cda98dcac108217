"""Stage 1: the autoencoder, on faces and on masked faces."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import RESOLUTION, VAE, StagePlan
from ..data.dataset import Clips
from ..data.mask import pixel_mask
from ..networks.autoencoder_kl import AutoencoderKL
from .loop import Batches, Stage

# Until here pieces of half the side are trained on, four times as fast.
PIECES_UNTIL = 0.7
PIECE = RESOLUTION // 2
MASKED = 0.25
KL_WEIGHT = 1e-4
# Sides of the squares whose mean colours are compared: a wrong one of skin is a seam around the mouth.
COARSE = (4, 16)


def image_loss(got: Tensor, want: Tensor) -> Tensor:
    """Differences of pixels, of mean colours and, so that edges are sharp, of slopes."""
    loss = (got - want).abs().mean()
    for side in COARSE:
        loss = loss + F.avg_pool2d(got - want, side).abs().mean()
    for axis in (2, 3):
        loss = loss + 0.5 * (got.diff(dim=axis) - want.diff(dim=axis)).abs().mean()
    return loss


class VaeStage(Stage):
    name = "vae"

    def __init__(self, plan: StagePlan, clips: Clips, validation: Clips, device: torch.device):
        self.plan, self.clips, self.validation, self.device = plan, clips, validation, device
        torch.manual_seed(1)
        self.network: nn.Module = AutoencoderKL(VAE).to(device, memory_format=torch.channels_last)
        self.mask = torch.from_numpy(pixel_mask(RESOLUTION))

    def loss(self, batches: Batches, progress: float) -> dict[str, Tensor]:
        pieces = progress < PIECES_UNTIL
        count = self.plan.batch * (4 if pieces else 1)
        images = self.clips.images(batches.numpy.integers(0, len(self.clips.faces), count))
        masked = int(MASKED * count)
        images[:masked] *= self.mask
        if pieces:
            # More of them around the mouth than elsewhere.
            tops = np.where(batches.numpy.random(count) < 0.5, 52, batches.numpy.integers(0, PIECE + 1, count))
            lefts = np.where(batches.numpy.random(count) < 0.4, 32, batches.numpy.integers(0, PIECE + 1, count))
            images = torch.stack([image[:, t : t + PIECE, l : l + PIECE] for image, t, l in zip(images, tops, lefts)])
        images = images.to(self.device, memory_format=torch.channels_last)
        mean, std = self.network.encode(images)
        latents = mean + std * batches.normal(*mean.shape).to(self.device)
        got = self.network.decode(latents)
        pixels = image_loss(got, images)
        kl = 0.5 * (mean**2 + std**2 - 1 - 2 * std.log()).mean()
        return {"loss": pixels + KL_WEIGHT * kl, "pixels": pixels, "kl": kl}

    def validate(self, network: nn.Module) -> dict[str, float]:
        """PSNR of unseen people, in the part that will be generated."""
        images = self.validation.images(np.arange(0, len(self.validation.faces), 11))
        got = torch.cat([network.decode(network.encode(part)[0]) for part in images.to(self.device).split(8)])
        got = got.cpu().clamp(-1, 1)
        weight = (1 - self.mask).expand_as(got)
        error = (((got - images) / 2) ** 2 * weight).sum() / weight.sum()
        return {"psnr": -10 * error.log10().item(), "l1": F.l1_loss(got, images).item()}
