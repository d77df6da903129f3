"""Derivatives that are part of a model's forward pass: wanted whether or not a graph is recorded around it."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.autograd.forward_ad as fw
from torch import Tensor

from zoo.solvers.inference_mode import derivatives


def jvp(field: Callable[[Tensor, Tensor], Tensor], t: Tensor, z: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """``f(t, z)`` and ``df/dz v``, in one evaluation of dual numbers; both carry a graph where one is recorded."""
    with derivatives(t, z, v) as (t, z, v), fw.dual_level():
        f, along = fw.unpack_dual(field(t, fw.make_dual(z, v)))
    return f, torch.zeros_like(f) if along is None else along  # None: the field does not depend on z


def gradient(energy: Callable[[Tensor], Tensor], y: Tensor) -> Tensor:
    """Return ``dH/dy`` (B, D) of energies ``H(y)`` (B,); it carries a graph where one is recorded around the call."""
    recorded = torch.is_grad_enabled()
    with derivatives(y) as (y,), torch.enable_grad():
        y = y if y.requires_grad else y.detach().requires_grad_()
        return torch.autograd.grad(energy(y).sum(), y, create_graph=recorded, materialize_grads=True)[0]
