"""What every image classifier offers: timm's conventions for a head on a feature map."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn


class ImageClassifier:
    """Beside ``nn.Module``: pooling, a linear classifier that can be put anew, and ``forward`` out of the two halves.

    A model sets ``in_chans`` and ``num_features``, calls `reset_classifier` at the end of its ``__init__`` and writes
    ``forward_features``: images (B, in_chans, H, W) to a feature map (B, num_features, H', W').

    Attributes:
        num_classes, global_pool: of the present classifier.
        head_dropout: probability with which a pooled feature is dropped before the classifier.
        first_conv: where the convolution lies that meets the images.
    """

    in_chans: int
    num_features: int
    num_classes: int
    global_pool: str = "avg"
    head_dropout: float = 0.0
    first_conv: ClassVar[str] = "stem.0"
    classifier: nn.Module

    def get_classifier(self) -> nn.Module:
        """The last linear layer, or an identity where there is none."""
        return self.classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a new classifier on the features; 0 classes for the features themselves."""
        pool = self.global_pool if global_pool is None else global_pool
        if pool not in ("avg", "max", ""):
            raise ValueError(f"global_pool must be 'avg', 'max' or '' for none; got {pool!r}.")
        if num_classes < 0 or (num_classes and not pool):
            raise ValueError(
                f"A classifier of {num_classes} classes with global_pool={pool!r} cannot be: give num_classes=0 for "
                "unpooled features, or global_pool='avg'."
            )
        self.num_classes, self.global_pool = num_classes, pool
        like = next(self.parameters())  # type: ignore[attr-defined]
        self.classifier = nn.Identity()
        if num_classes:
            self.classifier = nn.Linear(self.num_features, num_classes, device=like.device, dtype=like.dtype)

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool a feature map and, unless ``pre_logits``, classify it: (B, num_classes)."""
        if self.global_pool:
            features = features.mean((2, 3)) if self.global_pool == "avg" else features.amax((2, 3))
        if pre_logits:
            return features
        return self.classifier(F.dropout(features, self.head_dropout, self.training))  # type: ignore[attr-defined]

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, num_classes) of images (B, in_chans, H, W)."""
        return self.forward_head(self.forward_features(images))  # type: ignore[attr-defined]


def check_images(images: Tensor, in_chans: int) -> None:
    """Raise ValueError for anything but a batch of images with ``in_chans`` channels, in floating-point numbers."""
    if images.dim() != 4 or images.shape[1] != in_chans:
        raise ValueError(
            f"Expected images of shape (B, {in_chans}, H, W); got {tuple(images.shape)}. Create the model with "
            "in_chans as many as the channels of the images, or convert the images."
        )
    if not images.is_floating_point():
        raise ValueError(
            f"Expected images in floating-point numbers; got {images.dtype}. Convert them as in training: "
            "images.float() / 255, less the mean, by the standard deviation."
        )


def check_finite(images: Tensor) -> None:
    """Raise ValueError for images with NaN or infinite pixels, and name them.

    It waits for the device. But a solver that keeps the best iterate answers NaN with its start, as if all were well;
    and NaN would spoil running statistics for good.
    """
    finite = images.isfinite().flatten(1).all(1)
    if not finite.all():
        bad = (~finite).nonzero().flatten().tolist()
        raise ValueError(
            f"Images {bad[:5]} of this batch of {len(images)} ({len(bad)} in all) hold NaN or infinite pixels. "
            "Check the data and their normalisation (a standard deviation of 0 divides by zero)."
        )
