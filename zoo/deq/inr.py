"""Implicit layers for implicit representations: a signal as a function of the place, at equilibrium.

    z = relu(W z + U g(p) + b),    c(p) = V z + v,    g(p) = [cos(2 pi B p), sin(2 pi B p)]

``p`` is a place (a pixel's coordinates), ``c`` what is there (its color), ``B`` random frequencies that stay as they
are drawn. The spectral norm of ``W`` is at most ``contraction`` < 1, so that the equilibrium exists, is unique, and is
found. One layer of weights stands for a network of any depth.

Reference: Huang, Bai and Kolter, "(Implicit)^2: Implicit layers for implicit representations", NeurIPS 2021; Tancik et
al., "Fourier features let networks learn high frequency functions in low dimensional domains", NeurIPS 2020,
https://arxiv.org/abs/2006.10739

What differs from the papers: the spectral norm is bounded by a parametrization; one branch of features.

Shape letters: ``B`` places a batch, ``D`` coordinates, ``C`` channels of the state.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.implicit import ImplicitMixin
from zoo.layers.spectral import spectral_norm


class ImplicitField(ImplicitMixin, nn.Module):
    """An implicit representation of a signal, such as one image, by an equilibrium layer.

    Args:
        features: coordinates of a place.
        targets: values at a place; 3 for a color.
        channels: of the state.
        frequencies: waves of the encoding, each in cosine and sine.
        bandwidth: standard deviation of the frequencies, in periods over a unit of length: the finest detail.
        contraction: bound of the spectral norm of W, in (0, 1).

    Raises:
        ValueError: a size below 1, a bandwidth that is not above 0, or a contraction outside (0, 1).
    """

    def __init__(
        self,
        features: int = 2,
        targets: int = 3,
        channels: int = 128,
        frequencies: int = 64,
        bandwidth: float = 6.0,
        contraction: float = 0.9,
    ) -> None:
        super().__init__()
        if min(features, targets, channels, frequencies) < 1 or not bandwidth > 0 or not 0 < contraction < 1:
            raise ValueError(
                "An ImplicitField needs sizes of at least 1, a bandwidth above 0 and a contraction in (0, 1); got "
                f"features={features}, targets={targets}, channels={channels}, frequencies={frequencies}, "
                f"bandwidth={bandwidth}, contraction={contraction}."
            )
        self.features, self.targets = features, targets
        self.register_buffer("waves", bandwidth * torch.randn(frequencies, features))
        self.inject = nn.Linear(2 * frequencies, channels)
        self.linear = spectral_norm(nn.Linear(channels, channels, bias=False), contraction)
        self.out = nn.Linear(channels, targets)
        self.configure_implicit({"name": "anderson", "rtol": 1e-3, "max_steps": 30}, "implicit")

    def encode(self, places: Tensor) -> Tensor:
        """Return cosines and sines (B, 2 frequencies) of places (B, D)."""
        angle = 2 * math.pi * places @ self.waves.T  # type: ignore[operator]
        return torch.cat([angle.cos(), angle.sin()], 1)

    def forward(self, places: Tensor) -> Tensor:
        """Return values (B, targets) at places (B, features), which lie in [0, 1]."""
        if places.dim() != 2 or places.shape[1] != self.features:
            raise ValueError(f"Expected places of shape (B, {self.features}); got {tuple(places.shape)}.")
        x = self.inject(self.encode(places))
        return self.out(self.solve(lambda z, x: F.relu(self.linear(z) + x), torch.zeros_like(x), args=(x,)))
