"""Dense prediction on images of any size: the whole image, padded as the model needs it, or window by window."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor


def whole(model: Callable[[Tensor], Tensor], images: Tensor, unit: int) -> Tensor:
    """Score images (B, C, H, W), (B, K, H, W), padded below and beside by edge pixels to multiples of ``unit``."""
    height, width = images.shape[-2:]
    below, beside = -height % unit, -width % unit
    scores = model(F.pad(images, (0, beside, 0, below), mode="replicate") if below or beside else images)
    return scores[..., :height, :width]


def sliding(model: Callable[[Tensor], Tensor], images: Tensor, window: int, overlap: float = 0.5) -> Tensor:
    """Return scores (B, K, H, W): the mean over the square windows that see a pixel.

    The windows lie at most ``(1 - overlap) * window`` apart and cover the image; the last of a row or column ends at
    its edge. An image smaller than a window is padded to it. Memory is that of one window, whatever the image's size.

    Args:
        model: from images of the window's size to scores of the same size.
        images: (B, C, H, W).
        window: side of a window; a size that the model takes.
        overlap: share of a window that its neighbor sees too, in [0, 1).

    Raises:
        ValueError: a window below 1, or an overlap outside [0, 1).
    """
    if window < 1 or not 0 <= overlap < 1:
        raise ValueError(f"A window has at least 1 pixel and an overlap in [0, 1); got {window} and {overlap}.")
    height, width = images.shape[-2:]
    below, beside = max(0, window - height), max(0, window - width)
    padded = F.pad(images, (0, beside, 0, below), mode="replicate") if below or beside else images
    stride = max(1, round((1 - overlap) * window))
    total, seen = None, None
    for top in _starts(padded.shape[-2], window, stride):
        for left in _starts(padded.shape[-1], window, stride):
            scores = model(padded[..., top : top + window, left : left + window])
            if total is None or seen is None:
                total = scores.new_zeros(*scores.shape[:2], *padded.shape[-2:])
                seen = scores.new_zeros(1, 1, *padded.shape[-2:])
            total[..., top : top + window, left : left + window] += scores
            seen[..., top : top + window, left : left + window] += 1
    assert total is not None and seen is not None
    return (total / seen)[..., :height, :width]


def _starts(size: int, window: int, stride: int) -> list[int]:
    last = size - window
    return sorted({*range(0, last, stride), last})
