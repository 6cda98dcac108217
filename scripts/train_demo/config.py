"""Sizes of the demo model and of its training, and the random seed."""

from dataclasses import dataclass

from .networks.autoencoder_kl import AutoencoderKLConfig
from .networks.unet3d import UNet3DConfig
from .networks.whisper import WhisperDims

SEED = 2025
RESOLUTION = 128
FRAMES = 16
LATENT = RESOLUTION // 8

WHISPER = WhisperDims(n_audio_state=96, n_audio_head=6, n_audio_layer=3)
VAE = AutoencoderKLConfig(block_out_channels=(32, 32, 64, 96), layers_per_block=1, norm_num_groups=8)
UNET = UNet3DConfig(
    block_out_channels=(64, 64, 96, 128),
    layers_per_block=1,
    # Few wide heads: narrow ones take a third of the time of a step.
    attention_head_dim=4,
    motion_heads=4,
    cross_attention_dim=WHISPER.n_audio_state,
    norm_num_groups=16,
)


@dataclass(frozen=True)
class Data:
    """`clips`: people, with `clip_frames` frames of 49 KB each. `recordings`: audio of up to 30 s, for the audio encoder only."""

    clips: int = 512
    clip_frames: int = 40
    # One of this many clips is silent.
    silent_every: int = 16
    recordings: int = 400
    # Side lengths of the rendered frames, used in rotation. In the smallest, the face has the size of its crop; larger ones
    # are downscaled, with the same aliasing as in the engine.
    frame_sizes: tuple[int, ...] = (232, 232, 348, 232, 480)
    # Half the height of a head, relative to the height of a frame.
    head_scale: float = 0.305
    # First seed of the people in the training set; the seeds of validation and evaluation are far from it.
    first_seed: int = 1_000
    validation_clips: int = 16
    first_validation_seed: int = 900_000


@dataclass(frozen=True)
class StagePlan:
    """`share`: part of the time budget. `steps`: number of steps if no budget is given."""

    share: float
    steps: int
    batch: int
    learning_rate: float


# The budget does not include rendering, which takes about half an hour on one core.
STAGES = {
    "vae": StagePlan(share=0.29, steps=7300, batch=4, learning_rate=6e-4),
    "audio": StagePlan(share=0.16, steps=3600, batch=2, learning_rate=6e-4),
    "unet": StagePlan(share=0.33, steps=9500, batch=16, learning_rate=5e-4),
    "motion": StagePlan(share=0.22, steps=2500, batch=1, learning_rate=3e-4),
}
