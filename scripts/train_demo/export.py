"""Export of the networks in the published file formats, in f16, for `--model DIRECTORY`."""

import json
from pathlib import Path

import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from .config import FRAMES, RESOLUTION
from .networks.autoencoder_kl import AutoencoderKL
from .networks.unet3d import UNet3D, UNet3DConfig
from .networks.whisper import AudioEncoder

# Number of principal components that the engine expects.
KNOWN_DIRECTIONS = 64


def unet_yaml(cfg: UNet3DConfig) -> dict:
    def kinds(side: str, attention: tuple[bool, ...]) -> list[str]:
        return [f"CrossAttn{side}Block3D" if has else f"{side}Block3D" for has in attention]

    return {
        "data": {
            "num_frames": FRAMES,
            "resolution": RESOLUTION,
            "audio_sample_rate": 16000,
            "video_fps": 25,
            "audio_feat_length": [2, 2],
        },
        "model": {
            "act_fn": "silu",
            "add_audio_layer": cfg.add_audio_layer,
            "attention_head_dim": cfg.attention_head_dim,
            "block_out_channels": list(cfg.block_out_channels),
            "center_input_sample": False,
            "cross_attention_dim": cfg.cross_attention_dim,
            "down_block_types": kinds("Down", cfg.down_attention),
            "mid_block_type": "UNetMidBlock3DCrossAttn",
            "up_block_types": kinds("Up", cfg.up_attention),
            "downsample_padding": 1,
            "flip_sin_to_cos": True,
            "freq_shift": 0,
            "in_channels": cfg.in_channels,
            "layers_per_block": cfg.layers_per_block,
            "mid_block_scale_factor": 1,
            "norm_eps": cfg.norm_eps,
            "norm_num_groups": cfg.norm_num_groups,
            "out_channels": cfg.out_channels,
            "sample_size": RESOLUTION // 8,
            "resnet_time_scale_shift": "default",
            "use_motion_module": cfg.use_motion_module,
            "motion_module_resolutions": [1, 2, 4, 8],
            "motion_module_mid_block": False,
            "motion_module_decoder_only": False,
            "motion_module_type": "Vanilla",
            "motion_module_kwargs": {
                "num_attention_heads": cfg.motion_heads,
                "num_transformer_block": cfg.motion_blocks,
                "attention_block_types": ["Temporal_Self"] * cfg.motion_attentions,
                "temporal_position_encoding": True,
                "temporal_position_encoding_max_len": cfg.motion_max_len,
                "temporal_attention_dim_div": 1,
                "zero_initialize": True,
            },
        },
    }


def to_half(state: dict[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    for key, value in state.items():
        if value.abs().max() > 65504:
            raise SystemExit(f"`{key}` exceeds the range of f16")
    return {prefix + key: value.detach().half().contiguous() for key, value in state.items()}


def known_faces(latents: Tensor) -> dict[str, Tensor]:
    """Mean and principal components of the faces' latents, (n, channels, height, width), by which the engine distinguishes drawn
    faces from photographs. The result is channels-last, like the engine's latents."""
    values = latents.permute(0, 2, 3, 1).float()
    mean = values.mean(0)
    _, _, directions = torch.pca_lowrank((values - mean).flatten(1), q=4 * KNOWN_DIRECTIONS, center=False, niter=3)
    return {"mean": mean, "directions": directions.T[:KNOWN_DIRECTIONS].reshape(KNOWN_DIRECTIONS, *mean.shape)}


def export(directory: Path, unet: UNet3D, vae: AutoencoderKL, whisper: AudioEncoder, steps: int, faces: Tensor) -> int:
    """Writes the model to `directory`. `faces`: latents of unmasked training faces. Returns the number of bytes written."""
    for folder in ("vae", "whisper"):
        (directory / folder).mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(unet_yaml(unet.cfg), sort_keys=False)
    (directory / "unet_config.yaml").write_text(text)
    torch.save({"global_step": steps, "state_dict": to_half(unet.state_dict())}, directory / "latentsync_unet.pt")
    (directory / "vae/config.json").write_text(json.dumps(vae.cfg.to_json(RESOLUTION), indent=2) + "\n")
    save_file(to_half(vae.state_dict()), directory / "vae/diffusion_pytorch_model.safetensors", {"format": "pt"})
    state = to_half(whisper.state_dict(), "encoder.")
    torch.save({"dims": whisper.dims.as_dict(), "model_state_dict": state}, directory / "whisper/tiny.pt")
    save_file(to_half(known_faces(faces)), directory / "known_faces.safetensors", {"format": "pt"})
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
