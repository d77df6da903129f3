"""States on the way to an equilibrium, for losses that look at more than its end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from zoo.adjoints.unroll import Unroll
from zoo.deq.layer import DEQ
from zoo.implicit import solver_budget, untracked
from zoo.solve import bind
from zoo.solvers.packing import Tensors


def trajectory(layer: DEQ, *inputs: Tensor, at: int | Sequence[int], z0: Tensors | None = None) -> list[Any]:
    """Return the states of one solve after ``at`` evaluations of its cell, and the equilibrium at the end.

        >>> class Cell(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.linear = torch.nn.Linear(8, 8)
        ...     def forward(self, z, x):
        ...         return torch.tanh(0.5 * self.linear(z) + x)
        >>> layer = DEQ(Cell())
        >>> early, late, z = trajectory(layer, torch.randn(4, 8), at=[2, 4])
        >>> z.shape
        torch.Size([4, 8])

    A loss on some of them, with growing weights, teaches the solve to come close early ("fixed-point correction").
    Each state carries the gradient of the layer's adjoint, as if the solve had ended one evaluation later; under
    ``unroll`` it is the derivative of the steps themselves. The batch is kept whole. A solve that ends sooner gives its
    end in place of what was to follow. ``layer.last`` has the solve on record, as after a call of the layer.

    Args:
        layer: whose solver, adjoint and cell are taken.
        *inputs: of the layer.
        at: numbers of evaluations, at least 1 each; or how many states, spread evenly over the solver's budget.
        z0: see `DEQ`.

    Raises:
        ValueError: a number below 1, or more states than the solver has steps.

    Reference: Bai, Geng, Savani and Kolter, "Deep equilibrium optical flow estimation", CVPR 2022,
    https://arxiv.org/abs/2204.08442; as ``n_states`` and ``indexing`` in TorchDEQ.
    """
    solver, _ = layer._present("anderson", "implicit")
    wanted = _spread(at, solver.max_steps) if isinstance(at, int) else list(at)
    if not wanted or min(wanted) < 1:
        raise ValueError(f"at counts evaluations from 1; got {at!r}. Give the numbers of the evaluations to keep.")
    start = torch.zeros_like(inputs[0]) if z0 is None else z0
    cell, count = bind(layer.cell, inputs), 0
    kept: dict[int, Any] = {}
    unrolled = isinstance(layer.adjoint, Unroll)

    def f(z: Any) -> Any:
        nonlocal count
        out = cell(z)
        if unrolled or not torch.is_grad_enabled():  # the evaluation that attaches the gradient is no step
            count += 1
            if count in wanted:
                kept[count] = out
        return out

    end = layer.solve(f, start, coupled=layer.coupled)
    found = [kept.get(k) for k in wanted]
    if unrolled or not torch.is_grad_enabled():
        return [*(end if z is None else z for z in found), end]
    solve = layer.last
    with untracked(), solver_budget(most=1):
        states = [end if z is None else _lent(z, layer.solve(cell, z, coupled=layer.coupled)) for z in found]
    layer.last = solve
    return [*states, end]


def _lent(value: Any, gradient: Any) -> Any:
    """The value of one state with the gradient of another."""
    if isinstance(value, Tensor):
        return gradient + (value - gradient).detach()
    return tuple(_lent(v, g) for v, g in zip(value, gradient, strict=True))


def _spread(count: int, budget: int) -> list[int]:
    """``count`` numbers of evaluations, evenly over a budget, the end of which is the equilibrium itself."""
    if not 0 < count < budget:
        raise ValueError(
            f"at={count} states do not fit the solver's budget of {budget} steps: give at least 1, and fewer than that."
        )
    return [round(budget * (i + 1) / (count + 1)) for i in range(count)]
