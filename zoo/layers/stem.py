"""The convolutions before an image model's equilibrium."""

from __future__ import annotations

from torch import nn

from zoo.layers.norm import group_norm


def stem(in_chans: int, channels: int, downsample: int, groups: int) -> nn.Sequential:
    """Return a normalized 3x3 convolution, then ``downsample`` times a rectifier and one that halves the image.

    Raises:
        ValueError: fewer than one channel, or a negative ``downsample``.
    """
    if channels < 1 or in_chans < 1 or downsample < 0:
        raise ValueError(
            "An image model needs at least one channel, in_chans of at least 1 and downsample of at least 0; got "
            f"channels={channels}, in_chans={in_chans}, downsample={downsample}."
        )
    layers = nn.Sequential(nn.Conv2d(in_chans, channels, 3, padding=1), group_norm(groups, channels))
    for _ in range(downsample):
        down = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        layers.extend([nn.ReLU(), down, group_norm(groups, channels)])
    return layers
