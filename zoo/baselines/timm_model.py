"""Any classifier of timm, fitted to small images: the explicit baseline by name.

Timm's models expect images of 224x224; at 8x8 or 28x28 a residual network's stem alone would leave a single pixel.
"""

from __future__ import annotations

from typing import Any

import timm
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.registry import UnknownName, unknown


class Timm(nn.Module):
    """A model of timm, with random weights, for images as small as 8x8.

    * A residual network's stem (a 7x7 convolution of stride 2 and a pooling) becomes one 3x3 convolution of stride 1,
      as is usual for CIFAR-10.
    * A model of a fixed image size (a vision transformer) is built for ``size`` pixels in an 8x8 grid of patches.
    * Any other gets images enlarged to ``size`` pixels, where they are smaller.

    Args:
        num_classes: of the classifier; 0 leaves it out.
        in_chans: channels of the images.
        arch: timm's name of the architecture.
        small: fit it to small images; False: as timm has it.
        size: pixels that images are enlarged to, for the models that need it.

    Raises:
        UnknownName: timm has no such architecture; the nearest is named.
    """

    net: Any  # of any of timm's classes

    def __init__(
        self, num_classes: int = 10, in_chans: int = 3, arch: str = "resnet18", small: bool = True, size: int = 32
    ) -> None:
        super().__init__()
        if not timm.is_model(arch):
            near = [n for n in timm.list_models() if n[:4] == arch[:4]][:20] or ["resnet18", "vit_tiny_patch16_224"]
            raise UnknownName(unknown("timm model", arch, near))
        options: dict[str, Any] = {}
        config = timm.get_pretrained_cfg(arch)
        fixed = bool(config and config.fixed_input_size)
        self.in_chans, self.arch, self.enlarge = in_chans, arch, 0
        if small and fixed:
            options, self.enlarge = {"img_size": size, "patch_size": max(1, size // 8)}, size
        self.net = timm.create_model(arch, num_classes=num_classes, in_chans=in_chans, **options)
        if small and not fixed and not self._small_stem():
            self.enlarge = size
        self.fixed = fixed
        self.num_features = int(self.net.num_features)
        self.num_classes = num_classes

    def _small_stem(self) -> bool:
        first, pool = getattr(self.net, "conv1", None), getattr(self.net, "maxpool", None)
        if not isinstance(first, nn.Conv2d) or pool is None:
            return False
        self.net.conv1 = nn.Conv2d(first.in_channels, first.out_channels, 3, padding=1, bias=first.bias is not None)
        nn.init.kaiming_normal_(self.net.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.net.maxpool = nn.Identity()
        return True

    def get_classifier(self) -> nn.Module:
        """Return the last linear layer, or an identity where there is none."""
        return self.net.get_classifier()

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a new classifier on the features; 0 classes for the features themselves."""
        self.net.reset_classifier(num_classes, *([] if global_pool is None else [global_pool]))
        self.num_classes = num_classes

    def forward_features(self, images: Tensor) -> Tensor:
        """Return what timm's model makes of the images before pooling."""
        if images.dim() != 4 or images.shape[1] != self.in_chans:
            raise ValueError(
                f"Expected images of shape (B, {self.in_chans}, H, W); got {tuple(images.shape)}. Create the model "
                "with in_chans as many as the channels of the images, or convert the images."
            )
        small = min(images.shape[-2:]) < self.enlarge
        if small or (self.fixed and tuple(images.shape[-2:]) != (self.enlarge, self.enlarge) and self.enlarge):
            images = F.interpolate(images, (self.enlarge, self.enlarge), mode="bilinear", antialias=True)
        return self.net.forward_features(images)

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool and, unless ``pre_logits``, classify: (B, num_classes)."""
        return self.net.forward_head(features, pre_logits=pre_logits)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B, num_classes) of images (B, in_chans, H, W)."""
        return self.forward_head(self.forward_features(images))
