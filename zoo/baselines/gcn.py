"""Graph convolutional network: the explicit twin of the implicit graph network.

    Z_{k+1} = relu((Z_k + M Z_k) W_k^T + b_k),    M the mean over neighbors

A node knows of the nodes at most ``layers`` edges away.

Reference: Kipf and Welling, "Semi-supervised classification with graph convolutional networks", 2017,
https://arxiv.org/abs/1609.02907
"""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.layers.graphs import check_graphs, mean_over_neighbours


class GCN(nn.Module):
    """Graph convolutional network that classifies nodes.

    Args:
        num_classes: of the nodes.
        features: of a node.
        channels: of its state.
        layers: graph convolutions, at least 1.
    """

    def __init__(self, num_classes: int = 2, features: int = 100, channels: int = 16, layers: int = 2) -> None:
        super().__init__()
        if min(num_classes, features, channels, layers) < 1:
            raise ValueError(
                "A GCN needs at least one class, feature, channel and layer; got "
                f"num_classes={num_classes}, features={features}, channels={channels}, layers={layers}."
            )
        self.num_classes, self.features = num_classes, features
        sizes = [features, *[channels] * layers]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.norm = nn.LayerNorm(channels)
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, nodes: Tensor, adjacency: Tensor) -> Tensor:
        """Return logits (B, N, num_classes) of nodes (B, N, features) in graphs (B, N, N)."""
        mean = mean_over_neighbours(check_graphs(nodes, adjacency, self.features))
        z = nodes
        for layer in self.layers:
            z = F.relu(layer(z + mean @ z))
        return self.classifier(self.norm(z))
