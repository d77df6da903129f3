"""Two image networks without their classifiers, for those that train them and those that generate their kernels.

B samples, images (B, in_chans, H, W); both return feature maps (B, num_features, H', W').
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.layers.blocks import Blocks
from zoo.layers.head import ImageClassifier, check_images, halved


class ConvNet(nn.Module):
    """Two convolutions that keep the size, each followed by a ReLU and a pooling by 2; the map as one long vector.

    The network of Ha, Dai and Le, 2016, section 4.1, on MNIST; unlike there, the last map is brought to ``grid``, so
    that other sizes of images pass too (at 28x28 with grid 7, nothing changes).

    Args:
        in_chans: channels of the images.
        channels: of both convolutions.
        kernel: their side, odd.
        grid: the map that is flattened has grid x grid pixels.

    Raises:
        ValueError: sizes that cannot be.
    """

    def __init__(self, in_chans: int = 1, channels: int = 16, kernel: int = 7, grid: int = 7) -> None:
        super().__init__()
        if min(in_chans, channels, kernel, grid) < 1 or kernel % 2 == 0:
            raise ValueError(
                "in_chans, channels, kernel and grid must be at least 1, and kernel odd; got "
                f"{in_chans}, {channels}, {kernel}, {grid}."
            )
        self.conv1 = nn.Conv2d(in_chans, channels, kernel, padding=kernel // 2)
        self.conv2 = nn.Conv2d(channels, channels, kernel, padding=kernel // 2)
        self.pool1, self.pool2, self.pool = nn.MaxPool2d(2), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(grid)
        self.num_features = channels * grid**2
        self.feature_info = [{"num_chs": channels, "reduction": 2**k, "module": f"pool{k}"} for k in (1, 2)]

    def forward(self, images: Tensor) -> Tensor:
        """Return the features (B, num_features, 1, 1)."""
        z = self.pool2(F.relu(self.conv2(self.pool1(F.relu(self.conv1(images))))))
        return self.pool(z).flatten(1)[..., None, None]


class WideBlock(nn.Module):
    """``z + conv2(relu(bn2(conv1(relu(bn1(z))))))``; a shortcut that changes its size has no parameters."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(c_in)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, padding=1)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.stride, self.extra = stride, c_out - c_in

    def forward(self, z: Tensor) -> Tensor:
        f = self.conv2(F.relu(self.bn2(self.conv1(F.relu(self.bn1(z))))))
        return f + F.pad(z[..., :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra))


class WideResNet(nn.Module):
    """Wide residual network with normalization before the convolutions; 16 width, 32 width, 64 width channels.

    Its shortcuts pad with channels of zeros and its convolutions have biases. Of the forms that were counted (shortcuts
    padded or convolved, with and without biases), this one alone has the counts of Ha, Dai and Le: 0.563M and 2.235M
    parameters for WRN 40-1 and 40-2 (0.563M and 2.236M published), 97k and 148k with generated kernels.

    Args:
        in_chans: channels of the images.
        depth: 6 n + 4, for n blocks in each of the three stages.
        width: multiplies the channels of the stages.

    Raises:
        ValueError: a depth that is not 6 n + 4, or sizes below 1.

    Reference: Zagoruyko and Komodakis, "Wide residual networks", 2016, https://arxiv.org/abs/1605.07146.
    """

    def __init__(self, in_chans: int = 3, depth: int = 40, width: int = 1) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f"A wide residual network has a depth of 10, 16, 22, 28, 34, 40, ...; got {depth}.")
        if min(in_chans, width) < 1:
            raise ValueError(f"in_chans and width must be at least 1; got {in_chans} and {width}.")
        self.stem = nn.Conv2d(in_chans, 16, 3, padding=1)
        self.blocks = Blocks()
        self.feature_info = []
        c = 16
        for stage, c_out in enumerate((16 * width, 32 * width, 64 * width)):
            for k in range((depth - 4) // 6):
                self.blocks.append(WideBlock(c, c_out, 2 if stage and k == 0 else 1))
                c = c_out
            level = {"num_chs": c, "reduction": 2**stage, "module": f"blocks.{len(self.blocks) - 1}"}
            self.feature_info.append(level)
        self.norm = nn.BatchNorm2d(c)
        self.num_features = c
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Return the last map (B, num_features, H / 4, W / 4)."""
        return F.relu(self.norm(self.blocks(self.stem(images))))


class NetClassifier(ImageClassifier):
    """An image classifier on one of the two networks, whose weights are trained or generated.

    Args:
        net: the network.
        features: what is called: the network itself, or a hypernetwork around it.
        prefix: where the network lies in ``features``, with a dot at the end; empty for the network itself.
        num_classes, in_chans, dropout, global_pool: see `zoo.baselines.convnet.CNN`.
    """

    def __init__(
        self,
        net: ConvNet | WideResNet,
        features: nn.Module,
        prefix: str,
        num_classes: int,
        in_chans: int,
        dropout: float,
        global_pool: str,
    ) -> None:
        super().__init__()
        self.in_chans, self.num_features, self.head_dropout = in_chans, net.num_features, dropout
        self.features = features
        self.feature_info = [{**level, "module": f"features.{prefix}{level['module']}"} for level in net.feature_info]
        self.reset_classifier(num_classes, global_pool)

    @staticmethod
    def map_size(size: int, options: Mapping[str, Any]) -> int:
        """Return 1 for a `ConvNet`, whose map is one long vector; a quarter of the size for a `WideResNet`."""
        return halved(size, 2) if "depth" in options else 1

    def forward_features(self, images: Tensor) -> Tensor:
        """Return the last map of images (B, in_chans, H, W)."""
        check_images(images, self.in_chans)
        return self.features(images)
