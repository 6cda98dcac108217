"""Layers that several networks share."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class FeedForward(nn.Module):
    """GEGLU: `channels` → 4 · `channels` → `channels`. Keys `net.0.proj` and `net.2`."""

    def __init__(self, channels: int):
        super().__init__()
        geglu = nn.Module()
        geglu.proj = nn.Linear(channels, 8 * channels)
        self.net = nn.ModuleList([geglu, nn.Identity(), nn.Linear(4 * channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        hidden, gate = self.net[0].proj(x).chunk(2, -1)
        return self.net[2](hidden * F.gelu(gate))


def multi_head_attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """`q`: (n, positions, channels); `k`, `v`: (n, kv_len, channels) → (n, positions, channels)."""
    n, positions, channels = q.shape
    q, k, v = (x.view(n, -1, heads, channels // heads).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, positions, channels)


class Attention(nn.Module):
    """Attention with its projections; only `to_out` has a bias."""

    def __init__(self, channels: int, context: int, heads: int):
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(context, channels, bias=False)
        self.to_v = nn.Linear(context, channels, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        context = x if context is None else context
        return self.to_out[0](multi_head_attention(self.to_q(x), self.to_k(context), self.to_v(context), self.heads))


def zero_module(module: nn.Module) -> nn.Module:
    """Initialises all parameters with zeros."""
    for parameter in module.parameters():
        torch.nn.init.zeros_(parameter)
    return module
