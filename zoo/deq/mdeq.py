"""Multiscale deep equilibrium model (MDEQ) for images.

The state is one feature map a resolution, ``z = (z_1, ..., z_n)``, each half as large as the one before; all of them
are at equilibrium together, ``z = f(z, x)``. One evaluation of ``f`` is a residual block on each resolution, then a
fusion of every resolution into every other:

    r_i = GN(relu(GN(m_i * W2_i relu(GN(W1_i z_i)) + x_i) + z_i))       x_1 the injected image, x_i = 0 below
    f_i = GN(V_i relu(sum_j T_ij r_j))                                  T_ii = 1, else strided or 1x1 convolutions

``GN`` is group normalization, ``m_i`` a dropout mask over channels that stays fixed for the whole solve, ``W1, W2, V``
are weight-normalized. The image is injected through a stem of convolutions; the solve starts at ``z = 0``.

Reference: Bai, Koltun and Kolter, "Multiscale Deep Equilibrium Models", 2020, https://arxiv.org/abs/2006.08656

What differs from the paper: the details follow the code released by its authors, to the number of parameters (half as
many groups in the last normalization of a resolution; a head without affine normalization inside its bottlenecks). That
code stops by a residual over the whole batch; here each sample stops by itself.

Shape letters: ``B`` images, ``C_i, H_i, W_i`` channels and size of resolution ``i``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import reduce
from itertools import pairwise
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.implicit import ImplicitMixin
from zoo.layers.dropout import check_probability, dropout_mask
from zoo.layers.head import ImageClassifier, check_finite, check_images, halved
from zoo.layers.norm import group_norm, magnitudes, weight_norm
from zoo.layers.spectral import spectral_norm_all

EXPANSION = 4  # of the head's bottlenecks: channels out to channels within

State = tuple[Tensor, ...]  # (B, C_i, H_i, W_i) for each resolution


def conv(c_in: int, c_out: int, kernel: int, stride: int = 1, *, bias: bool = False) -> nn.Conv2d:
    """Return a convolution that keeps the size (but for its stride), drawn from N(0, 0.01^2) as released.

    A normalization follows each of them, so the scale sets no activation, only how fast the weight turns.
    """
    layer = nn.Conv2d(c_in, c_out, kernel, stride, padding=kernel // 2, bias=bias)
    nn.init.normal_(layer.weight, std=0.01)
    if layer.bias is not None:
        nn.init.normal_(layer.bias, std=0.01)
    return layer


class Block(nn.Module):
    """The residual block of one resolution: ``GN(relu(GN(mask * W2 relu(GN(W1 z)) + x) + z))``."""

    def __init__(self, channels: int, expansion: int, groups: int, normalize: bool) -> None:
        super().__init__()
        inner = expansion * channels
        self.conv1 = nn.Conv2d(channels, inner, 3, padding=1, bias=False)
        self.norm1 = group_norm(groups, inner)
        self.conv2 = nn.Conv2d(inner, channels, 3, padding=1, bias=False)
        self.norm2 = group_norm(groups, channels)
        self.norm3 = group_norm(groups, channels)
        if normalize:
            weight_norm(self.conv1)
            weight_norm(self.conv2)

    def forward(self, z: Tensor, x: Tensor | None, mask: Tensor | None) -> Tensor:
        # in place, as no backward pass reads what a normalization or a sum gave
        h = self.conv2(F.relu(self.norm1(self.conv1(z)), inplace=True))
        if mask is not None:
            h = h * mask
        if x is not None:
            h = h + x
        return self.norm3(F.relu(self.norm2(h) + z, inplace=True))


def resample(channels: Sequence[int], j: int, i: int, groups: int) -> nn.Module:
    """Make ``T_ij``, from ``j`` to ``i``: strided convolutions down; a 1x1 one, then nearest neighbors, up."""
    if i == j:
        return nn.Identity()
    if j > i:
        up = nn.Upsample(scale_factor=2 ** (j - i), mode="nearest")
        return nn.Sequential(conv(channels[j], channels[i], 1), group_norm(groups, channels[i]), up)
    steps: list[nn.Module] = []
    for k in range(j, i):
        last = k == i - 1  # only the last of the halvings changes the channels
        c_out = channels[i] if last else channels[j]
        steps += [conv(channels[j], c_out, 3, stride=2), group_norm(groups, c_out)]
        steps += [] if last else [nn.ReLU()]
    return nn.Sequential(*steps)


class Cell(nn.Module):
    """The map ``f``: a block on each resolution, then the fusion of every resolution into every other.

    Args:
        channels: of each resolution, finest first.
        expansion: channels within a block, as a multiple of those of its resolution.
        groups: of group normalization; the last one of a resolution has half as many.
        normalize: weight normalization of the blocks and of the convolutions after the fusion.
        post_affine: whether the last normalization of a resolution has learned scales and offsets.
    """

    def __init__(
        self, channels: Sequence[int], expansion: int, groups: int, normalize: bool = True, post_affine: bool = False
    ) -> None:
        super().__init__()
        n = len(channels)
        self.blocks = nn.ModuleList(Block(c, expansion, groups, normalize) for c in channels)
        self.fuse = nn.ModuleList()
        self.post = nn.ModuleList()
        if n == 1:  # as released: nothing to fuse, and nothing after it
            return
        for i, c in enumerate(channels):
            self.fuse.append(nn.ModuleList(resample(channels, j, i, groups) for j in range(n)))
            last = nn.Conv2d(c, c, 1, bias=False)
            if normalize:
                weight_norm(last)
            norm = group_norm(max(groups // 2, 1), c, affine=post_affine)
            self.post.append(nn.Sequential(nn.ReLU(inplace=True), last, norm))

    def forward(self, z: State, x: Tensor, *masks: Tensor) -> State:
        """Evaluate f once. ``x`` (B, C_1, H_1, W_1) is injected at the finest; ``masks`` (B, C_i, 1, 1), or none."""
        n = len(z)
        r = [block(z[i], None if i else x, masks[i] if masks else None) for i, block in enumerate(self.blocks)]
        if n == 1:
            return (r[0],)
        rows = [cast(nn.ModuleList, row) for row in self.fuse]
        fused = (reduce(torch.add, [move(r[j]) for j, move in enumerate(row)]) for row in rows)
        return tuple(post(s) for post, s in zip(self.post, fused, strict=True))


class Bottleneck(nn.Module):
    """A residual bottleneck of the classifier's head, without affine parameters inside."""

    def __init__(self, c_in: int, channels: int) -> None:
        super().__init__()
        c_out = EXPANSION * channels
        self.body = nn.Sequential(
            conv(c_in, channels, 1),
            nn.BatchNorm2d(channels, affine=False),
            nn.ReLU(),
            conv(channels, channels, 3),
            nn.BatchNorm2d(channels, affine=False),
            nn.ReLU(),
            conv(channels, c_out, 1),
            nn.BatchNorm2d(c_out, affine=False),
        )
        self.skip: nn.Module = nn.Identity()
        if c_in != c_out:
            self.skip = nn.Sequential(conv(c_in, c_out, 1), nn.BatchNorm2d(c_out))

    def forward(self, z: Tensor) -> Tensor:
        return F.relu(self.body(z) + self.skip(z))


