"""Spectral normalization that is a function of the weight alone."""

from __future__ import annotations

from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from zoo._compat import under_transform
from zoo.layers.norm import check_free, picklable

M = TypeVar("M", bound=nn.Module)

EXACT = 512  # the smaller side up to which the largest singular value is computed, not iterated to
ITERATIONS = 60  # of power iteration, above it


class SpectralBound(nn.Module):
    """The parametrization ``w -> w * min(1, bound / s(w))`` with the largest singular value ``s`` of ``w`` as a matrix.

    Nothing of it is state: singular vectors are computed from the weight when its values have changed, and kept beside
    those values, for the evaluations of a solve. So a copy, a loaded state and an average of weights are normalized
    rightly without being told, a resumed run goes on to the last bit, and the map stays the same map throughout a
    solve; power iteration that goes on from call to call, as is usual, gives none of that.

    Args:
        bound: of the singular values.
    """

    def __init__(self, bound: float) -> None:
        super().__init__()
        self.bound = bound
        self._kept: tuple[Tensor, Tensor, Tensor] | None = None

    def forward(self, weight: Tensor) -> Tensor:
        """Return the bounded weight, of the same shape. The gradient is exact, that through ``s`` included."""
        u, v = self._vectors(weight)
        matrix = weight.flatten(1)
        sigma = torch.dot(u, matrix.mv(v))
        return weight * (self.bound / sigma.clamp_min(self.bound))

    def _vectors(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        weight = weight.detach()
        if under_transform(weight) or torch.compiler.is_compiling():
            return singular_vectors(weight.flatten(1))  # no values to compare
        if self._kept is None or not _same(self._kept[0], weight):
            self._kept = (weight.clone(), *singular_vectors(weight.flatten(1)))
        return self._kept[1], self._kept[2]

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_kept": None}  # it is computed again sooner than it is copied


def _same(kept: Tensor, weight: Tensor) -> bool:
    """Whether nothing has changed. By value: fused optimizers and ``.data.copy_()`` leave a tensor's version as it is.

    It reads once from the device, as every solver does in every step; what it spares is an eigenvalue problem.
    """
    alike = kept.dtype == weight.dtype and kept.device == weight.device and kept.shape == weight.shape
    usable = not kept.is_inference() or torch.is_inference_mode_enabled()  # else no gradient may cross what was kept
    return alike and usable and torch.equal(kept, weight)


@torch.no_grad()
def singular_vectors(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return the left and right singular vectors (m,), (n,) of the largest singular value of a matrix (m, n).

    Exact where the smaller side is at most 512; else by power iteration from a start that is always the same.
    """
    wide = matrix.float() if matrix.dtype in (torch.float16, torch.bfloat16) else matrix
    if min(wide.shape) <= EXACT:
        short = wide if wide.shape[0] <= wide.shape[1] else wide.T
        u = torch.linalg.eigh(short @ short.T)[1][:, -1]  # of the small Gram matrix: as exact as is needed, and fast
        v = short.T.mv(u)
        v = v / torch.linalg.vector_norm(v).clamp_min(torch.finfo(v.dtype).tiny)
        u, v = (u, v) if short is wide else (v, u)
    else:
        v = torch.linspace(1, 2, wide.shape[1], dtype=wide.dtype, device=wide.device)
        for _ in range(ITERATIONS):
            u = nn.functional.normalize(wide.mv(v), dim=0)
            v = nn.functional.normalize(wide.T.mv(u), dim=0)
    return u.to(matrix.dtype), v.to(matrix.dtype)


def spectral_norm(module: M, bound: float = 1.0, name: str = "weight") -> M:
    """Keep the largest singular value of a weight at or below ``bound``; smaller weights are left as they are.

    A kernel (C_out, C_in, ...) counts as a matrix of C_out rows. The weight itself is
    ``parametrizations.<name>.original`` in the state dict.

    Args:
        module: a linear or convolution layer; it is changed in place.
        bound: above 0.
        name: which of its parameters.

    Returns:
        the module.

    Raises:
        ValueError: the module has no such parameter, it is normalized already, or the bound is not above 0.

    Reference: Miyato et al., "Spectral normalization for generative adversarial networks", 2018,
    https://arxiv.org/abs/1802.05957
    """
    if not bound > 0:
        raise ValueError(f"bound must be above 0; got {bound}.")
    check_free(module, name)
    parametrize.register_parametrization(module, name, SpectralBound(bound), unsafe=True)
    picklable(module, name, partial(_again, bound=bound))
    return module


def _again(module: nn.Module, name: str, bound: float) -> None:
    spectral_norm(module, bound, name)


def spectral_norm_all(module: M, bound: float = 1.0) -> M:
    """Apply `spectral_norm` to every linear and convolution layer within a module, such as a map of your own."""
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    for layer in [m for m in module.modules() if isinstance(m, kinds)]:
        spectral_norm(layer, bound)
    return module
