"""Multiscale deep equilibrium model for semantic segmentation: one class for every pixel.

The equilibrium ``z = f(z, x)`` is that of `zoo.deq.mdeq`. Its resolutions, brought to the finest by bilinear
interpolation, are stacked, and two 1x1 convolutions classify each place; the scores are interpolated to the image:

    s = up(V2 relu(BN(V1 [z_1, up(z_2), ..., up(z_n)])))

Reference: Bai, Koltun and Kolter, "Multiscale Deep Equilibrium Models", 2020, https://arxiv.org/abs/2006.08656

What differs from the paper: its released code leaves the last interpolation to the loss.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.deq.mdeq import Multiscale, conv


class MDEQSegmentation(Multiscale):
    """Multiscale deep equilibrium model that scores every pixel.

    The defaults are the published SMALL configuration for Cityscapes.

    Args:
        num_classes: of the pixels.
        kernel: of the last convolution, 1 or 3.
        in_chans, channels, expansion, groups, dropout, downsample, weight_norm, post_gn_affine, spectral_bound: see
            `MDEQ`.
        bn_momentum: of batch normalization; as released, since crops of 1024x512 leave room for few images a batch.

    Raises:
        ValueError: sizes that do not fit one another.
    """

    def __init__(
        self,
        num_classes: int = 19,
        in_chans: int = 3,
        channels: Sequence[int] = (32, 64, 128, 256),
        expansion: int = 5,
        groups: int = 8,
        dropout: float = 0.05,
        downsample: int = 2,
        weight_norm: bool = True,
        post_gn_affine: bool = True,
        kernel: int = 1,
        spectral_bound: float = 0.0,
        bn_momentum: float = 0.01,
    ) -> None:
        super().__init__(
            channels,
            expansion,
            groups,
            dropout,
            downsample,
            weight_norm,
            post_gn_affine,
            in_chans,
            bn_momentum,
            spectral_bound,
        )
        if num_classes < 1 or kernel not in (1, 3):
            raise ValueError(f"num_classes must be at least 1 and kernel 1 or 3; got {num_classes} and {kernel}.")
        self.num_classes, self.num_features = num_classes, sum(channels)
        self.head = nn.Sequential(
            conv(self.num_features, self.num_features, 1, bias=True),
            nn.BatchNorm2d(self.num_features, momentum=bn_momentum),
            nn.ReLU(),
            conv(self.num_features, num_classes, kernel, bias=True),
        )

    def forward_features(self, images: Tensor) -> Tensor:
        """Return all resolutions at the size of the finest, stacked: (B, sum of C_i, H_1, W_1)."""
        z = self.equilibrium(images)
        size = z[0].shape[-2:]
        up = [F.interpolate(s, size=size, mode="bilinear", align_corners=True) for s in z[1:]]
        return torch.cat([z[0], *up], dim=1)

    def forward(self, images: Tensor) -> Tensor:
        """Return scores (B, num_classes, H, W) of images (B, in_chans, H, W)."""
        scores = self.head(self.forward_features(images))
        return F.interpolate(scores, size=images.shape[-2:], mode="bilinear", align_corners=True)
