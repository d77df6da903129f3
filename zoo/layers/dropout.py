"""Variational dropout: one mask for all evaluations of a map, so that the map has a fixed point at all."""

from __future__ import annotations

import torch
from torch import Tensor


def dropout_mask(like: Tensor, p: float, *shape: int) -> Tensor:
    """Draw a dropout mask, ``m ~ Bernoulli(1 - p) / (1 - p)``, that is then multiplied by hand.

    An implicit model draws its masks once, at the start of ``forward``, and hands them to its map among the batch-first
    arguments of the solve. The map stays a pure function of state and arguments: every evaluation, and the one that
    the gradient crosses, sees the same mask; no module keeps one that could go stale or lie on another device.

    Args:
        like: gives device and dtype.
        p: probability of dropping an entry, in [0, 1).
        *shape: of the mask, batch first; ones where it is shared, as ``B, C, 1, 1`` drops whole channels.

    Raises:
        ValueError: ``p`` is not a probability below 1.

    Reference: Gal and Ghahramani, "A Theoretically Grounded Application of Dropout in Recurrent Neural Networks", 2016,
    https://arxiv.org/abs/1512.05287
    """
    check_probability(p)
    return torch.empty(shape, device=like.device, dtype=like.dtype).bernoulli_(1 - p).div_(1 - p)


def check_probability(p: float) -> None:
    """Raise ValueError where ``p`` is no probability to drop an entry with."""
    if not 0 <= p < 1:
        raise ValueError(f"dropout is the probability of dropping an entry, at least 0 and below 1; got {p}.")
