"""LatentSync's UNet: the UNet of Stable Diffusion 1.5 inflated over frames, with cross-attention to audio and motion modules.

Activations of a video are a batch of images, (batch · frames, channels, h, w). The norms of the resnets run over all frames of
a video, those of transformers and motion modules over one frame.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .layers import Attention, FeedForward, zero_module


@dataclass
class UNet3DConfig:
    """The options of the `model` section of `unet_config.yaml` that differ between checkpoints."""

    in_channels: int = 13
    out_channels: int = 4
    block_out_channels: tuple[int, ...] = (32, 64, 64, 64)
    layers_per_block: int = 2
    attention_head_dim: int = 8
    cross_attention_dim: int = 48
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    add_audio_layer: bool = True
    use_motion_module: bool = True
    motion_heads: int = 8
    motion_blocks: int = 1
    motion_attentions: int = 2
    motion_max_len: int = 24
    down_attention: tuple[bool, ...] = (True, True, True, False)
    up_attention: tuple[bool, ...] = (False, True, True, True)

    @classmethod
    def from_yaml(cls, model: dict[str, Any]) -> "UNet3DConfig":
        motion = model["motion_module_kwargs"]
        return cls(
            in_channels=model["in_channels"],
            out_channels=model["out_channels"],
            block_out_channels=tuple(model["block_out_channels"]),
            layers_per_block=model["layers_per_block"],
            attention_head_dim=model["attention_head_dim"],
            cross_attention_dim=model["cross_attention_dim"],
            norm_num_groups=model["norm_num_groups"],
            norm_eps=float(model["norm_eps"]),
            add_audio_layer=model["add_audio_layer"],
            use_motion_module=model["use_motion_module"],
            motion_heads=motion["num_attention_heads"],
            motion_blocks=motion["num_transformer_block"],
            motion_attentions=len(motion["attention_block_types"]),
            motion_max_len=motion["temporal_position_encoding_max_len"],
            down_attention=tuple(kind.startswith("CrossAttn") for kind in model["down_block_types"]),
            up_attention=tuple(kind.startswith("CrossAttn") for kind in model["up_block_types"]),
        )


class VideoNorm(nn.GroupNorm):
    """Group norm with statistics over all frames of a video."""

    def forward(self, x: Tensor, frames: int) -> Tensor:  # type: ignore[override]
        if frames == 1:
            return super().forward(x)
        images, channels, h, w = x.shape
        video = x.view(images // frames, frames, channels, h, w).transpose(1, 2)
        return super().forward(video).transpose(1, 2).reshape(images, channels, h, w)


class ResnetBlock3D(nn.Module):
    def __init__(self, cfg: UNet3DConfig, into: int, out: int):
        super().__init__()
        groups, eps = cfg.norm_num_groups, cfg.norm_eps
        self.norm1 = VideoNorm(groups, into, eps)
        self.conv1 = nn.Conv2d(into, out, 3, padding=1)
        self.time_emb_proj = nn.Linear(4 * cfg.block_out_channels[0], out)
        self.norm2 = VideoNorm(groups, out, eps)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1)
        if into != out:
            self.conv_shortcut = nn.Conv2d(into, out, 1)

    def forward(self, x: Tensor, temb: Tensor, frames: int) -> Tensor:
        """`temb`: (batch · frames, 4 · block_out_channels[0]), after SiLU."""
        h = self.conv1(F.silu(self.norm1(x, frames)))
        h = h + self.time_emb_proj(temb)[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h, frames)))
        return h + (self.conv_shortcut(x) if hasattr(self, "conv_shortcut") else x)


class BasicTransformerBlock(nn.Module):
    def __init__(self, cfg: UNet3DConfig, channels: int):
        super().__init__()
        heads = cfg.attention_head_dim
        self.norm1 = nn.LayerNorm(channels)
        self.attn1 = Attention(channels, channels, heads)
        if cfg.add_audio_layer:
            self.norm2 = nn.LayerNorm(channels)
            self.attn2 = Attention(channels, cfg.cross_attention_dim, heads)
        self.norm3 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels)

    def forward(self, x: Tensor, audio: Tensor) -> Tensor:
        x = x + self.attn1(self.norm1(x))
        if hasattr(self, "attn2"):
            x = x + self.attn2(self.norm2(x), audio)
        return x + self.ff(self.norm3(x))


class Transformer3D(nn.Module):
    """Self-attention within a frame, cross-attention to its audio, feed-forward."""

    def __init__(self, cfg: UNet3DConfig, channels: int):
        super().__init__()
        self.norm = nn.GroupNorm(cfg.norm_num_groups, channels, 1e-6)
        self.proj_in = nn.Conv2d(channels, channels, 1)
        self.transformer_blocks = nn.ModuleList([BasicTransformerBlock(cfg, channels)])
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, audio: Tensor) -> Tensor:
        images, channels, h, w = x.shape
        y = self.proj_in(self.norm(x)).flatten(2).transpose(1, 2)
        for block in self.transformer_blocks:
            y = block(y, audio)
        return x + self.proj_out(y.transpose(1, 2).reshape(images, channels, h, w))


class TemporalAttention(Attention):
    """Temporal self-attention: every position attends to the same position in all frames. `pos_encoder.pe` is sinusoidal."""

    def __init__(self, channels: int, heads: int, max_len: int):
        super().__init__(channels, channels, heads)
        position = torch.arange(max_len).unsqueeze(1)
        rate = torch.exp(torch.arange(0, channels, 2) * (-math.log(10000.0) / channels))
        pe = torch.zeros(1, max_len, channels)
        pe[0, :, 0::2] = torch.sin(position * rate)
        pe[0, :, 1::2] = torch.cos(position * rate)
        self.pos_encoder = nn.Module()
        self.pos_encoder.register_buffer("pe", pe)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """`x`: (batch · positions, frames, channels)."""
        return super().forward(x + self.pos_encoder.pe[:, : x.shape[1]])


class TemporalTransformerBlock(nn.Module):
    def __init__(self, cfg: UNet3DConfig, channels: int):
        super().__init__()
        attentions = range(cfg.motion_attentions)
        self.attention_blocks = nn.ModuleList(
            TemporalAttention(channels, cfg.motion_heads, cfg.motion_max_len) for _ in attentions
        )
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in attentions)
        self.ff = FeedForward(channels)
        self.ff_norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        for norm, attention in zip(self.norms, self.attention_blocks):
            x = x + attention(norm(x))
        return x + self.ff(self.ff_norm(x))


class MotionModule(nn.Module):
    """Transformer over the frames at each position; initialised to the identity."""

    def __init__(self, cfg: UNet3DConfig, channels: int):
        super().__init__()
        inner = nn.Module()
        inner.norm = nn.GroupNorm(32, channels, 1e-6)
        inner.proj_in = nn.Linear(channels, channels)
        inner.transformer_blocks = nn.ModuleList(TemporalTransformerBlock(cfg, channels) for _ in range(cfg.motion_blocks))
        inner.proj_out = zero_module(nn.Linear(channels, channels))
        self.temporal_transformer = inner

    def forward(self, x: Tensor, frames: int) -> Tensor:
        images, channels, h, w = x.shape
        inner = self.temporal_transformer
        y = inner.proj_in(inner.norm(x).permute(0, 2, 3, 1))
        y = y.view(images // frames, frames, h * w, channels).transpose(1, 2).reshape(-1, frames, channels)
        for block in inner.transformer_blocks:
            y = block(y)
        y = y.view(images // frames, h * w, frames, channels).transpose(1, 2)
        y = inner.proj_out(y).reshape(images, h, w, channels).permute(0, 3, 1, 2)
        return x + y


class Block(nn.Module):
    """Resnets, each with its transformer and motion module, and an optional downsampler or upsampler."""

    def __init__(self, cfg: UNet3DConfig, sizes: list[tuple[int, int]], attention: bool, motion: bool):
        super().__init__()
        self.resnets = nn.ModuleList(ResnetBlock3D(cfg, into, out) for into, out in sizes)
        if attention:
            self.attentions = nn.ModuleList(Transformer3D(cfg, out) for _, out in sizes)
        if motion:
            self.motion_modules = nn.ModuleList(MotionModule(cfg, out) for _, out in sizes)

    def layer(self, i: int, x: Tensor, temb: Tensor, audio: Tensor, frames: int, motion: bool) -> Tensor:
        x = self.resnets[i](x, temb, frames)
        if hasattr(self, "attentions"):
            x = self.attentions[i](x, audio)
        if motion and hasattr(self, "motion_modules"):
            x = self.motion_modules[i](x, frames)
        return x


class MidBlock(nn.Module):
    def __init__(self, cfg: UNet3DConfig, channels: int):
        super().__init__()
        self.resnets = nn.ModuleList(ResnetBlock3D(cfg, channels, channels) for _ in range(2))
        self.attentions = nn.ModuleList([Transformer3D(cfg, channels)])

    def forward(self, x: Tensor, temb: Tensor, audio: Tensor, frames: int) -> Tensor:
        x = self.attentions[0](self.resnets[0](x, temb, frames), audio)
        return self.resnets[1](x, temb, frames)


def resampler(channels: int, stride: int) -> nn.ModuleList:
    """A convolution with the key `0.conv`."""
    sampler = nn.Module()
    sampler.conv = nn.Conv2d(channels, channels, 3, stride=stride, padding=1)
    return nn.ModuleList([sampler])


class UNet3D(nn.Module):
    def __init__(self, cfg: UNet3DConfig):
        super().__init__()
        self.cfg = cfg
        channels = cfg.block_out_channels
        first, last = channels[0], len(channels) - 1
        self.conv_in = nn.Conv2d(cfg.in_channels, first, 3, padding=1)
        self.time_embedding = nn.Module()
        self.time_embedding.linear_1 = nn.Linear(first, 4 * first)
        self.time_embedding.linear_2 = nn.Linear(4 * first, 4 * first)

        self.down_blocks = nn.ModuleList()
        for level, out in enumerate(channels):
            into = channels[max(level - 1, 0)]
            sizes = [(into if i == 0 else out, out) for i in range(cfg.layers_per_block)]
            block = Block(cfg, sizes, cfg.down_attention[level], cfg.use_motion_module)
            if level < last:
                block.downsamplers = resampler(out, stride=2)
            self.down_blocks.append(block)
        self.mid_block = MidBlock(cfg, channels[last])
        self.up_blocks = nn.ModuleList()
        for i, level in enumerate(reversed(range(len(channels)))):
            out = channels[level]
            previous, skip = channels[min(level + 1, last)], channels[max(level - 1, 0)]
            sizes = [
                ((previous if j == 0 else out) + (skip if j == cfg.layers_per_block else out), out)
                for j in range(cfg.layers_per_block + 1)
            ]
            block = Block(cfg, sizes, cfg.up_attention[i], cfg.use_motion_module)
            if level > 0:
                block.upsamplers = resampler(out, stride=1)
            self.up_blocks.append(block)
        self.conv_norm_out = VideoNorm(cfg.norm_num_groups, first, cfg.norm_eps)
        self.conv_out = nn.Conv2d(first, cfg.out_channels, 3, padding=1)

    def embed_time(self, timesteps: Tensor) -> Tensor:
        """(n) → (n, 4 · block_out_channels[0])."""
        half = self.cfg.block_out_channels[0] // 2
        rate = torch.exp(-math.log(10000.0) * torch.arange(half, device=timesteps.device) / half)
        angle = timesteps[:, None].float() * rate
        x = torch.cat([angle.cos(), angle.sin()], -1)
        return self.time_embedding.linear_2(F.silu(self.time_embedding.linear_1(x)))

    def forward(self, sample: Tensor, timesteps: Tensor, audio: Tensor, motion: bool = True) -> Tensor:
        """`sample`: (batch, in_channels, frames, h, w); `timesteps`: (batch); `audio`: (batch · frames, tokens,
        cross_attention_dim) → (batch, out_channels, frames, h, w). Without `motion`, motion modules are skipped."""
        batch, channels, frames, h, w = sample.shape
        x = sample.transpose(1, 2).reshape(batch * frames, channels, h, w)
        temb = F.silu(self.embed_time(timesteps)).repeat_interleave(frames, 0)
        x = self.conv_in(x)
        skips = [x]
        for block in self.down_blocks:
            for i in range(len(block.resnets)):
                x = block.layer(i, x, temb, audio, frames, motion)
                skips.append(x)
            if hasattr(block, "downsamplers"):
                x = block.downsamplers[0].conv(x)
                skips.append(x)
        x = self.mid_block(x, temb, audio, frames)
        for block in self.up_blocks:
            for i in range(len(block.resnets)):
                x = block.layer(i, torch.cat([x, skips.pop()], 1), temb, audio, frames, motion)
            if hasattr(block, "upsamplers"):
                x = block.upsamplers[0].conv(F.interpolate(x, size=skips[-1].shape[-2:]))
        x = self.conv_out(F.silu(self.conv_norm_out(x, frames)))
        return x.view(batch, frames, -1, h, w).transpose(1, 2)
