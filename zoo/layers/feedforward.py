"""The position-wise feed-forward network of a transformer."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.layers.norm import weight_norm


class FeedForward(nn.Module):
    """``F(h) = W2 (m * relu(W1 h + b1)) + b2`` at every place by itself; ``m`` is a dropout mask, or 1.

    Args:
        width: of ``h``.
        inner: of the layer in between.
        normalize: weight normalization of both linear maps.
    """

    def __init__(self, width: int, inner: int, normalize: bool = True) -> None:
        super().__init__()
        self.widen, self.narrow = nn.Linear(width, inner), nn.Linear(inner, width)
        if normalize:
            weight_norm(self.widen)
            weight_norm(self.narrow)

    def forward(self, h: Tensor, mask: Tensor | None = None) -> Tensor:
        inner = F.relu(self.widen(h))
        return self.narrow(inner if mask is None else inner * mask)
