"""The maps that the benchmarks of the fixed-point solvers run on."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ConvCell(nn.Module):
    """``GN(z + GN(conv(relu(GN(conv z)))) + x)``: two 3x3 convolutions, group normalization, an injection."""

    def __init__(self, channels: int = 64, groups: int = 8) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1, self.norm2, self.norm3 = (nn.GroupNorm(groups, channels) for _ in range(3))
        nn.init.normal_(self.conv1.weight, 0, 0.01)
        nn.init.normal_(self.conv2.weight, 0, 0.01)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        y = self.norm1(torch.relu(self.conv1(z)))
        return self.norm3(torch.relu(z + self.norm2(x + self.conv2(y))))


class TransformerCell(nn.Module):
    """Post-norm self-attention and feed-forward block with an injection."""

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        for layer in (self.qkv, self.out, self.up, self.down):
            nn.init.normal_(layer.weight, 0, 0.5 / layer.in_features**0.5)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        b, t, d = z.shape
        q, k, v = (self.qkv(z) + x).view(b, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        a = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, t, d)
        z = self.norm1(z + self.out(a))
        return self.norm2(z + self.down(torch.relu(self.up(z))))


def conv_problem(batch: int = 64) -> tuple[nn.Module, Tensor, Tensor]:
    """64 channels, 16x16: cell, injection, start."""
    torch.manual_seed(0)
    return ConvCell(), torch.randn(batch, 64, 16, 16), torch.zeros(batch, 64, 16, 16)


def transformer_problem(width: int, batch: int, tokens: int) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    return TransformerCell(width), torch.randn(batch, tokens, 3 * width), torch.zeros(batch, tokens, width)
