"""The stages of an explicit Runge-Kutta step, shared by the eager and the compiled stepper.

Stages stay separate contiguous tensors and are summed by ``add_(k, alpha=a dt)`` with ``a dt`` a Python float: such a
sum saves nothing for the backward pass, so that a discrete gradient keeps what ``f`` keeps, and nothing of the method.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from zoo.solvers.ode.base import Attempt, Field, Norm, VectorField, scaled
from zoo.solvers.ode.tableaus import Tableau, Terms


def combine(y: Tensor, dt: float | Tensor, terms: Terms, ks: list[Tensor]) -> Tensor:
    """``y + dt sum_i w_i k_i`` in one fresh tensor."""
    if dt.__class__ is not float:
        return y + weighted(1.0, terms, ks) * dt
    i, w = terms[0]
    out = torch.add(y, ks[i], alpha=w * dt)
    for i, w in terms[1:]:
        out.add_(ks[i], alpha=w * dt)
    return out


def weighted(dt: float | Tensor, terms: Terms, ks: list[Tensor]) -> Tensor:
    """``dt sum_i w_i k_i`` in one fresh tensor."""
    if dt.__class__ is not float:
        return weighted(1.0, terms, ks) * dt
    i, w = terms[0]
    out = ks[i] * (w * dt)
    for i, w in terms[1:]:
        out.add_(ks[i], alpha=w * dt)
    return out


class ErrorControl(NamedTuple):
    """What the error of a step is measured by."""

    rtol: float
    atol: float
    norm: Norm


def attempt(
    tableau: Tableau,
    control: ErrorControl | None,
    f: Field | VectorField,
    times: tuple[Tensor, ...],
    dt: float | Tensor,
    y: Tensor,
    k: Tensor,
    dense: bool,
) -> Attempt:
    """One step of a tableau, with its error over tolerance unless ``control`` is None."""
    ks = [k]
    z = y
    for time, terms in zip(times, tableau.stages, strict=True):
        z = combine(y, dt, terms, ks)
        ks.append(f(time, z))
    y1 = z if tableau.fsal else combine(y, dt, tableau.solution, ks)
    ratio = None
    if control is not None:
        with torch.no_grad():
            error = weighted(dt, tableau.error, ks)
            ratio = control.norm(scaled(error, y, y1, control.rtol, control.atol))
    quartic = weighted(dt, tableau.quartic, ks) if dense and tableau.dense_coeff else None
    return Attempt(y1, ks[-1] if tableau.fsal else None, ratio, quartic)
