"""Gradients of what was learned with respect to how it was learned.

A model trained to the end is a fixed point of gradient descent, ``w* = w* - step dE/dw (w*; h)``, with hyperparameters
``h`` in the energy: a penalty for every weight, a weight for every training example. The implicit function theorem
that differentiates equilibria gives

    d L(w*) / dh = - dL/dw  H^-1  d^2E / dw dh,        H = d^2E / dw^2

by the same adjoint: its linear system ``(I - J) u = dL/dw`` has ``I - J = step H``, which is symmetric, so that
conjugate gradients solve it; ``neumann`` with few terms is the cheap approximation of the reference. As many
hyperparameters as weights cost no more than one.

Reference: Lorraine, Vicol and Duvenaud, "Optimizing millions of hyperparameters by implicit differentiation",
AISTATS 2020, https://arxiv.org/abs/1911.02590
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from zoo.adjoints.base import Adjoint
from zoo.hypernet.maml import Weights, descent
from zoo.solve import Spec, fixed_point
from zoo.solvers.base import Solution, Solver

SOLVER = {"name": "anderson", "window": 10, "rtol": 1e-5, "atol": 1e-9, "max_steps": 300}
ADJOINT = {"name": "implicit", "solver": {"name": "cg", "symmetric": True, "rtol": 1e-4, "atol": 0.0, "max_steps": 300}}


def minimise(
    energy: Callable[[Weights], Tensor],
    start: Weights,
    *,
    step: float,
    solver: Spec | Solver | None = None,
    adjoint: Spec | Adjoint | None = None,
    throw: bool = False,
) -> Solution[Any]:
    """Find ``argmin_w energy(w)``, differentiable in whatever the energy depends on.

        >>> data, target = torch.randn(20, 3), torch.randn(20)
        >>> penalty = torch.full((3,), 0.1, requires_grad=True)
        >>> ridge = lambda w: (data @ w[0] - target).square().mean() / 2 + (penalty * w[0].square()).sum() / 2
        >>> weights = minimise(ridge, (torch.zeros(3),), step=0.2).value[0]
        >>> weights.sum().backward()
        >>> penalty.grad.shape
        torch.Size([3])

    Args:
        energy: of the weights, twice differentiable; a number. Hyperparameters are tensors that it captures.
        start: where the descent begins: the solution for the last hyperparameters saves most of it. No gradient goes
            there; of several minima it decides which one is found.
        step: of the descent. Below 2 over the largest eigenvalue of the Hessian plain descent (``picard``) converges;
            Anderson, the default, needs it only near that.
        solver: of the descent; its residual is ``step |dE/dw|``, measured against ``|w|``. Anderson may end at any
            point where the gradient is 0: right for convex energies. Where there are saddles (networks with hidden
            layers) start with ``picard``.
        adjoint: of the gradient: ``implicit`` with ``cg`` by default; ``neumann`` for a few terms; ``unroll`` to
            differentiate the descent itself.
        throw: raise where the descent did not converge, as the theorem holds at a minimum only.

    Returns:
        the solution, with the weights as a tuple like ``start``.

    Raises:
        ValueError: a step that is not above 0, no weights, or an energy that is no single number.
        SolveError: with ``throw``.
    """
    if not step > 0:
        raise ValueError(f"step must be above 0; got {step}.")
    if not start:
        raise ValueError("start must hold at least one tensor of weights; got none.")
    with torch.no_grad():
        value = energy(start)
    if value.dim():
        raise ValueError(f"The energy must be a single number; got a tensor of shape {tuple(value.shape)}. Sum it.")
    begin = tuple(w.detach() for w in start)

    def one(w: Weights) -> Tensor:
        return energy(tuple(v[0] for v in w))

    solution = fixed_point(
        descent(one, begin, step=step, prior=0.0),
        tuple(w[None] for w in begin),
        SOLVER if solver is None else solver,
        ADJOINT if adjoint is None else adjoint,
        args=(),
        throw=throw,
    )
    return dataclasses.replace(solution, value=tuple(w[0] for w in solution.value))
