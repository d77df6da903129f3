"""Deep equilibrium layers whose weights another network writes, for every sample or for every task.

    z* = f(z*, x; theta(c)),        theta(c) = constrain(generator(c)),        |theta_l| <= limit

The code ``c`` says which map is solved: an encoding of the image itself, or of the task that it belongs to. Generated
weights may be of any size, and a map of any size has no fixed point to speak of: each generated matrix is scaled, by
itself, to a Lipschitz constant of at most ``limit`` (`zoo.hypernet.lipschitz`). With 1-Lipschitz activations between
such layers ``f`` contracts for every code there is, so that every sample has one fixed point and Picard finds it at the
rate ``limit`` or better. The implicit gradient reaches the generator by the same adjoint as any other weight: theta
enters one evaluation at ``z*``, and the rest is ordinary backpropagation.

References: Bai, Kolter and Koltun, "Deep equilibrium models", NeurIPS 2019; Ha, Dai and Le, "HyperNetworks", ICLR 2017.
The combination is ours.

Shape letters: ``B`` samples, ``C`` numbers in a code, ``T`` tasks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.hypernet.compression import BatchSize, GeneratedWeights, GeneratesWeights
from zoo.hypernet.generators.base import Generator
from zoo.hypernet.generators.base import Spec as GeneratorSpec
from zoo.hypernet.lipschitz import METHODS, constrain
from zoo.hypernet.target import HyperTarget, Select
from zoo.implicit import DelegatesImplicit, ImplicitMixin
from zoo.layers.head import ImageClassifier, check_images, halved
from zoo.solve import Spec


class HyperDEQ(ImplicitMixin, nn.Module):
    """The layer ``(x, code) -> z*`` around a cell of your own, whose parameters are written from the code.

        >>> class Cell(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.linear = nn.Linear(8, 8)
        ...     def forward(self, z, x):
        ...         return torch.tanh(self.linear(z) + x)
        >>> layer = HyperDEQ(Cell(), code_size=3)
        >>> layer(torch.randn(4, 8), torch.randn(4, 3)).shape    # four samples, four sets of weights
        torch.Size([4, 8])

    Args:
        cell: called as ``cell(z, x)``; returns a state shaped like ``z``. It is taken over, see `HyperTarget`.
        code_size: C.
        select: which of the cell's parameters are generated; the others are ordinary ones.
        generator: a name of ``zoo.hypernet.GENERATORS``, or a mapping with its options.
        limit: the largest Lipschitz constant of each generated weight; None leaves them free. The product of those that
            follow one another must be below 1 for the map to contract. Generated biases are free.
        method: of the norm: ``gram``, which bounds it from above, or ``power``.
        solver, adjoint: as everywhere.

    Raises:
        ValueError, TargetError: a selection, a generator or a limit that cannot be.
    """

    def __init__(
        self,
        cell: nn.Module,
        code_size: int,
        *,
        select: Select = "*",
        generator: GeneratorSpec = "low_rank",
        limit: float | None = 0.9,
        method: str = "gram",
        solver: Spec | Any = "anderson",
        adjoint: Spec | Any = "implicit",
    ) -> None:
        super().__init__()
        if limit is not None and not limit > 0:
            raise ValueError(f"limit must be above 0, and below 1 for a contraction; got {limit}. None: no constraint.")
        if method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}; got {method!r}.")
        self.target = HyperTarget(cell, select)
        self.generator = Generator(self.target, code_size, generator, init="hyperfan_in")
        self.limit, self.method = limit, method
        self.configure_implicit(solver, adjoint)

    def weights(self, code: Tensor) -> dict[str, Tensor]:
        """Return the generated weights (..., *shape) of codes (..., C), each within the limit."""
        theta = self.generator(code)
        if self.limit is None:
            return theta
        return {
            s.name: constrain(theta[s.name], len(s.shape), self.limit, self.method)
            if s.role == "weight"
            else theta[s.name]
            for s in self.target.spec
        }

    def forward(self, x: Tensor, code: Tensor, z0: Tensor | None = None) -> Any:
        """Return the equilibrium for inputs (B, ...).

        Args:
            x: batch first.
            code: (B, C) for weights of every sample's own; (T, C) with T tasks of B/T samples each, one task after the
                other; (C,) for one set of weights.
            z0: where to start, and what the state is shaped like; by default zeros like ``x``.

        Raises:
            ValueError: a number of codes that does not divide the samples.
        """
        theta = self.weights(code)
        start = torch.zeros_like(x) if z0 is None else z0
        names = list(theta)
        if code.dim() == 1:
            return self.solve(lambda z, x: self.target(theta, z, x), start, args=(x,))
        if code.shape[0] == x.shape[0]:  # the weights are arguments of a sample: they leave the batch with it

            def one(z: Tensor, x: Tensor, *tensors: Tensor) -> Tensor:
                return self.target.each(dict(zip(names, tensors, strict=True)), z, x)

            return self.solve(one, start, args=(x, *theta.values()))
        if code.dim() != 2 or x.shape[0] % code.shape[0]:
            raise ValueError(
                f"{len(x)} samples need a code each, one code for all, or a number of tasks that divides them; got "
                f"codes of shape {tuple(code.shape)}."
            )

        def tasks(z: Tensor) -> Tensor:
            split = (code.shape[0], x.shape[0] // code.shape[0])
            return self.target(theta, z.unflatten(0, split), x.unflatten(0, split), batched=True).flatten(0, 1)

        return self.solve(tasks, start)


class Cell(nn.Module):
    """``f(z, x) = relu(W * z + x)``: a convolution that is generated, and an injection that is not."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, kernel, padding=kernel // 2)
        nn.init.orthogonal_(self.conv.weight)  # of norm 1 as a matrix: the limit decides from the start

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return F.relu(self.conv(z) + x)


class HyperDEQClassifier(GeneratesWeights, DelegatesImplicit, ImageClassifier):
    """An image classifier with one equilibrium, whose convolution is written for each image by an encoder of it.

    Args:
        num_classes, in_chans: of the images.
        channels: of the state.
        features: of the pooled map after it.
        kernel: of the generated convolution, odd.
        code_size: of what the encoder says of an image.
        context: ``image`` for weights of each image's own; ``constant`` for one learned code, the plain twin.
        generator: a name of ``zoo.hypernet.GENERATORS``.
        limit: Lipschitz constant of the generated convolution, below 1.
        downsample: how often the stem halves the image.
        dropout: of the pooled features.
        global_pool: ``avg`` or ``max``; or empty for none, with ``num_classes=0``.

    Raises:
        ValueError: sizes or a context that cannot be.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_chans: int = 1,
        channels: int = 32,
        features: int = 128,
        kernel: int = 3,
        code_size: int = 16,
        context: str = "image",
        generator: str = "low_rank",
        limit: float = 0.95,
        downsample: int = 0,
        dropout: float = 0.0,
        global_pool: str = "avg",
    ) -> None:
        super().__init__()
        if context not in ("image", "constant"):
            raise ValueError(f"context must be 'image' or 'constant'; got {context!r}.")
        if min(channels, features, in_chans, code_size) < 1 or downsample < 0 or kernel % 2 == 0:
            raise ValueError(
                "channels, features, in_chans and code_size must be at least 1, downsample at least 0 and kernel odd; "
                f"got {channels}, {features}, {in_chans}, {code_size}, {downsample} and {kernel}."
            )
        if not 0 < limit < 1:
            raise ValueError(f"limit must lie in (0, 1), for the cell to be a contraction; got {limit}.")
        self.in_chans, self.num_features, self.head_dropout = in_chans, features, dropout
        self.stem = nn.Sequential()
        for k in range(max(1, downsample)):
            c_in, stride = in_chans if k == 0 else channels, 2 if k < downsample else 1
            self.stem.extend([nn.Conv2d(c_in, channels, 3, stride, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()])
        self.inject = nn.Conv2d(channels, channels, 3, padding=1)
        self.code: nn.Parameter | None = None
        if context == "image":
            self.encoder = nn.Sequential(
                nn.Conv2d(channels, channels, 3, stride=2, padding=1),
                nn.ReLU(),
                nn.AdaptiveAvgPool2d(2),
                nn.Flatten(),
                nn.Linear(4 * channels, code_size),
            )
        else:
            self.code = nn.Parameter(torch.randn(code_size))
        self.layer = HyperDEQ(Cell(channels, kernel), code_size, generator=generator, limit=limit)
        self.final = nn.Sequential(
            nn.BatchNorm2d(channels), nn.Conv2d(channels, features, 3, stride=2, padding=1), nn.ReLU()
        )
        self.feature_info = [
            {"num_chs": channels, "reduction": 2**downsample, "module": "layer"},
            {"num_chs": features, "reduction": 2 ** (downsample + 1), "module": "final"},
        ]
        self.reset_classifier(num_classes, global_pool)

    @staticmethod
    def map_size(size: int, options: Mapping[str, Any]) -> int:
        """Return the side of the map after the equilibrium, which the last convolution halves."""
        return halved(size, options["downsample"] + 1)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return timm's grouping of parameters by depth: the stem, the implicit layer and its generator, the rest."""
        return {"stem": r"^stem", "blocks": [(r"^(?:inject|encoder|code|layer)", None)]}

    def forward_features(self, images: Tensor) -> Tensor:
        """Return the map (B, num_features, H', W') after the equilibrium."""
        check_images(images, self.in_chans)
        x = self.stem(images)
        code = self.encoder(x) if self.code is None else self.code
        return self.final(self.layer(self.inject(x), code))

    def written(self, batch: BatchSize) -> GeneratedWeights:
        """Count a convolution for every image; one for all where the code is constant."""
        made = self.encoder.parameters() if self.code is None else (self.code,)
        writers = (*self.layer.generator.parameters(), *made)
        return GeneratedWeights(self.layer.target.numel, writers, batch.samples if self.code is None else 1)
