"""Augment and normalize a whole batch of images at once, on tensors, by a random generator it is given.

On two cores a batch costs what one image costs when each is transformed by itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


def shift(x: Tensor, padding: int, random: torch.Generator) -> Tensor:
    """Pad each image with black and crop it at a place of its own; (B, C, H, W) of any dtype."""
    batch, _, height, width = x.shape
    windows = F.pad(x, [padding] * 4).unfold(2, height, 1).unfold(3, width, 1)  # a view: (B, C, 2p+1, 2p+1, H, W)
    dy, dx = torch.randint(0, 2 * padding + 1, (2, batch), generator=random)
    return windows[torch.arange(batch), :, dy, dx]


def flip(x: Tensor, random: torch.Generator) -> Tensor:
    """Mirror every second image, on average, left to right."""
    return torch.where(torch.rand(len(x), 1, 1, 1, generator=random) < 0.5, x.flip(3), x)


@dataclass(frozen=True, kw_only=True)
class ImageTransform:
    """From raw pixels to what a model gets: ``(x / white - mean) / std``, after a random shift and flip.

    Args:
        mean, std: of the training images in [0, 1], for each channel.
        white: the value of a full pixel.
        padding: pixels that an image is shifted by, at most; 0: none.
        mirrored: whether every second image is flipped left to right.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    white: int = 255
    padding: int = 0
    mirrored: bool = False

    def __call__(self, x: Tensor, random: torch.Generator | None = None) -> Tensor:
        """Turn (B, C, H, W) uint8 into float32; without ``random`` the images are only normalized."""
        if random is not None and self.padding:
            x = shift(x, self.padding, random)
        if random is not None and self.mirrored:
            x = flip(x, random)
        mean = torch.tensor(self.mean).view(-1, 1, 1) * self.white
        std = torch.tensor(self.std).view(-1, 1, 1) * self.white
        return (x.float() - mean) / std