class Multiscale(ImplicitMixin, nn.Module, ABC):
    """What the image models share: a stem, the cell, and the solve for their equilibrium.

    Args:
        channels: of each resolution, finest first; multiples of ``groups``.
        expansion, groups, dropout, downsample, weight_norm, post_gn_affine, in_chans: see `MDEQ`.
        bn_momentum: of the stem's batch normalization.
        spectral_bound: see `MDEQ`.
    """

    def __init__(
        self,
        channels: Sequence[int],
        expansion: int,
        groups: int,
        dropout: float,
        downsample: int,
        weight_norm: bool,
        post_gn_affine: bool,
        in_chans: int,
        bn_momentum: float = 0.1,
        spectral_bound: float = 0.0,
    ) -> None:
        super().__init__()
        if not channels or min(channels) < 1 or in_chans < 1 or expansion < 1 or downsample < 0:
            raise ValueError(
                "An MDEQ needs at least one resolution with at least one channel, in_chans and expansion of at least "
                f"1 and downsample of at least 0; got channels={tuple(channels)}, in_chans={in_chans}, "
                f"expansion={expansion}, downsample={downsample}."
            )
        check_probability(dropout)
        self.channels, self.dropout, self.downsample = tuple(channels), dropout, downsample
        self.in_chans = in_chans
        c = channels[0]
        self.stem = nn.Sequential()
        for k in range(max(2, downsample)):
            stride = 2 if k < downsample else 1
            first = conv(in_chans if k == 0 else c, c, 3, stride)
            self.stem.extend([first, nn.BatchNorm2d(c, momentum=bn_momentum), nn.ReLU()])
        if downsample or len(channels) > 2:  # as released: small models inject what the stem gives
            self.stem.extend([conv(c, c, 1), nn.BatchNorm2d(c, momentum=bn_momentum), nn.ReLU()])
        if spectral_bound and weight_norm:
            raise ValueError(
                f"A weight is normalized once: with spectral_bound={spectral_bound} set weight_norm=False, or leave "
                "spectral_bound at 0."
            )
        self.cell = Cell(channels, expansion, groups, weight_norm, post_gn_affine)
        if spectral_bound:
            spectral_norm_all(self.cell, spectral_bound)
        self.configure_implicit({"name": "broyden", "max_steps": 18, "rtol": 1e-3}, "implicit")

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Answer images (B, in_chans, H, W) with what the model is for."""

    def equilibrium(self, images: Tensor) -> State:
        """Solve ``z = f(z, x)`` for a batch of images (B, in_chans, H, W).

        Returns:
            the state of each resolution, (B, C_i, H_i, W_i); `last` holds how the solve went.

        Raises:
            ValueError: other channels than ``in_chans``, a size that cannot be halved often enough, or NaN.
        """
        self._check(images)
        x = self.stem(images)
        size = x.shape[-2:]
        z0 = tuple(x.new_zeros(x.shape[0], c, size[0] >> i, size[1] >> i) for i, c in enumerate(self.channels))
        masks: State = ()
        if self.training and self.dropout:
            masks = tuple(dropout_mask(x, self.dropout, x.shape[0], c, 1, 1) for c in self.channels)
        return self.solve(self.cell, z0, args=(x, *masks))

    @property
    def unit(self) -> int:
        """What height and width of an image must divide by."""
        return 2 ** (len(self.channels) - 1 + self.downsample)

    def no_weight_decay(self) -> set[str]:
        """Return what weight decay must leave alone: the magnitudes of normalized weights, which are scales."""
        return magnitudes(self)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return timm's grouping of parameters by depth: the stem, the one implicit layer, the rest."""
        return {"stem": r"^stem", "blocks": [(r"^cell", None)]}

    def _check(self, images: Tensor) -> None:
        check_images(images, self.in_chans)
        height, width = images.shape[-2:]
        halvings = len(self.channels) - 1
        stem = [-(-s // 2**self.downsample) for s in (height, width)]  # strided convolutions round up
        if any(s % 2**halvings for s in stem):
            unit = self.unit
            pad = [-(-s // unit) * unit for s in (height, width)]
            raise ValueError(
                f"{len(self.channels)} resolutions after a stem of {self.downsample} halvings need images whose "
                f"height and width divide by {unit}; got {height}x{width}. Pad or resize them to {pad[0]}x{pad[1]}, "
                "or create the model with fewer resolutions."
            )
        check_finite(images)


class MDEQ(ImageClassifier, Multiscale):
    """Multiscale deep equilibrium image classifier, with timm's conventions for a vision model.

    The defaults are the published TINY configuration for CIFAR-10.

    Args:
        num_classes: of the classifier; 0 leaves it out.
        in_chans: channels of the images.
        channels: of each resolution, finest first; multiples of ``groups``.
        head_channels: within the head's bottleneck of each resolution, as many as there are ``channels``.
        final_channels: of the pooled features, `num_features`.
        expansion: channels within a residual block, as a multiple of those of its resolution.
        groups: of group normalization.
        dropout: probability that a channel is dropped after each block's second convolution, one mask a solve.
        downsample: how often the stem halves the image; 2 for ImageNet, 0 for CIFAR, 1 for small images on a CPU.
        weight_norm: normalize the cell's weights; it keeps the map's scale in check, and few models converge without.
        post_gn_affine: learned scales in the last normalization of each resolution; the published ImageNet models
            have them, the CIFAR models do not.
        global_pool: ``avg`` or ``max``; or empty for none, with ``num_classes=0``.
        spectral_bound: above 0: keep the spectral norm of each of the cell's weights at or below it, in place of
            weight normalization.

    Raises:
        ValueError: sizes that do not fit one another.

    Reference: Bai, Koltun and Kolter, "Multiscale Deep Equilibrium Models", 2020, https://arxiv.org/abs/2006.08656
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_chans: int = 3,
        channels: Sequence[int] = (24, 24),
        head_channels: Sequence[int] = (8, 16),
        final_channels: int = 200,
        expansion: int = 5,
        groups: int = 8,
        dropout: float = 0.25,
        downsample: int = 0,
        weight_norm: bool = True,
        post_gn_affine: bool = False,
        global_pool: str = "avg",
        spectral_bound: float = 0.0,
    ) -> None:
        super().__init__(
            channels,
            expansion,
            groups,
            dropout,
            downsample,
            weight_norm,
            post_gn_affine,
            in_chans,
            spectral_bound=spectral_bound,
        )
        if len(head_channels) != len(channels):
            raise ValueError(
                f"head_channels must name one number for each resolution: got {len(head_channels)} for "
                f"{len(channels)} channels ({tuple(head_channels)} and {tuple(channels)})."
            )
        out = [EXPANSION * c for c in head_channels]
        self.widen = nn.ModuleList(Bottleneck(c, h) for c, h in zip(channels, head_channels, strict=True))
        self.down = nn.ModuleList(
            nn.Sequential(conv(a, b, 3, stride=2, bias=True), nn.BatchNorm2d(b), nn.ReLU()) for a, b in pairwise(out)
        )
        self.final = nn.Sequential(
            conv(out[-1], final_channels, 1, bias=True), nn.BatchNorm2d(final_channels), nn.ReLU()
        )
        self.num_features = final_channels
        self.feature_info = [
            {"num_chs": c, "reduction": 2 ** (downsample + i), "module": f"cell.post.{i}"}
            for i, c in enumerate(channels)
        ]
        self.reset_classifier(num_classes, global_pool)

    @staticmethod
    def map_size(size: int, options: Mapping[str, Any]) -> int:
        """Return the side of the coarsest resolution."""
        return halved(size, options["downsample"]) >> (len(options["channels"]) - 1)

    def forward_features(self, images: Tensor) -> Tensor:
        """Return the head's feature map at the coarsest resolution, (B, num_features, H_n, W_n)."""
        return self._combined(self.equilibrium(images))

    def _levels(self, images: Tensor, wanted: list[int], stop: bool) -> tuple[Tensor | None, list[Tensor]]:
        """The states at the equilibrium: the modules that give them run in every evaluation of a solve."""
        z = self.equilibrium(images)
        return None if stop else self._combined(z), [z[i] for i in wanted]

    def _combined(self, z: State) -> Tensor:
        h = self.widen[0](z[0])
        for i, down in enumerate(self.down, start=1):
            h = self.widen[i](z[i]) + down(h)
        return self.final(h)
