"""What graph models share: checks, and the mean over neighbors."""

from __future__ import annotations

import torch
from torch import Tensor

UNKNOWN = -1  # the label of nodes that do not count


def mean_over_neighbours(adjacency: Tensor) -> Tensor:
    """Divide rows of an adjacency (B, N, N), ``a_ij > 0`` where ``j`` speaks to ``i``, by their sums; empty ones stay.

    As a matrix it does not enlarge the largest absolute value of what it is applied to.
    """
    return adjacency / adjacency.sum(2, keepdim=True).clamp_min(torch.finfo(adjacency.dtype).tiny)


def check_graphs(nodes: Tensor, adjacency: Tensor, features: int) -> Tensor:
    """Return the adjacency in the nodes' type, whichever it has: whether there is an edge, how many, or their weights.

    Raises:
        ValueError: anything but nodes (B, N, features) and an adjacency (B, N, N) that is not negative, both finite.
    """
    if nodes.dim() != 3 or nodes.shape[2] != features or adjacency.shape != (*nodes.shape[:2], nodes.shape[1]):
        raise ValueError(
            f"Expected nodes of shape (B, N, {features}) and an adjacency of shape (B, N, N); got {tuple(nodes.shape)} "
            f"and {tuple(adjacency.shape)}."
        )
    if not nodes.is_floating_point():
        raise ValueError(f"Features of nodes are floating-point numbers; got {nodes.dtype}. Use nodes.float().")
    adjacency = adjacency.to(nodes.dtype)
    known = nodes.isfinite().flatten(1).all(1)
    if not (known & ((adjacency >= 0) & adjacency.isfinite()).flatten(1).all(1)).all():  # one answer of the device
        if (adjacency < 0).any():
            raise ValueError("The adjacency has negative entries; give the weights of edges, which are at least 0.")
        what = "adjacency" if known.all() else "features"
        raise ValueError(f"The {what} of these graphs hold NaN or infinity. Check the data and their normalization.")
    return adjacency
