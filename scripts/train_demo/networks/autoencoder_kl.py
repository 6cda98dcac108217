"""The VAE of Stable Diffusion 1.5, with diffusers' keys."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .layers import multi_head_attention


@dataclass
class AutoencoderKLConfig:
    block_out_channels: tuple[int, ...] = (32, 64, 64, 64)
    layers_per_block: int = 2
    latent_channels: int = 4
    norm_num_groups: int = 32
    scaling_factor: float = 0.18215

    @classmethod
    def from_json(cls, config: dict) -> "AutoencoderKLConfig":
        return cls(
            block_out_channels=tuple(config["block_out_channels"]),
            layers_per_block=config["layers_per_block"],
            latent_channels=config["latent_channels"],
            norm_num_groups=config["norm_num_groups"],
            scaling_factor=config["scaling_factor"],
        )

    def to_json(self, resolution: int) -> dict:
        levels = len(self.block_out_channels)
        return {
            "_class_name": "AutoencoderKL",
            "act_fn": "silu",
            "block_out_channels": list(self.block_out_channels),
            "down_block_types": ["DownEncoderBlock2D"] * levels,
            "force_upcast": True,
            "in_channels": 3,
            "latent_channels": self.latent_channels,
            "layers_per_block": self.layers_per_block,
            "mid_block_add_attention": True,
            "norm_num_groups": self.norm_num_groups,
            "out_channels": 3,
            "sample_size": resolution,
            "scaling_factor": self.scaling_factor,
            "shift_factor": None,
            "up_block_types": ["UpDecoderBlock2D"] * levels,
            "use_post_quant_conv": True,
            "use_quant_conv": True,
        }


class ResnetBlock2D(nn.Module):
    def __init__(self, groups: int, into: int, out: int):
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, into, 1e-6)
        self.conv1 = nn.Conv2d(into, out, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, out, 1e-6)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1)
        if into != out:
            self.conv_shortcut = nn.Conv2d(into, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (self.conv_shortcut(x) if hasattr(self, "conv_shortcut") else x)


class SpatialAttention(nn.Module):
    def __init__(self, groups: int, channels: int):
        super().__init__()
        self.group_norm = nn.GroupNorm(groups, channels, 1e-6)
        self.to_q, self.to_k, self.to_v = (nn.Linear(channels, channels) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        n, channels, h, w = x.shape
        y = self.group_norm(x).flatten(2).transpose(1, 2)
        y = self.to_out[0](multi_head_attention(self.to_q(y), self.to_k(y), self.to_v(y), 1))
        return x + y.transpose(1, 2).reshape(n, channels, h, w)


class MidBlock(nn.Module):
    def __init__(self, groups: int, channels: int):
        super().__init__()
        self.resnets = nn.ModuleList(ResnetBlock2D(groups, channels, channels) for _ in range(2))
        self.attentions = nn.ModuleList([SpatialAttention(groups, channels)])

    def forward(self, x: Tensor) -> Tensor:
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class Level(nn.Module):
    def __init__(self, groups: int, into: int, out: int, layers: int):
        super().__init__()
        self.resnets = nn.ModuleList(ResnetBlock2D(groups, into if i == 0 else out, out) for i in range(layers))

    def add_sampler(self, name: str, channels: int, stride: int) -> None:
        sampler = nn.Module()
        sampler.conv = nn.Conv2d(channels, channels, 3, stride=stride, padding=0 if stride == 2 else 1)
        setattr(self, name, nn.ModuleList([sampler]))


class Encoder(nn.Module):
    def __init__(self, cfg: AutoencoderKLConfig):
        super().__init__()
        channels, groups = cfg.block_out_channels, cfg.norm_num_groups
        self.conv_in = nn.Conv2d(3, channels[0], 3, padding=1)
        self.down_blocks = nn.ModuleList()
        for i, out in enumerate(channels):
            level = Level(groups, channels[max(i - 1, 0)], out, cfg.layers_per_block)
            if i + 1 < len(channels):
                level.add_sampler("downsamplers", out, 2)
            self.down_blocks.append(level)
        self.mid_block = MidBlock(groups, channels[-1])
        self.conv_norm_out = nn.GroupNorm(groups, channels[-1], 1e-6)
        self.conv_out = nn.Conv2d(channels[-1], 2 * cfg.latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.down_blocks:
            for resnet in level.resnets:
                x = resnet(x)
            if hasattr(level, "downsamplers"):
                # Padding at the right and bottom only.
                x = level.downsamplers[0].conv(F.pad(x, (0, 1, 0, 1)))
        return self.conv_out(F.silu(self.conv_norm_out(self.mid_block(x))))


class Decoder(nn.Module):
    def __init__(self, cfg: AutoencoderKLConfig):
        super().__init__()
        channels, groups = cfg.block_out_channels[::-1], cfg.norm_num_groups
        self.conv_in = nn.Conv2d(cfg.latent_channels, channels[0], 3, padding=1)
        self.mid_block = MidBlock(groups, channels[0])
        self.up_blocks = nn.ModuleList()
        for i, out in enumerate(channels):
            level = Level(groups, channels[max(i - 1, 0)], out, cfg.layers_per_block + 1)
            if i + 1 < len(channels):
                level.add_sampler("upsamplers", out, 1)
            self.up_blocks.append(level)
        self.conv_norm_out = nn.GroupNorm(groups, channels[-1], 1e-6)
        self.conv_out = nn.Conv2d(channels[-1], 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mid_block(self.conv_in(x))
        for level in self.up_blocks:
            for resnet in level.resnets:
                x = resnet(x)
            if hasattr(level, "upsamplers"):
                x = level.upsamplers[0].conv(F.interpolate(x, scale_factor=2.0))
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class AutoencoderKL(nn.Module):
    def __init__(self, cfg: AutoencoderKLConfig):
        super().__init__()
        self.cfg = cfg
        self.encoder = Encoder(cfg)
        self.decoder = Decoder(cfg)
        self.quant_conv = nn.Conv2d(2 * cfg.latent_channels, 2 * cfg.latent_channels, 1)
        self.post_quant_conv = nn.Conv2d(cfg.latent_channels, cfg.latent_channels, 1)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(n, 3, h, w) in -1..1 → mean and standard deviation of the latents, (n, 4, h / 8, w / 8), unscaled."""
        mean, logvar = self.quant_conv(self.encoder(images)).chunk(2, 1)
        return mean, torch.exp(0.5 * logvar.clamp(-30, 20))

    def decode(self, latents: Tensor) -> Tensor:
        """Unscaled latents → (n, 3, 8 · h, 8 · w), approximately in -1..1."""
        return self.decoder(self.post_quant_conv(latents))
