"""The sizes of the demo model and of its training, and everything that is random's seed."""

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
    # Few and wide: narrow heads take a third of a step's time.
    attention_head_dim=4,
    motion_heads=4,
    cross_attention_dim=WHISPER.n_audio_state,
    norm_num_groups=16,
)


@dataclass(frozen=True)
class Data:
    """`clips` people, `clip_frames` each, in crops of 49 KB a frame; `recordings` of up to 30 s for the ears alone."""

    clips: int = 512
    clip_frames: int = 40
    # Every so many clips nobody speaks.
    silent_every: int = 16
    recordings: int = 400
    # Sides of the rendered frames, by turns. In the smallest ones a face is as large as its crop; larger ones are shrunk to
    # it, with the aliasing that this has in the engine.
    frame_sizes: tuple[int, ...] = (232, 232, 348, 232, 480)
    # Half a head's height in parts of a frame's.
    head_scale: float = 0.305
    # Seeds of people that are trained on start here, those of the evaluation far from them.
    first_seed: int = 1_000
    validation_clips: int = 16
    first_validation_seed: int = 900_000


@dataclass(frozen=True)
class StagePlan:
    """`share`: of the budget; `steps`: where no budget is given."""

    share: float
    steps: int
    batch: int
    rate: float


# What the budget is not spent on is rendering: about half an hour of one core.
STAGES = {
    "vae": StagePlan(share=0.29, steps=7300, batch=4, rate=6e-4),
    "audio": StagePlan(share=0.16, steps=3600, batch=2, rate=6e-4),
    "unet": StagePlan(share=0.33, steps=9500, batch=16, rate=5e-4),
    "motion": StagePlan(share=0.22, steps=2500, batch=1, rate=3e-4),
}
