"""Whether stability, not accuracy, bounds the steps of an explicit solver."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from zoo.solvers.ode.base import Field, sample_norm
from zoo.solvers.packing import resolution

PRODUCTS = 8  # with the Jacobian; each one evaluation, of a solve that has failed
BOUND = 1.25  # of dt |lambda|: half of what the explicit methods here bear on the negative axis


@torch.no_grad()
def stiff(field: Field, t: Tensor, y: Tensor, dt: np.ndarray | float) -> np.ndarray:
    """(B,) whether the field damps some direction so fast that a step ``dt`` is near the bound of stability.

    Power iteration on the Jacobian by differences of the field, from a random direction ``v``; its Rayleigh quotient
    ``v . Jv`` tends to the eigenvalue of largest size where that is real. Oscillations, which an accurate solution must
    follow anyway, have quotients near zero. Asked only of a solve that has failed.
    """
    norm, dims = sample_norm(y), tuple(range(1, y.dim()))
    shape = (-1,) + (1,) * (y.dim() - 1)
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y)
    width = math.sqrt(resolution(field.f, y)) * (norm(y) + 1e-3).view(shape)
    f0 = field(t, y)
    quotient = torch.zeros(len(y), dtype=y.dtype, device=y.device)
    for _ in range(PRODUCTS):
        v = v / norm(v).clamp_min(torch.finfo(y.dtype).tiny).view(shape)
        product = (field(t, y + width * v) - f0) / width
        quotient = (v * product).mean(dims) if dims else v * product
        v = product
    speed = -quotient.cpu().numpy().astype(np.float64) * np.sign(dt)
    return np.isfinite(speed) & (speed * np.abs(dt) > BOUND)
