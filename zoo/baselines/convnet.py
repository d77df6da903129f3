"""The plain twins of the static hypernetworks: the same networks, their kernels trained as parameters.

Reference: Ha, Dai and Le, "HyperNetworks", ICLR 2017, https://arxiv.org/abs/1609.09106, tables 1 and 3.
"""

from __future__ import annotations

from typing import Any, ClassVar

from zoo.layers import convnet


class CNN(convnet.NetClassifier):
    """Two convolutions and a linear classifier.

    Args:
        num_classes: of the classifier; 0 leaves it out.
        in_chans: channels of the images.
        channels, kernel, grid: of `zoo.layers.convnet.ConvNet`.
        dropout: probability of dropping features before the classifier.
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
        net = convnet.ConvNet(in_chans, channels, kernel, grid)
        super().__init__(net, net, "", num_classes, in_chans, dropout, global_pool)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return timm's grouping of parameters by depth: the first convolution, the second, the rest."""
        return {"stem": r"^features\.conv1", "blocks": [(r"^features\.conv2", None)]}


class WideResNet(convnet.NetClassifier):
    """Wide residual network: pooled features, linear classifier.

    Args:
        num_classes: of the classifier; 0 leaves it out.
        in_chans: channels of the images.
        depth, width: of `zoo.layers.convnet.WideResNet`.
        dropout: probability of dropping pooled features before the classifier.
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
        net = convnet.WideResNet(in_chans, depth, width)
        super().__init__(net, net, "", num_classes, in_chans, dropout, global_pool)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return timm's grouping of parameters by depth: the stem, the blocks, the rest."""
        return {"stem": r"^features\.stem", "blocks": [(r"^features\.blocks\.(\d+)", None)]}
