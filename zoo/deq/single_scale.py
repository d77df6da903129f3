"""An image classifier on an equilibrium of one resolution: what the nets with a guaranteed equilibrium share."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from zoo.implicit import ImplicitMixin
from zoo.layers.head import ImageClassifier, check_finite, check_images
from zoo.layers.norm import group_norm
from zoo.layers.stem import stem


class SingleScaleNet(ImplicitMixin, ImageClassifier):
    """``classify(norm(z*))`` with ``z* = f(z*, stem(x))``, solved by plain iteration unless told otherwise.

    A subclass makes its ``cell`` after this class has made the stem, calls `finish`, and writes `equilibrium`.

    Args:
        in_chans: channels of the images.
        channels: of the state.
        downsample: how often the stem halves the image.
        groups: of group normalization.
    """

    def __init__(self, in_chans: int, channels: int, downsample: int, groups: int) -> None:
        super().__init__()
        self.in_chans, self.num_features, self.groups = in_chans, channels, groups
        self.feature_info = [{"num_chs": channels, "reduction": 2**downsample, "module": "norm"}]
        self.stem = stem(in_chans, channels, downsample, groups)

    def finish(self, cell: nn.Module, num_classes: int, global_pool: str) -> None:
        """Make what follows the cell: the normalization and the classifier."""
        self.cell = cell
        self.norm = group_norm(self.groups, self.num_features)
        self.configure_implicit({"name": "picard", "rtol": 1e-3, "max_steps": 60}, "implicit")
        self.reset_classifier(num_classes, global_pool)

    def equilibrium(self, x: Tensor) -> Tensor:
        """Return the equilibrium (B, channels, H', W') of what the stem gives, of the same shape."""
        raise NotImplementedError

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return timm's grouping of parameters by depth: the stem, the one implicit layer, the rest."""
        return {"stem": r"^stem", "blocks": [(r"^cell", None)]}

    def forward_features(self, images: Tensor) -> Tensor:
        """Return the equilibrium, normalized, (B, channels, H', W'), of images (B, in_chans, H, W)."""
        check_images(images, self.in_chans)
        check_finite(images)
        return self.norm(self.equilibrium(self.stem(images)))
