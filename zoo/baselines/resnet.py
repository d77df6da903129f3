"""A small residual network: the explicit twin of the equilibrium and ODE image models.

    z_{l+1} = z_l + F_l(z_l)

Reference: He, Zhang, Ren and Sun, "Deep residual learning for image recognition", 2016,
https://arxiv.org/abs/1512.03385. Unlike the published CIFAR networks, a shortcut that changes its size is a 1x1
convolution (their option B), and the numbers of channels are free.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.layers.blocks import Blocks
from zoo.layers.head import ImageClassifier, check_images, halved


class Block(nn.Module):
    """Two 3x3 convolutions with batch normalization around a shortcut."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(c_in, c_out, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(c_out),
            nn.ReLU(),
            nn.Conv2d(c_out, c_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(c_out),
        )
        self.skip: nn.Module = nn.Identity()
        if stride > 1 or c_in != c_out:
            self.skip = nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))

    def forward(self, z: Tensor) -> Tensor:
        return F.relu(self.body(z) + self.skip(z))


class ResNet(ImageClassifier):
    """Residual image classifier, with timm's conventions for a vision model.

    Args:
        num_classes: of the classifier; 0 leaves it out.
        in_chans: channels of the images.
        channels: of each stage; every further stage halves the map.
        depth: blocks in a stage.
        downsample: how often the stem halves the image.
        dropout: probability of dropping pooled features before the classifier.
        global_pool: ``avg`` or ``max``; or empty for none, with ``num_classes=0``.

    Raises:
        ValueError: sizes that cannot be.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_chans: int = 1,
        channels: Sequence[int] = (32, 64),
        depth: int = 2,
        downsample: int = 0,
        dropout: float = 0.0,
        global_pool: str = "avg",
    ) -> None:
        super().__init__()
        if not channels or min(channels) < 1 or min(in_chans, depth) < 1 or downsample < 0 or not 0 <= dropout < 1:
            raise ValueError(
                "A ResNet needs at least one stage of at least one channel, in_chans and depth of at least 1, "
                f"downsample of at least 0 and dropout in [0, 1); got channels={tuple(channels)}, in_chans={in_chans}, "
                f"depth={depth}, downsample={downsample}, dropout={dropout}."
            )
        self.in_chans, self.head_dropout = in_chans, dropout
        self.stem = nn.Sequential()
        for k in range(max(1, downsample)):
            stride = 2 if k < downsample else 1
            self.stem.append(nn.Conv2d(in_chans if k == 0 else channels[0], channels[0], 3, stride, 1, bias=False))
            self.stem.extend([nn.BatchNorm2d(channels[0]), nn.ReLU()])
        self.blocks = Blocks()
        self.feature_info = []
        c = channels[0]
        for i, c_out in enumerate(channels):
            for k in range(depth):
                self.blocks.append(Block(c, c_out, 2 if i and k == 0 else 1))
                c = c_out
            level = {"num_chs": c, "reduction": 2 ** (downsample + i), "module": f"blocks.{len(self.blocks) - 1}"}
            self.feature_info.append(level)
        self.num_features = c
        self.reset_classifier(num_classes, global_pool)

    @staticmethod
    def map_size(size: int, options: Mapping[str, Any]) -> int:
        """Return the side of the last map: the stem halves, and so does every further stage."""
        return halved(size, options["downsample"] + len(options["channels"]) - 1)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return timm's grouping of parameters by depth: the stem, the blocks, the rest."""
        return {"stem": r"^stem", "blocks": [(r"^blocks\.(\d+)", None)]}

    def forward_features(self, images: Tensor) -> Tensor:
        """Return the last state (B, num_features, H, W) of images (B, in_chans, H, W)."""
        check_images(images, self.in_chans)
        return self.blocks(self.stem(images))
