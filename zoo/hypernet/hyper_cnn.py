"""Static hypernetworks: the kernels of an image network are written by a small network from learned embeddings.

    K_j = g(z_j)        for every tile j of every kernel, with one g for all

Weights are shared softly between layers: what is trained per tile is an embedding of a few numbers. The first
convolution, biases, normalisations and the classifier remain ordinary parameters.

Reference: Ha, Dai and Le, "HyperNetworks", ICLR 2017, https://arxiv.org/abs/1609.09106, sections 3.1, 4.1 and 4.2.
What differs: `zoo.hypernet.generators.tiles.Tiles` starts its kernels at the size that their own initialisation has.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from zoo.hypernet.generators.base import Generator
from zoo.hypernet.hypernetwork import HyperNetwork
from zoo.hypernet.target import HyperTarget
from zoo.layers.convnet import ConvNet, WideResNet
from zoo.layers.head import ImageClassifier, check_images


class HyperCNN(ImageClassifier, nn.Module):
    """The CNN for MNIST whose second kernel, 12,544 weights, comes from 4 numbers and 4,240 parameters.

    Args:
        num_classes: of the classifier; 0 leaves it out.
        in_chans: channels of the images.
        channels, kernel, grid: of `zoo.layers.convnet.ConvNet`; the generated kernel is one tile.
        embedding: length of the kernel's embedding z.
        dropout: probability of dropping features in front of the classifier.
        global_pool: ``avg`` or ``max``, over the one pixel that is left; or empty, with ``num_classes=0``.
    """

    first_conv: ClassVar[str] = "features.target.module.conv1"

    def __init__(
        self,
        num_classes: int = 10,
        in_chans: int = 1,
        channels: int = 16,
        kernel: int = 7,
        grid: int = 7,
        embedding: int = 4,
        dropout: float = 0.0,
        global_pool: str = "avg",
    ) -> None:
        super().__init__()
        self.in_chans, self.head_dropout = in_chans, dropout
        net = ConvNet(in_chans, channels, kernel, grid)
        self.num_features = net.num_features
        self.features = _tiled(HyperTarget(net, "conv2.weight"), channels, embedding)
        self.reset_classifier(num_classes, global_pool)

    def forward_features(self, images: Tensor) -> Tensor:
        """Features (B, num_features, 1, 1) of images (B, in_chans, H, W)."""
        check_images(images, self.in_chans)
        return self.features(None, images)


class HyperWideResNet(ImageClassifier, nn.Module):
    """Wide residual network all of whose 3x3 kernels behind the stem are tiles of 16 x 16 channels, written by one g.

    Args:
        num_classes: of the classifier; 0 leaves it out.
        in_chans: channels of the images.
        depth, width: of `zoo.layers.convnet.WideResNet`.
        embedding: length of a tile's embedding z.
        dropout: probability of dropping pooled features in front of the classifier.
        global_pool: ``avg`` or ``max``; or empty for none, with ``num_classes=0``.
    """

    first_conv: ClassVar[str] = "features.target.module.stem"

    def __init__(
        self,
        num_classes: int = 10,
        in_chans: int = 3,
        depth: int = 40,
        width: int = 1,
        embedding: int = 64,
        dropout: float = 0.0,
        global_pool: str = "avg",
    ) -> None:
        super().__init__()
        self.in_chans, self.head_dropout = in_chans, dropout
        net = WideResNet(in_chans, depth, width)
        self.num_features = net.num_features
        self.features = _tiled(HyperTarget(net, "blocks.*.conv?.weight"), 16, embedding)
        self.reset_classifier(num_classes, global_pool)

    def forward_features(self, images: Tensor) -> Tensor:
        """The last map (B, num_features, H / 4, W / 4) of images (B, in_chans, H, W)."""
        check_images(images, self.in_chans)
        return self.features(None, images)


def _tiled(target: HyperTarget, channels: int, embedding: int) -> HyperNetwork:
    kind = {"name": "tiles", "outputs": channels, "inputs": channels, "embedding": embedding}
    return HyperNetwork(target, Generator(target, 0, kind, base="none"))
