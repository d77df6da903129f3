"""Monotone operator equilibrium network (monDEQ): an equilibrium that exists, is unique, and is found.

    z = relu(W z + x),    W = (1 - m) I - A^T A + B - B^T,    so that  I - W >= m I  for any weights A and B

The equilibrium is the zero of a strongly monotone operator, and operator splitting finds it from any start. A splitting
method is one more map with known rate, whose fixed points are handed to the solvers and adjoints that all models use:

    forward-backward    z <- relu(z - a ((I - W) z - x))                        a = m / L^2,  rate sqrt(1 - m^2 / L^2)
    Peaceman-Rachford   u <- 2 V (2 relu(u) - u + a x) - (2 relu(u) - u)        a = 1 / L,    rate sqrt(1 - m / L)
                        with V = (I + a (I - W))^-1,  z = relu(u)

``A`` and ``B`` are convolutions with circular padding, so that W is a matrix over the channels for each frequency: the
norm ``L = |I - W|``, and with it the step ``a``, is exact, and the inverse V costs one small inverse a frequency.

Reference: Winston and Kolter, "Monotone operator equilibrium networks", 2020, https://arxiv.org/abs/2006.08591; rate of
Peaceman-Rachford: Ryu and Boyd, "A primer on monotone operator methods", 2016, section 6.2.

What differs from the paper: the step sizes follow from L instead of being searched; there is one resolution.

Shape letters: ``B`` images, ``C, H, W`` channels and size of a map, ``K`` columns of a real Fourier transform.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.deq.single_scale import SingleScaleNet

Splitting = Literal["peaceman_rachford", "forward_backward"]


class MonotoneConv(nn.Module):
    """The operator ``W`` and the maps of the two splittings.

    Args:
        channels: of the state.
        margin: ``m``, how strongly monotone ``I - W`` is; above 0. The larger, the faster and the less expressive.
        kernel: side of the convolutions A and B.
    """

    def __init__(self, channels: int, margin: float = 0.5, kernel: int = 3) -> None:
        super().__init__()
        if not margin > 0:
            raise ValueError(f"margin must be above 0, else no equilibrium is certain; got {margin}.")
        self.margin, self.kernel = margin, kernel
        scale = 1 / (kernel * channels**0.5)
        self.symmetric = nn.Parameter(scale * torch.randn(channels, channels, kernel, kernel))
        self.skew = nn.Parameter(scale * torch.randn(channels, channels, kernel, kernel))

    def operator(self, height: int, width: int) -> Tensor:
        """Return ``W`` for each frequency of a map, complex (H, K, C, C).

        Raises:
            ValueError: a map that is smaller than the kernel.
        """
        if min(height, width) < self.kernel:
            raise ValueError(
                f"Maps must be at least {self.kernel} pixels high and wide; got {height}x{width}. Use larger images or "
                "a smaller downsample."
            )
        a, b = (self._frequencies(w, height, width) for w in (self.symmetric, self.skew))
        eye = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
        return (1 - self.margin) * eye - a.mH @ a + b - b.mH

    def map(
        self, height: int, width: int, splitting: Splitting
    ) -> tuple[Callable[[Tensor, Tensor], Tensor], float, float]:
        """Return the map ``(u, x) -> u`` of a splitting, all (B, C, H, W), with its step ``a`` and its rate.

        ``relu`` of its fixed point is the equilibrium, for both.
        """
        w = self.operator(height, width)
        eye = torch.eye(w.shape[-1], dtype=w.dtype, device=w.device)
        with torch.no_grad():
            largest = torch.linalg.matrix_norm(eye - w, 2).max()
        # the weights of a program that is exported have no values yet: the step stays a tensor, the rate is unknown
        norm: Any = largest if torch.compiler.is_exporting() else float(largest)
        if splitting == "forward_backward":
            step = self.margin / norm**2
            return lambda z, x: F.relu((1 - step) * z + step * (apply(w, z) + x)), step, _rate(self.margin / norm, 2)
        step = 1 / norm
        inverse = torch.linalg.inv(eye + step * (eye - w))

        def reflect(u: Tensor, x: Tensor) -> Tensor:
            h = 2 * F.relu(u) - u
            return 2 * apply(inverse, h + step * x) - h

        return reflect, step, _rate(self.margin / norm, 1)

    @staticmethod
    def _frequencies(weight: Tensor, height: int, width: int) -> Tensor:
        """A kernel (C, C, k, k), centered, as a matrix for each frequency: complex (H, K, C, C)."""
        weight = weight.float() if weight.dtype in (torch.float16, torch.bfloat16) else weight
        half = weight.shape[-1] // 2
        padded = F.pad(weight, (0, width - weight.shape[-1], 0, height - weight.shape[-2]))
        return torch.fft.rfft2(padded.roll((-half, -half), (2, 3))).permute(2, 3, 0, 1)


def _rate(share: float | Tensor, power: int) -> float:
    return math.nan if isinstance(share, Tensor) else max(0.0, 1 - share**power) ** 0.5


def apply(matrix: Tensor, z: Tensor) -> Tensor:
    """Return the operator of a matrix for each frequency (H, K, C, C) on maps (B, C, H, W)."""
    spectrum = torch.einsum("hkij,bjhk->bihk", matrix, torch.fft.rfft2(z))
    return torch.fft.irfft2(spectrum, s=z.shape[-2:])


class MonotoneNet(SingleScaleNet):
    """Image classifier on a monotone equilibrium, with timm's conventions for a vision model.

    Plain iteration (``picard``) is certain to converge; ``anderson`` needs fewer evaluations. The equilibrium is
    found in float32 at least, whatever the precision around it.

    Args:
        num_classes: of the classifier; 0 leaves it out.
        in_chans: channels of the images.
        channels: of the state.
        downsample: how often the stem halves the image.
        groups: of group normalization.
        margin: how strongly monotone the equation is, see `MonotoneConv`.
        splitting: the map whose fixed point is sought.
        global_pool: ``avg`` or ``max``; or empty for none, with ``num_classes=0``.

    Raises:
        ValueError: sizes that do not fit one another.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_chans: int = 1,
        channels: int = 32,
        downsample: int = 1,
        groups: int = 8,
        margin: float = 0.5,
        splitting: Splitting = "peaceman_rachford",
        global_pool: str = "avg",
    ) -> None:
        if splitting not in ("peaceman_rachford", "forward_backward"):
            raise ValueError(f"splitting must be 'peaceman_rachford' or 'forward_backward'; got {splitting!r}.")
        super().__init__(in_chans, channels, downsample, groups)
        self.splitting: Splitting = splitting
        self.finish(MonotoneConv(channels, margin), num_classes, global_pool)

    def equilibrium(self, x: Tensor) -> Tensor:
        """Return the equilibrium (B, channels, H', W') for what the stem gives, found in float32 at least."""
        assert isinstance(self.cell, MonotoneConv)
        with torch.autocast(x.device.type, enabled=False):  # no Fourier transform in half precision
            x = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
            f, _, _ = self.cell.map(x.shape[-2], x.shape[-1], self.splitting)
            return F.relu(self.solve(f, torch.zeros_like(x), args=(x,)))
