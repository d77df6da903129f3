"""The backbone of few-shot learning: four convolutions."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from zoo.layers.norm import group_norm


class Conv4(nn.Module):
    """Four 3x3 convolutions, each with a norm and a ReLU; the mean over positions is the feature.

    As in MAML's network for Omniglot the convolutions have a stride of 2 in place of pooling. ``batch`` normalizes
    by the statistics of the images that are given together, in training and evaluation alike: what few-shot papers do,
    and *transductive*, as the images of a query then help one another. ``group`` looks at one image alone.

    Args:
        in_chans: channels of the images.
        channels: of every convolution, and the width of the feature.
        downsample: how many of the convolutions, from the first, halve the image.
        norm: ``group`` or ``batch``.
        groups: of group normalization, at most.

    Raises:
        ValueError: an argument is out of its range.

    Reference: Finn, Abbeel, Levine, "Model-agnostic meta-learning for fast adaptation of deep networks", ICML 2017.
    """

    def __init__(
        self,
        in_chans: int = 1,
        channels: int = 64,
        downsample: int = 4,
        norm: Literal["group", "batch"] = "group",
        groups: int = 4,
    ) -> None:
        super().__init__()
        if in_chans < 1 or channels < 1 or not 0 <= downsample <= 4:
            raise ValueError(
                "Conv4 needs at least one channel, in_chans of at least 1 and downsample between 0 and 4; got "
                f"channels={channels}, in_chans={in_chans}, downsample={downsample}."
            )
        if norm not in ("group", "batch"):
            raise ValueError(f"Conv4: norm must be 'group' or 'batch'; got {norm!r}.")
        self.in_chans, self.width, self.norm = in_chans, channels, norm
        blocks: list[nn.Module] = []
        for i in range(4):
            stride = 2 if i < downsample else 1
            batch = nn.BatchNorm2d(channels, track_running_stats=False)
            blocks += [
                nn.Conv2d(channels if i else in_chans, channels, 3, stride, 1),
                batch if norm == "batch" else group_norm(groups, channels),
                nn.ReLU(),
            ]
        self.blocks = nn.Sequential(*blocks)

    def forward(self, images: Tensor) -> Tensor:
        """Return features (B, channels) of images (B, in_chans, H, W)."""
        return self.blocks(images).mean((-2, -1))
