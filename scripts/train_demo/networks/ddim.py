"""The noise schedule for training and sampling."""

from collections.abc import Callable

import torch
from torch import Tensor

TRAINING_STEPS = 1000


def alphas_cumprod() -> Tensor:
    """Cumulative product of the alphas for scaled-linear betas from 0.00085 to 0.012."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, TRAINING_STEPS, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0).float()


def add_noise(latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """Forward diffusion. `timesteps`: one per element of the batch."""
    alpha = alphas_cumprod().to(timesteps.device)[timesteps].view(-1, *[1] * (latents.dim() - 1))
    return alpha.sqrt() * latents + (1 - alpha).sqrt() * noise


def sample(predict: Callable[[Tensor, Tensor], Tensor], latents: Tensor, steps: int) -> Tensor:
    """DDIM sampling from noise. `predict`: (noisy latents, (batch) timesteps) → noise."""
    alphas = alphas_cumprod()
    stride = TRAINING_STEPS // steps
    for timestep in reversed(range(1, steps * stride + 1, stride)):
        noise = predict(latents, torch.full((len(latents),), timestep, device=latents.device))
        alpha, alpha_prev = alphas[timestep], alphas[max(timestep - stride, 0)]
        clean = (latents - (1 - alpha).sqrt() * noise) / alpha.sqrt()
        latents = alpha_prev.sqrt() * clean + (1 - alpha_prev).sqrt() * noise
    return latents
