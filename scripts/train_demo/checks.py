"""Compares the networks of this directory with the golden tensors of the original implementation.

    python -m train_demo.checks [GOLDEN]

GOLDEN: the directory that contains `small/` (default: `../shared/golden` beside the repository).
"""

import json
import sys
from pathlib import Path

import numpy as np
import soundfile
import torch
import yaml
from PIL import Image
from safetensors.numpy import load_file as load_numpy
from safetensors.torch import load_file
from torch import Tensor

from .data.align import Aligner, crop
from .data.mask import mouth_mask
from .networks.autoencoder_kl import AutoencoderKL, AutoencoderKLConfig
from .networks.ddim import alphas_cumprod, sample
from .networks.unet3d import UNet3D, UNet3DConfig
from .networks.whisper import SAMPLE_RATE, AudioEncoder, WhisperDims, frame_windows, log_mel
from .paths import golden_directory


class Comparison:
    """Prints the error of each tensor, and records whether any exceeds its tolerance."""

    def __init__(self):
        self.failed = False

    def __call__(self, name: str, got: Tensor, want: Tensor, tolerance: float) -> None:
        """Compares by relative error in the 2-norm."""
        if got.shape != want.shape:
            raise SystemExit(f"{name}: shape {tuple(got.shape)}, golden {tuple(want.shape)}")
        error = ((got - want).norm() / want.norm()).item()
        print(f"{name:32} {error:.1e}  (at most {tolerance:.0e})")
        self.failed |= not error <= tolerance


def check_unet(small: Path, compare: Comparison) -> None:
    config = yaml.safe_load((small / "unet_config.yaml").read_text())["model"]
    unet = UNet3D(UNet3DConfig.from_yaml(config)).eval()
    weights = torch.load(small / "latentsync_unet.pt", weights_only=True)["state_dict"]
    unet.load_state_dict(weights)
    golden = load_file(small / "unet_golden.safetensors")
    for case in ("b1f16", "b2f16", "b1f5", "b1f16hw8"):
        inputs, audio, timestep, want = (golden[f"{case}.{part}"] for part in ("sample", "audio", "timestep", "output"))
        audio = audio.reshape(-1, *audio.shape[-2:])
        timesteps = timestep.reshape(-1).expand(len(inputs))
        compare(f"unet {case}", unet(inputs, timesteps, audio), want, 1e-4)


def check_vae(small: Path, compare: Comparison) -> None:
    config = AutoencoderKLConfig.from_json(json.loads((small / "vae/config.json").read_text()))
    vae = AutoencoderKL(config).eval()
    vae.load_state_dict(load_file(small / "vae/diffusion_pytorch_model.safetensors"))
    golden = load_file(small / "vae_golden.safetensors")
    mean, std = vae.encode(golden["image"])
    compare("vae mean", mean, golden["mean"], 1e-4)
    compare("vae std", std, (0.5 * golden["logvar"]).exp(), 1e-4)
    compare("vae decode", vae.decode(golden["latent_in"]), golden["decoded"], 1e-4)


def check_whisper(golden: Path, compare: Comparison) -> None:
    checkpoint = torch.load(golden / "small/whisper/tiny.pt", weights_only=True)
    encoder = AudioEncoder(WhisperDims(**checkpoint["dims"])).eval()
    # The keys of the decoder are not needed.
    encoder.load_state_dict(
        {
            key.removeprefix("encoder."): value.float()
            for key, value in checkpoint["model_state_dict"].items()
            if key.startswith("encoder.")
        }
    )
    expected = load_file(golden / "small/whisper_golden.safetensors")
    for name in ("demo1_audio", "speech_3s", "speech_48s"):
        samples, rate = soundfile.read(golden.parent / f"media/{name}.wav", dtype="int16")
        if rate != SAMPLE_RATE or samples.ndim > 1:
            raise SystemExit(f"{name}.wav is not 16 kHz mono")
        mel = log_mel(samples / 32768)
        compare(f"mel {name}", mel[:, : expected[f"{name}.mel"].shape[1]], expected[f"{name}.mel"], 1e-4)
        features = encoder.features(mel)
        head = expected[f"{name}.features_head"]
        compare(f"whisper {name}", features[: len(head)], head, 1e-3)
        windows = frame_windows(features, torch.arange(1))
        compare(f"window of the first frame, {name}", windows[0], expected[f"{name}.chunk_0"], 1e-3)


def check_ddim(small: Path, compare: Comparison) -> None:
    golden = load_file(small / "ddim_golden.safetensors")
    compare("alphas_cumprod", alphas_cumprod(), golden["alphas_cumprod"], 1e-5)
    got = sample(lambda latents, timesteps: golden["eps_1_0"], golden["x_start_1"], 1)
    compare("ddim, one step", got, golden["x_1_0"], 1e-5)


def check_faces(golden: Path, compare: Comparison) -> None:
    """Alignment, crop and mask, which generate the training data."""
    expected = load_numpy(golden / "pipeline/pipeline_golden.safetensors")
    anchors = json.loads((golden.parent / "media/woman_2s.landmarks3.json").read_text())
    aligner = Aligner(128)
    matrices = np.array([aligner.matrix(np.array(points)) for points in anchors])
    compare("alignment", torch.from_numpy(matrices), torch.from_numpy(expected["affine_matrices"]).double(), 1e-5)
    face = crop(expected["input_frame_0_rgb"].astype(np.uint8), matrices[0], 128)
    compare("face", torch.from_numpy(face).float(), torch.from_numpy(expected["face_rgb_0_17"][0]).float(), 1e-3)
    picture = np.asarray(Image.open(golden / "mask.png").convert("L"))
    compare("mask", torch.from_numpy(mouth_mask()).float(), torch.from_numpy(picture.copy()).float(), 0)


def main() -> None:
    golden = golden_directory(sys.argv[1:])
    small = golden / "small"
    compare = Comparison()
    torch.set_grad_enabled(False)
    check_unet(small, compare)
    check_vae(small, compare)
    check_whisper(golden, compare)
    check_ddim(small, compare)
    check_faces(golden, compare)
    if compare.failed:
        raise SystemExit("at least one result differs from the original")


if __name__ == "__main__":
    main()
