"""Static hypernetworks: the kernels of an image network are written by a small network from learned embeddings.

    K_j = g(z_j)        for every tile j of every kernel, with one g for all

Weights are shared softly between layers: what is trained per tile is an embedding of a few numbers. The first
convolution, biases, normalizations and the classifier remain ordinary parameters.

Reference: Ha, Dai and Le, "HyperNetworks", ICLR 2017, https://arxiv.org/abs/1609.09106, sections 3.1, 4.1 and 4.2.
What differs: `zoo.hypernet.generators.tiles.Tiles` starts its kernels at the size that their own initialization has.
"""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

from torch import Tensor

from zoo.hypernet.generators.base import Generator
from zoo.hypernet.hypernetwork import HyperNetwork
from zoo.hypernet.target import HyperTarget
from zoo.layers.convnet import ConvNet, NetClassifier, WideResNet
from zoo.layers.head import check_images


class TiledClassifier(NetClassifier):
    """A classifier on a network whose kernels are tiles, written by one generator without a code.

    Args:
        net: the network.
        select: the kernels to write.
        tile: channels of a tile, in and out.
        embedding: length of a tile's embedding z.
        num_classes, in_chans, dropout, global_pool: see `HyperCNN`.
    """

    def __init__(
        self,
        net: ConvNet | WideResNet,
        select: str,
        tile: int,
        embedding: int,
        num_classes: int,
        in_chans: int,
        dropout: float,
        global_pool: str,
    ) -> None:
        target = HyperTarget(net, select)
        kind = {"name": "tiles", "outputs": tile, "inputs": tile, "embedding": embedding}
        features = HyperNetwork(target, Generator(target, 0, kind, base="none"))
        super().__init__(net, features, "target.module.", num_classes, in_chans, dropout, global_pool)

    def forward_features(self, images: Tensor) -> Tensor:
        """Return the last map of images (B, in_chans, H, W)."""
        check_images(images, self.in_chans)
        return self.features(None, images)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Warn, as the blocks cannot be run again: their kernels are there in the forward pass alone."""
        if enable:
            warnings.warn(
                f"set_grad_checkpointing changes nothing: the kernels of {type(self).__name__} are generated, and gone "
                "when a block would run again.",
                stacklevel=2,
            )


class HyperCNN(TiledClassifier):
    """The CNN for MNIST whose second kernel, 12,544 weights, comes from 4 numbers and 4,240 parameters.

    Args:
        num_classes: of the classifier; 0 leaves it out.
        in_chans: channels of the images.
        channels, kernel, grid: of `zoo.layers.convnet.ConvNet`; the generated kernel is one tile.
        embedding: length of the kernel's embedding z.
        dropout: probability of dropping features before the classifier.
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
        net = ConvNet(in_chans, channels, kernel, grid)
        super().__init__(net, "conv2.weight", channels, embedding, num_classes, in_chans, dropout, global_pool)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return timm's grouping of parameters by depth: the first convolution, the second, the rest."""
        return {
            "stem": r"^features\.target\.module\.conv1",
            "blocks": [(r"^features\.(?:target\.module\.conv2|generator)", None)],
        }


class HyperWideResNet(TiledClassifier):
    """Wide residual network whose 3x3 kernels after the stem are tiles of 16 x 16 channels, all written by one g.

    Args:
        num_classes: of the classifier; 0 leaves it out.
        in_chans: channels of the images.
        depth, width: of `zoo.layers.convnet.WideResNet`.
        embedding: length of a tile's embedding z.
        dropout: probability of dropping pooled features before the classifier.
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
        net = WideResNet(in_chans, depth, width)
        super().__init__(net, "blocks.*.conv?.weight", 16, embedding, num_classes, in_chans, dropout, global_pool)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return timm's grouping of parameters by depth: the stem, the blocks, the rest and the generator."""
        module = r"^features\.target\.module"
        return {"stem": rf"{module}\.stem", "blocks": [(rf"{module}\.blocks\.(\d+)", None)]}
