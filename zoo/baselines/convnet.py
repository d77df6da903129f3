"""The plain twins of the static hypernetworks: the same networks, their kernels trained as parameters.

Reference: Ha, Dai and Le, "HyperNetworks", ICLR 2017, https://arxiv.org/abs/1609.09106, tables 1 and 3.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from zoo.layers import convnet
from zoo.layers.head import ImageClassifier, check_images


class CNN(ImageClassifier, nn.Module):
    """Two convolutions and a linear classifier.

    Args:
        num_classes: of the classifier; 0 leaves it out.
        in_chans: channels of the images.
        channels, kernel, grid: of `zoo.layers.convnet.ConvNet`.
        dropout: probability of dropping features in front of the classifier.
        global_pool: ``avg`` or ``max``, over the one pixel that is left; or empty, with ``num_classes=0``.
    """

    first_conv: ClassVar[str] = "features.conv1"

    def __init__(
        self,
        num_classes: int = 10,
        in_chans: int = 1,
        channels: int = 16,
        kernel: int = 7,
        grid: int = 7,
        dropout: float = 0.0,
        global_pool: str = "avg",
    ) -> None:
        super().__init__()
        self.in_chans, self.head_dropout = in_chans, dropout
        self.features = convnet.ConvNet(in_chans, channels, kernel, grid)
        self.num_features = self.features.num_features
        self.reset_classifier(num_classes, global_pool)

    def forward_features(self, images: Tensor) -> Tensor:
        """Features (B, num_features, 1, 1) of images (B, in_chans, H, W)."""
        check_images(images, self.in_chans)
        return self.features(images)


class WideResNet(ImageClassifier, nn.Module):
    """Wide residual network: pooled features, linear classifier.

    Args:
        num_classes: of the classifier; 0 leaves it out.
        in_chans: channels of the images.
        depth, width: of `zoo.layers.convnet.WideResNet`.
        dropout: probability of dropping pooled features in front of the classifier.
        global_pool: ``avg`` or ``max``; or empty for none, with ``num_classes=0``.
    """

    first_conv: ClassVar[str] = "features.stem"

    def __init__(
        self,
        num_classes: int = 10,
        in_chans: int = 3,
        depth: int = 40,
        width: int = 1,
        dropout: float = 0.0,
        global_pool: str = "avg",
    ) -> None:
        super().__init__()
        self.in_chans, self.head_dropout = in_chans, dropout
        self.features = convnet.WideResNet(in_chans, depth, width)
        self.num_features = self.features.num_features
        self.reset_classifier(num_classes, global_pool)

    def forward_features(self, images: Tensor) -> Tensor:
        """The last map (B, num_features, H / 4, W / 4) of images (B, in_chans, H, W)."""
        check_images(images, self.in_chans)
        return self.features(images)
