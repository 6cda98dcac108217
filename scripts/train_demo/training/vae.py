"""Stage 1: the VAE, on faces and on masked faces."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import RESOLUTION, VAE, StagePlan
from ..data.dataset import Clips
from ..data.mask import pixel_mask
from ..networks.autoencoder_kl import AutoencoderKL
from .loop import StepRandom, Stage

# Up to this progress, training uses crops of half the side length, which are four times as fast.
CROPS_UNTIL = 0.7
CROP = RESOLUTION // 2
MASKED_FRACTION = 0.25
KL_WEIGHT = 1e-4
# Side lengths of the squares whose mean colours are compared: a wrong skin colour would cause a seam around the mouth.
COARSE = (4, 16)


def image_loss(got: Tensor, want: Tensor) -> Tensor:
    """L1 losses of pixels, of mean colours, and of gradients for sharp edges."""
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

    def loss(self, rng: StepRandom, progress: float) -> dict[str, Tensor]:
        cropped = progress < CROPS_UNTIL
        count = self.plan.batch * (4 if cropped else 1)
        images = self.clips.images(rng.numpy.integers(0, len(self.clips.faces), count))
        masked = int(MASKED_FRACTION * count)
        images[:masked] *= self.mask
        if cropped:
            # Half of the crops are around the mouth.
            tops = np.where(rng.numpy.random(count) < 0.5, 52, rng.numpy.integers(0, CROP + 1, count))
            lefts = np.where(rng.numpy.random(count) < 0.4, 32, rng.numpy.integers(0, CROP + 1, count))
            images = torch.stack([image[:, t : t + CROP, l : l + CROP] for image, t, l in zip(images, tops, lefts)])
        images = images.to(self.device, memory_format=torch.channels_last)
        mean, std = self.network.encode(images)
        latents = mean + std * rng.normal(*mean.shape).to(self.device)
        got = self.network.decode(latents)
        pixels = image_loss(got, images)
        kl = 0.5 * (mean**2 + std**2 - 1 - 2 * std.log()).mean()
        return {"loss": pixels + KL_WEIGHT * kl, "pixels": pixels, "kl": kl}

    def validate(self, network: nn.Module) -> dict[str, float]:
        """PSNR on unseen people, in the generated region."""
        images = self.validation.images(np.arange(0, len(self.validation.faces), 11))
        got = torch.cat([network.decode(network.encode(part)[0]) for part in images.to(self.device).split(8)])
        got = got.cpu().clamp(-1, 1)
        weight = (1 - self.mask).expand_as(got)
        error = (((got - images) / 2) ** 2 * weight).sum() / weight.sum()
        return {"psnr": -10 * error.log10().item(), "l1": F.l1_loss(got, images).item()}
