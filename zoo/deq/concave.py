"""Positive concave equilibrium network (pcDEQ): weights that are not negative, and an equilibrium that is unique.

    z = s(W z + b(x)),    W >= 0,  b(x) > 0,  s concave and increasing on [0, inf) with s(0) = 0 and bounded

Such a map takes positive states to positive states, and is concave: for ``0 < t < 1`` and ``z >= 0``,

    f(t z) >= t f(z) + (1 - t) f(0)   >   t f(z)

so that it shrinks Thompson's distance ``max |log z - log z'|``. Its fixed point exists, is unique, and plain iteration
reaches it from any start at a geometric rate, however large the weights are. No norm has to be bounded for that.

Reference: Gabor, Piotrowski and Cavalcante, "Positive concave deep equilibrium models", ICML 2024,
https://arxiv.org/abs/2402.04029

What differs from the paper: weights are kept positive by softplus, not by projection after each step of the optimizer.

Shape letters: ``B`` images, ``C, H, W`` channels and size of a map.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.deq.single_scale import SingleScaleNet


class ConcaveConv(nn.Module):
    """``f(z, b) = tanh(W * z + b)`` with a convolution ``W > 0``.

    States below zero, where a solver that extrapolates may look, are read as zero; no fixed point lies there.

    Args:
        channels: of the state.
        gain: sum of a channel's weights at the start.
    """

    def __init__(self, channels: int, gain: float = 1.0) -> None:
        super().__init__()
        if not gain > 0:
            raise ValueError(f"gain must be above 0; got {gain}.")
        mean = gain / (9 * channels)
        drawn = (mean * 2 * torch.rand(channels, channels, 3, 3)).clamp_min(mean * 1e-3)
        self.raw = nn.Parameter(drawn.expm1().log())  # the inverse of softplus

    @property
    def weight(self) -> Tensor:
        """``W``, above 0."""
        return F.softplus(self.raw)

    def forward(self, z: Tensor, b: Tensor) -> Tensor:
        """Return f of a state and a positive injection, both (B, C, H, W)."""
        return torch.tanh(F.conv2d(z.clamp_min(0), self.weight, padding=1) + b)


class ConcaveNet(SingleScaleNet):
    """Image classifier on a positive concave equilibrium, with timm's conventions for a vision model.

    Args:
        num_classes: of the classifier; 0 leaves it out.
        in_chans: channels of the images.
        channels: of the state.
        downsample: how often the stem halves the image.
        groups: of group normalization.
        gain: sum of a channel's weights in W at the start, see `ConcaveConv`.
        floor: least injection, above 0: the rate of convergence is certain because of it.
        global_pool: ``avg`` or ``max``; or empty for none, with ``num_classes=0``.

    Raises:
        ValueError: sizes that do not fit one another.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_chans: int = 1,
        channels: int = 32,
        downsample: int = 1,
        groups: int = 8,
        gain: float = 1.0,
        floor: float = 1e-2,
        global_pool: str = "avg",
    ) -> None:
        if not 0 < floor < math.inf:
            raise ValueError(f"floor must be above 0; got {floor}.")
        super().__init__(in_chans, channels, downsample, groups)
        self.floor = floor
        self.finish(ConcaveConv(channels, gain), num_classes, global_pool)

    def equilibrium(self, x: Tensor) -> Tensor:
        """Return the equilibrium (B, channels, H', W') for what the stem gives."""
        b = F.softplus(x) + self.floor
        return self.solve(self.cell, torch.zeros_like(b), args=(b,))
