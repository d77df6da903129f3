"""What every image classifier offers: timm's conventions for a head on a feature map."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.adjoints.checkpoint import Checkpoint
from zoo.adjoints.unroll import Unroll
from zoo.implicit import implicit_layers
from zoo.layers.blocks import Blocks
from zoo.layers.intermediates import captured, take
from zoo.solvers.ode.base import ODESolver


class ImageClassifier(nn.Module, ABC):
    """Pooling, a linear classifier that can be replaced, and ``forward`` out of the two halves.

    A model sets ``in_chans``, ``num_features`` and ``feature_info``, calls `reset_classifier` at the end of its
    ``__init__`` and writes ``forward_features``: images (B, in_chans, H, W) to a feature map (B, num_features, H', W').

    Attributes:
        num_classes, global_pool: of the present classifier.
        head_dropout: probability with which a pooled feature is dropped before the classifier.
        first_conv: name of the convolution that meets the images.
        feature_info: for each level of `forward_intermediates` its channels (``num_chs``), how many times smaller than
            the image it is (``reduction``), and the module that gives it.
    """

    in_chans: int
    num_features: int
    num_classes: int
    global_pool: str = "avg"
    head_dropout: float = 0.0
    first_conv: ClassVar[str] = "stem.0"
    feature_info: Sequence[Mapping[str, Any]] = ()
    classifier: nn.Module

    @staticmethod
    def map_size(size: int, options: Mapping[str, Any]) -> int:
        """Return the side of the feature map of images of side ``size``, for a model of these ``options``."""
        return halved(size, options["downsample"])

    @property
    def head_hidden_size(self) -> int:
        """Width of what the classifier reads."""
        return self.num_features

    def get_classifier(self) -> nn.Module:
        """Return the last linear layer, or an identity where there is none."""
        return self.classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a new classifier on the features; 0 classes for the features themselves.

        Raises:
            ValueError: another pooling than ``avg``, ``max`` or ``""`` for none, or classes without pooling.
        """
        pool = self.global_pool if global_pool is None else global_pool
        if pool not in ("avg", "max", ""):
            raise ValueError(f"global_pool must be 'avg', 'max' or '' for none; got {pool!r}.")
        if num_classes < 0 or (num_classes and not pool):
            raise ValueError(
                f"A classifier of {num_classes} classes with global_pool={pool!r} cannot be: give num_classes=0 for "
                "unpooled features, or global_pool='avg'."
            )
        self.num_classes, self.global_pool = num_classes, pool
        like = next(self.parameters())
        self.classifier = nn.Identity()
        if num_classes:
            self.classifier = nn.Linear(self.num_features, num_classes, device=like.device, dtype=like.dtype)

    @abstractmethod
    def forward_features(self, images: Tensor) -> Tensor:
        """Return the feature map (B, num_features, H', W') of images (B, in_chans, H, W)."""

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool a feature map and, unless ``pre_logits``, classify it: (B, num_classes)."""
        if self.global_pool:
            features = features.mean((2, 3)) if self.global_pool == "avg" else features.amax((2, 3))
        if pre_logits:
            return features
        return self.classifier(F.dropout(features, self.head_dropout, self.training))

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B, num_classes) of images (B, in_chans, H, W)."""
        return self.forward_head(self.forward_features(images))

    def forward_intermediates(
        self,
        images: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> tuple[Tensor, list[Tensor]] | list[Tensor]:
        """Return the feature map and the levels of ``feature_info``, (B, C_i, H_i, W_i) each, as timm's models do.

        Args:
            images: (B, in_chans, H, W).
            indices: which levels, negative ones from the end; a number: that many of the last; None: all.
            norm: without effect, as the levels of these models take no further normalization.
            stop_early: with ``intermediates_only``, compute nothing beyond the last level that is asked for.
            output_fmt: ``NCHW``, or ``NHWC`` for channels last.
            intermediates_only: return the levels alone.

        Raises:
            ValueError: a level that the model has not, or another format.
        """
        if output_fmt not in ("NCHW", "NHWC"):
            raise ValueError(f"output_fmt must be 'NCHW' or 'NHWC'; got {output_fmt!r}.")
        wanted = take(len(self.feature_info), indices, type(self).__name__)
        features, maps = self._levels(images, wanted, stop_early and intermediates_only)
        maps = [m.movedim(1, -1) for m in maps] if output_fmt == "NHWC" else maps
        if intermediates_only:
            return maps
        assert features is not None
        return features, maps

    def _levels(self, images: Tensor, wanted: list[int], stop: bool) -> tuple[Tensor | None, list[Tensor]]:
        names = [str(self.feature_info[i]["module"]) for i in wanted]
        return captured(self, names, lambda: self.forward_features(images), stop)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] | None = None, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop the classifier, which no level needs, as timm's ``features_only`` asks; return the levels taken."""
        wanted = take(len(self.feature_info), indices, type(self).__name__)
        if prune_head:
            self.reset_classifier(0)
        return wanted

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute activations in the backward pass instead of keeping them, where that saves memory.

        That is: the blocks of an explicit network, and the time steps of an ODE whose adjoint is ``unroll`` (it becomes
        ``checkpoint``). Gradients stay the same. The other adjoints keep no steps of a solve anyway; then a warning
        says that nothing has changed.
        """
        changed = False
        for module in self.modules():
            if isinstance(module, Blocks):
                module.recompute, changed = enable, True
        layers = implicit_layers(self)
        for layer in layers:
            if isinstance(layer.solver, ODESolver) and isinstance(layer.adjoint, Unroll | Checkpoint):
                layer.configure_implicit(adjoint="checkpoint" if enable else "unroll")
                changed = True
        if enable and not changed:
            name = type(self).__name__
            if not layers:
                why = f"{name} has no blocks that can be run again"
            elif isinstance(layers[0].adjoint, Unroll):
                why = f"{name} unrolls its solve, which keeps every step: take the adjoint 'implicit'"
            else:
                why = f"the adjoint of {name} keeps no steps of the solve, so that memory is constant already"
            warnings.warn(f"set_grad_checkpointing changes nothing: {why}.", stacklevel=2)


def halved(size: int, times: int) -> int:
    """Return the side of a map after ``times`` convolutions of stride 2 that round up."""
    return -(-size // 2**times)


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
    if torch.compiler.is_exporting():  # a program says of them that they have not converged
        return
    finite = images.isfinite().flatten(1).all(1)
    if not finite.all():
        bad = (~finite).nonzero().flatten().tolist()
        raise ValueError(
            f"Images {bad[:5]} of this batch of {len(images)} ({len(bad)} in all) hold NaN or infinite pixels. "
            "Check the data and their normalization (a standard deviation of 0 divides by zero)."
        )
