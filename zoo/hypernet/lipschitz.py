"""Norms of a batch of generated weights, and the bound that keeps a map made of them a contraction.

``torch.nn.utils.parametrizations.spectral_norm`` keeps the singular vectors of *one* weight between steps. Generated
weights are new for every sample: nothing can be kept, and every sample has its own norm. Both estimates below work on
tensors (..., out, in) with any number of leading axes, are differentiable, and change nothing in place:

    gram    W_0 = W,  W_{k+1} = W_k^T W_k:   |W|_2 <= |W_k|_F^(1 / 2^k)     from above, and quickly tight
    power   v <- W^T W v, normalized:        |W|_2 >= |W v|                 from below

A bound from above is what contraction needs, so ``gram`` is the default; its excess is at most ``rank^(1 / 2^(k+1))``.

References: Delattre, Barthelemy, Araujo and Allauzen, "Efficient bound of Lipschitz constant for convolutional layers
by Gram iteration", ICML 2023, https://arxiv.org/abs/2305.16173; Miyato, Kataoka, Koyama and Yoshida, "Spectral
normalization for generative adversarial networks", ICLR 2018, https://arxiv.org/abs/1802.05957.
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

METHODS = ("gram", "power")


def gram_bound(weight: Tensor, steps: int = 5) -> Tensor:
    """Return an upper bound (...) of the spectral norm of matrices (..., out, in), within ``rank^(1 / 2^(steps + 1))``.

    Every iteration squares the singular values. They are divided by their norm first, whose logarithm is carried along,
    so that nothing overflows. A matrix of zeros has the bound 0.
    """
    w = weight if weight.shape[-2] >= weight.shape[-1] else weight.mT  # the smaller Gram matrix
    tiny = torch.finfo(weight.dtype).tiny ** 0.5  # its square must not underflow
    size = torch.linalg.matrix_norm(w).clamp_min(tiny)
    log = size.log()
    for k in range(steps):
        w = w / size[..., None, None]
        w = w.mT @ w
        size = torch.linalg.matrix_norm(w).clamp_min(tiny)
        log = log + size.log() / 2 ** (k + 1)
    return torch.where(torch.linalg.matrix_norm(weight.detach()) > tiny, log.exp(), torch.zeros_like(log))


def power_norm(weight: Tensor, steps: int = 5) -> Tensor:
    """Estimate the spectral norm (...) from below, by power iteration; its derivative is ``u v^T``.

    The start is the row of greatest norm: the same for equal weights, so that the answer does not depend on chance.
    """
    with torch.no_grad():
        rows = torch.linalg.vector_norm(weight, dim=-1).argmax(dim=-1)
        v = weight.take_along_dim(rows[..., None, None], dim=-2).squeeze(-2)
        v = torch.nn.functional.normalize(v, dim=-1)
        for _ in range(steps):
            v = torch.nn.functional.normalize((weight.mT @ (weight @ v[..., None])).squeeze(-1), dim=-1)
        u = torch.nn.functional.normalize((weight @ v[..., None]).squeeze(-1), dim=-1)
    return torch.einsum("...o,...oi,...i->...", u, weight, v)


def lipschitz(weight: Tensor, dims: int, method: str = "gram", steps: int = 5) -> Tensor:
    """Return the Lipschitz constants (l2), (...), of linear layers or convolutions with these weights (..., *shape).

    A convolution of kernel ``k1 x k2`` and stride 1 is at most ``sqrt(k1 k2)`` times the norm of its kernel as a matrix
    (out, in k1 k2), whatever the size of the image.

    Args:
        weight: generated weights, with any leading axes.
        dims: axes of one weight: 2 for a linear layer, 3 to 5 for convolutions.
        method: ``gram`` (from above) or ``power`` (from below).
        steps: of the iteration.

    Raises:
        ValueError: another method, or a weight of fewer axes than ``dims``, or ``dims`` below 2.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}; got {method!r}.")
    if dims < 2 or weight.dim() < dims:
        raise ValueError(
            f"A norm needs matrices or kernels: got shape {tuple(weight.shape)} for weights of {dims} axes."
        )
    lead, shape = weight.shape[: weight.dim() - dims], weight.shape[weight.dim() - dims :]
    matrix = weight.reshape(*lead, shape[0], prod(shape[1:]))
    with torch.autocast(weight.device.type, enabled=False):  # products in halves would break the bound by a percent
        matrix = matrix.float() if matrix.dtype in (torch.float16, torch.bfloat16) else matrix
        norm = gram_bound(matrix, steps) if method == "gram" else power_norm(matrix, steps)
    return norm * prod(shape[2:]) ** 0.5


def constrain(weight: Tensor, dims: int, limit: float, method: str = "gram", steps: int = 5) -> Tensor:
    """Scale every weight of a batch by itself so that its Lipschitz constant is at most ``limit``; smaller ones stay.

    ``W min(1, limit / |W|)``, differentiable in ``W``. See `lipschitz` for the arguments.
    """
    if not limit > 0:
        raise ValueError(f"limit must be above 0; got {limit}.")
    norm = lipschitz(weight, dims, method, steps)
    factor = (limit / torch.clamp_min(norm, limit)).to(weight.dtype)
    return weight * factor.reshape(*factor.shape, *(1,) * dims)
