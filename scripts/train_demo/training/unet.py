"""Stages 3 and 4: the noise predictor, first on single frames, then on clips with the motion modules."""

import numpy as np
import torch
from torch import Tensor, nn

from ..config import FRAMES, LATENT, RESOLUTION, UNET, StagePlan
from ..data.mask import latent_mask, pixel_mask
from ..networks.autoencoder_kl import AutoencoderKL
from ..networks.ddim import TRAINING_STEPS, add_noise, alphas_cumprod, sample
from ..networks.unet3d import UNet3D
from ..networks.whisper import frame_windows
from .latents import Latents
from .loop import Batches, Stage

WITHOUT_AUDIO = 0.10
# What is kept of the face is known; its noise counts less.
KEPT_WEIGHT = 0.25
# The network predicts noise, but what counts is the picture: an error of the noise is an error of the picture times the
# signal-to-noise ratio, so noise's errors are divided by it, down to this ratio. Where less is left of the picture it matters
# less, for a step of the sampler takes less from it. Without this, almost all of the loss is in steps that show the mouth already.
LEAST_SIGNAL = 0.1
# With the motion modules, half of the steps see clips this long, of as many people more: a step's work is the same, and
# people are what there is too little of in it.
SHORT = 4
# Frames between what is drawn and its reference, at least: another sound. Nor do the two overlap, or else the motion modules
# would find the frame that is drawn among the references, and need no voice.
APART = 8


def picture_weight(signal_to_noise: Tensor) -> Tensor:
    """What an error of the predicted noise counts: `LEAST_SIGNAL / signal_to_noise`, at most 1."""
    return (LEAST_SIGNAL / signal_to_noise).clamp(max=1)


def mixed_noise(batches: Batches, count: int, frames: int) -> Tensor:
    """(count, 4, frames, 16, 16): half of it is one for all frames, as all of it is in the engine, and half each frame's own. If
    all were one, what differs between the frames would show through it, and the mouth would be copied from there instead of
    following the voice. Original: `mixed_noise_alpha` in `train_unet.py`."""
    shared = batches.normal(count, 4, 1, LATENT, LATENT)
    return (shared + batches.normal(count, 4, frames, LATENT, LATENT)) * 0.5**0.5


class UnetStage(Stage):
    """`data`: to train on and to validate with; `motion`: clips of 16 frames with the motion modules, instead of single
    frames. Runs where `vae` is."""

    def __init__(self, plan: StagePlan, data: tuple[Latents, Latents], vae: AutoencoderKL, motion: bool):
        self.plan, self.vae, self.motion = plan, vae, motion
        self.train, self.held_out = data
        self.device = next(vae.parameters()).device
        self.name = "motion" if motion else "unet"
        torch.manual_seed(3)
        self.network: nn.Module = UNet3D(UNET).to(self.device)
        if motion:
            # The rest has learned from more people than clips can show it.
            for name, parameter in self.network.named_parameters():
                parameter.requires_grad_("motion_modules." in name or "attentions." in name)
        self.mask = torch.from_numpy(latent_mask(RESOLUTION))
        self.weight = torch.where(self.mask > 0.5, KEPT_WEIGHT, 1.0)
        self.weight = (self.weight / self.weight.mean()).to(self.device)

    def _frames(self, data: Latents, rng: np.random.Generator, frames: int) -> tuple[int, np.ndarray, np.ndarray]:
        """A clip, frames of it in a row, and as many from another moment."""
        clip = int(rng.integers(0, len(data.clips)))
        begin, end = data.clips.offsets[clip], data.clips.offsets[clip + 1]
        starts = np.arange(end - begin - frames + 1)
        pairs = np.argwhere(np.abs(starts[:, None] - starts) >= max(APART, frames))
        start, other = pairs[int(rng.integers(len(pairs)))]
        return clip, begin + start + np.arange(frames), begin + other + np.arange(frames)

    def _batch(self, data: Latents, batches: Batches, frames: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """→ latents (count, 4, frames, 16, 16), conditioning (count, 9, …), audio (count · frames, tokens, state)."""
        clean, conditioning, audio = [], [], []
        for _ in range(count):
            clip, target, reference = self._frames(data, batches.numpy, frames)

            def draw(indices: np.ndarray, whole: bool) -> Tensor:
                noise = batches.normal(frames, 4, LATENT, LATENT)
                return data.draw(indices, whole, noise).transpose(0, 1)

            clean.append(draw(target, True))
            mask = self.mask.expand(1, frames, LATENT, LATENT)
            conditioning.append(torch.cat([mask, draw(target, False), draw(reference, True)]))
            features = data.features[clip].float()
            number = data.clips.firsts[clip] + (target - data.clips.offsets[clip])
            audio.append(frame_windows(features, torch.from_numpy(number)))
        return tuple(torch.stack(parts).to(self.device) for parts in (clean, conditioning, audio))

    def loss(self, batches: Batches, progress: float) -> dict[str, Tensor]:
        frames, count = FRAMES if self.motion else 1, self.plan.batch
        if self.motion and batches.numpy.random() < 0.5:
            frames, count = SHORT, count * FRAMES // SHORT
        clean, conditioning, audio = self._batch(self.train, batches, frames, count)
        dropped = torch.from_numpy(batches.numpy.random(len(clean)) < WITHOUT_AUDIO).to(self.device)
        audio = (audio * ~dropped[:, None, None, None]).flatten(0, 1)
        noise = mixed_noise(batches, count, frames).to(self.device)
        timesteps = torch.randint(0, TRAINING_STEPS, (len(clean),), generator=batches.torch).to(self.device)
        noisy = add_noise(clean, noise, timesteps)
        got = self.network(torch.cat([noisy, conditioning], 1), timesteps, audio, motion=self.motion)
        alpha = alphas_cumprod().to(self.device)[timesteps]
        error = ((got - noise) ** 2 * self.weight).mean((1, 2, 3, 4))
        return {"loss": (error * picture_weight(alpha / (1 - alpha))).mean(), "noise": error.mean()}

    def validate(self, network: nn.Module) -> dict[str, float]:
        """Unseen people drawn from noise in ten steps: PSNR of the generated part; the same with another's voice."""
        batches = Batches("validation", 0)
        frames = FRAMES if self.motion else 1
        clean, conditioning, audio = self._batch(self.held_out, batches, frames, 6 if self.motion else 24)
        noise = batches.normal(1, 4, 1, LATENT, LATENT).to(self.device).expand_as(clean)

        def drawn(audio: Tensor) -> Tensor:
            def predict(noisy: Tensor, timesteps: Tensor) -> Tensor:
                return network(torch.cat([noisy, conditioning], 1), timesteps, audio.flatten(0, 1), motion=self.motion)

            return self._pixels(sample(predict, noise.clone(), 10))

        truth = self._pixels(clean)
        weight = torch.from_numpy(1 - pixel_mask(RESOLUTION)).to(self.device).expand_as(truth)

        def psnr(got: Tensor) -> float:
            return -10 * (((got - truth) / 2) ** 2 * weight).sum().div(weight.sum()).log10().item()

        return {"psnr": psnr(drawn(audio)), "psnr_other_voice": psnr(drawn(audio.roll(1, 0)))}

    def _pixels(self, latents: Tensor) -> Tensor:
        """Scaled latents → (frames, 3, 128, 128)."""
        flat = latents.transpose(1, 2).flatten(0, 1) / self.train.scaling
        return torch.cat([self.vae.decode(part) for part in flat.split(8)]).clamp(-1, 1)
