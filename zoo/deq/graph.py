"""Implicit graph network (IGNN): the states of all nodes are at equilibrium with their neighbors.

    Z = relu(M Z W^T + M X U^T + b),    M the mean over neighbors,    sum_d |W_cd| <= contraction < 1

As ``|M|`` and ``|W|`` are at most 1 and ``contraction`` in the largest absolute value, so is their product: the
equilibrium exists, is unique, and plain iteration finds it at that rate, for any graph. What a node says reaches every
node downstream, however far, where ``k`` layers of a graph convolution end after ``k`` edges.

Reference: Gu, Chang, Zhu, Sojoudi and El Ghaoui, "Implicit graph neural networks", NeurIPS 2020,
https://arxiv.org/abs/2009.06211

What differs from the paper: the bound is part of the map (rows of W that are too large are scaled), not a projection
after each step of the optimizer; neighbors are averaged instead of weighted by both degrees, for which the bound holds
on directed graphs too.

Shape letters: ``B`` graphs, ``N`` nodes, ``F`` features of a node, ``C`` channels of its state.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.implicit import ImplicitMixin
from zoo.layers.graphs import check_graphs, mean_over_neighbours


class IGNN(ImplicitMixin, nn.Module):
    """Implicit graph network that classifies nodes.

    Args:
        num_classes: of the nodes.
        features: of a node, ``F``.
        channels: of its state, ``C``.
        contraction: rate of the map in the largest absolute value, in (0, 1). A message fades by it with each edge.

    Raises:
        ValueError: a size below 1, or a contraction outside (0, 1).
    """

    def __init__(
        self, num_classes: int = 2, features: int = 100, channels: int = 16, contraction: float = 0.98
    ) -> None:
        super().__init__()
        if min(num_classes, features, channels) < 1:
            raise ValueError(
                "An IGNN needs at least one class, feature and channel; got "
                f"num_classes={num_classes}, features={features}, channels={channels}."
            )
        if not 0 < contraction < 1:
            raise ValueError(f"contraction must lie in (0, 1), else no equilibrium is certain; got {contraction}.")
        self.num_classes, self.features, self.contraction = num_classes, features, contraction
        self.weight = nn.Parameter(torch.randn(channels, channels) / channels**0.5)
        self.inject = nn.Linear(features, channels)
        self.norm = nn.LayerNorm(channels)
        self.classifier = nn.Linear(channels, num_classes)
        self.configure_implicit({"name": "picard", "rtol": 1e-4, "max_steps": 300}, "implicit")

    def bounded(self) -> Tensor:
        """Return the weight W: rows whose absolute sum is above the contraction are scaled down to it."""
        size = self.weight.abs().sum(1, keepdim=True)
        return self.weight * (self.contraction / size.clamp_min(self.contraction))

    def equilibrium(self, nodes: Tensor, adjacency: Tensor) -> Tensor:
        """Return states (B, N, C) of nodes (B, N, F) in graphs (B, N, N)."""
        adjacency = check_graphs(nodes, adjacency, self.features)
        mean, w = mean_over_neighbours(adjacency), self.bounded()
        # a node hears itself in what is injected, so that it needs no edge to itself to know its own features
        x = self.inject(nodes + mean @ nodes)
        return self.solve(lambda z, m, x: F.relu(m @ z @ w.T + x), torch.zeros_like(x), args=(mean, x))

    def forward(self, nodes: Tensor, adjacency: Tensor) -> Tensor:
        """Return logits (B, N, num_classes); ``adjacency[b, i, j]`` is above 0 where ``j`` speaks to ``i``."""
        return self.classifier(self.norm(self.equilibrium(nodes, adjacency)))
