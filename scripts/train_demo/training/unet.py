"""Stages 3 and 4: the UNet, first on single frames, then on clips with the motion modules."""

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
from .loop import StepRandom, Stage

# Probability of zeroed audio, for classifier-free guidance.
AUDIO_DROPOUT = 0.10
# Weight of the loss where the mask keeps the face, which the network can copy from its input.
KEPT_WEIGHT = 0.25
# Minimum signal-to-noise ratio of the loss weighting. The squared error of the predicted noise is the squared error of the
# picture times the SNR, so it is divided by the SNR, but at most by this factor: with less signal, a step of the sampler uses
# less of the prediction. Without the weighting, timesteps in which the mouth is already visible dominate the loss.
MIN_SNR = 0.1
# With the motion modules, half of the steps use clips of this many frames and a correspondingly larger batch: the cost is the
# same, but a step sees more people.
SHORT_CLIP = 4
# Minimum distance in frames between target and reference, so that their sounds differ. They must not overlap either: the motion
# modules would find the target frame among the references and ignore the voice.
MIN_DISTANCE = 8


def snr_weight(snr: Tensor) -> Tensor:
    """Weight of the squared noise error: `MIN_SNR / snr`, at most 1."""
    return (MIN_SNR / snr).clamp(max=1)


def mixed_noise(step_rng: StepRandom, count: int, frames: int) -> Tensor:
    """(count, 4, frames, 16, 16): sum of noise shared by all frames, as in the engine, and independent noise per frame, with equal
    variance. With shared noise only, the differences between the noisy frames reveal the mouth, and the network would copy it
    instead of following the voice. Origin: `mixed_noise_alpha` in `train_unet.py`."""
    shared = step_rng.normal(count, 4, 1, LATENT, LATENT)
    return (shared + step_rng.normal(count, 4, frames, LATENT, LATENT)) * 0.5**0.5


class UnetStage(Stage):
    """`data`: training and validation set. `motion`: train on clips of 16 frames with the motion modules, instead of on single
    frames. Runs on the device of `vae`."""

    def __init__(self, plan: StagePlan, data: tuple[Latents, Latents], vae: AutoencoderKL, motion: bool):
        self.plan, self.vae, self.motion = plan, vae, motion
        self.train, self.held_out = data
        self.device = next(vae.parameters()).device
        self.name = "motion" if motion else "unet"
        torch.manual_seed(3)
        self.network: nn.Module = UNet3D(UNET).to(self.device)
        if motion:
            # The other parameters were trained on more people than the clips of this stage contain.
            for name, parameter in self.network.named_parameters():
                parameter.requires_grad_("motion_modules." in name or "attentions." in name)
        self.mask = torch.from_numpy(latent_mask(RESOLUTION))
        self.weight = torch.where(self.mask > 0.5, KEPT_WEIGHT, 1.0)
        self.weight = (self.weight / self.weight.mean()).to(self.device)

    def _frames(self, data: Latents, rng: np.random.Generator, frames: int) -> tuple[int, np.ndarray, np.ndarray]:
        """Returns a clip index, consecutive target frames, and as many reference frames at another time of the clip."""
        clip = int(rng.integers(0, len(data.clips)))
        begin, end = data.clips.offsets[clip], data.clips.offsets[clip + 1]
        starts = np.arange(end - begin - frames + 1)
        pairs = np.argwhere(np.abs(starts[:, None] - starts) >= max(MIN_DISTANCE, frames))
        start, other = pairs[int(rng.integers(len(pairs)))]
        return clip, begin + start + np.arange(frames), begin + other + np.arange(frames)

    def _batch(self, data: Latents, step_rng: StepRandom, frames: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Returns latents (count, 4, frames, 16, 16), conditioning (count, 9, frames, 16, 16), audio (count, frames, tokens,
        state)."""
        clean, conditioning, audio = [], [], []
        for _ in range(count):
            clip, target, reference = self._frames(data, step_rng.numpy, frames)

            def draw(indices: np.ndarray, whole: bool) -> Tensor:
                noise = step_rng.normal(frames, 4, LATENT, LATENT)
                return data.draw(indices, whole, noise).transpose(0, 1)

            clean.append(draw(target, True))
            mask = self.mask.expand(1, frames, LATENT, LATENT)
            conditioning.append(torch.cat([mask, draw(target, False), draw(reference, True)]))
            features = data.features[clip].float()
            number = data.clips.firsts[clip] + (target - data.clips.offsets[clip])
            audio.append(frame_windows(features, torch.from_numpy(number)))
        return tuple(torch.stack(parts).to(self.device) for parts in (clean, conditioning, audio))

    def loss(self, step_rng: StepRandom, progress: float) -> dict[str, Tensor]:
        frames, count = FRAMES if self.motion else 1, self.plan.batch
        if self.motion and step_rng.numpy.random() < 0.5:
            frames, count = SHORT_CLIP, count * FRAMES // SHORT_CLIP
        clean, conditioning, audio = self._batch(self.train, step_rng, frames, count)
        dropped = torch.from_numpy(step_rng.numpy.random(len(clean)) < AUDIO_DROPOUT).to(self.device)
        audio = (audio * ~dropped[:, None, None, None]).flatten(0, 1)
        noise = mixed_noise(step_rng, count, frames).to(self.device)
        timesteps = torch.randint(0, TRAINING_STEPS, (len(clean),), generator=step_rng.torch).to(self.device)
        noisy = add_noise(clean, noise, timesteps)
        got = self.network(torch.cat([noisy, conditioning], 1), timesteps, audio, motion=self.motion)
        alpha = alphas_cumprod().to(self.device)[timesteps]
        error = ((got - noise) ** 2 * self.weight).mean((1, 2, 3, 4))
        return {"loss": (error * snr_weight(alpha / (1 - alpha))).mean(), "noise": error.mean()}

    def validate(self, network: nn.Module) -> dict[str, float]:
        """PSNR in the generated region of unseen people, sampled in ten steps, with their voice and with another voice."""
        step_rng = StepRandom("validation", 0)
        frames = FRAMES if self.motion else 1
        clean, conditioning, audio = self._batch(self.held_out, step_rng, frames, 6 if self.motion else 24)
        noise = step_rng.normal(1, 4, 1, LATENT, LATENT).to(self.device).expand_as(clean)

        def sampled(audio: Tensor) -> Tensor:
            def predict(noisy: Tensor, timesteps: Tensor) -> Tensor:
                return network(torch.cat([noisy, conditioning], 1), timesteps, audio.flatten(0, 1), motion=self.motion)

            return self._pixels(sample(predict, noise.clone(), 10))

        truth = self._pixels(clean)
        weight = torch.from_numpy(1 - pixel_mask(RESOLUTION)).to(self.device).expand_as(truth)

        def psnr(got: Tensor) -> float:
            return -10 * (((got - truth) / 2) ** 2 * weight).sum().div(weight.sum()).log10().item()

        return {"psnr": psnr(sampled(audio)), "psnr_other_voice": psnr(sampled(audio.roll(1, 0)))}

    def _pixels(self, latents: Tensor) -> Tensor:
        """Decodes scaled latents to (frames, 3, 128, 128)."""
        flat = latents.transpose(1, 2).flatten(0, 1) / self.train.scaling
        return torch.cat([self.vae.decode(part) for part in flat.split(8)]).clamp(-1, 1)
