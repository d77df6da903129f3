"""Any field as a neural-ODE layer."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from zoo.implicit import ImplicitMixin
from zoo.solve import Spec


class NeuralODE(ImplicitMixin, nn.Module):
    """The layer ``y(t_0) -> y(t_T)`` with ``dy/dt = field(t, y)``, around a module of your own.

        >>> import torch
        >>> flow = NeuralODE(nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2)))
        >>> model = nn.Sequential(flow, nn.Linear(2, 3))
        >>> model(torch.randn(4, 2)).shape
        torch.Size([4, 3])
        >>> NeuralODE(flow.field, ts=(0.0, 0.5, 1.0), trajectory=True)(torch.randn(4, 2)).shape
        torch.Size([3, 4, 2])

    ``layer.last`` says how the newest solve went; ``layer.configure_implicit(...)`` changes solver and adjoint, in any
    state of training.

    Args:
        field: called as ``field(t, y)``, or as ``field(y)`` where its ``forward`` takes one argument; returns the
            derivative, shaped like ``y``.
        ts: the times, in order, forward or backward; the input is the state at the first.
        solver: a name of `zoo.list_solvers`, a mapping with options, or an instance.
        adjoint: how gradients cross the solve, given likewise: ``unroll``, ``checkpoint``, ``backsolve``.
        eval_solver: used in evaluation mode, unless None.
        trajectory: return the states at all times, (T, B, ...), instead of the last, (B, ...).

    Raises:
        ValueError: fewer than two times.

    Reference: Chen, Rubanova, Bettencourt and Duvenaud, "Neural ordinary differential equations", NeurIPS 2018,
    https://arxiv.org/abs/1806.07366
    """

    problem_types: ClassVar[tuple[str, ...]] = ("ode",)

    def __init__(
        self,
        field: nn.Module,
        ts: Sequence[float] = (0.0, 1.0),
        solver: Spec | Any = "dopri5",
        adjoint: Spec | Any = "unroll",
        *,
        eval_solver: Spec | Any | None = None,
        trajectory: bool = False,
    ) -> None:
        super().__init__()
        if len(ts) < 2:
            raise ValueError(f"A NeuralODE needs the times of its input and of its output; got ts={tuple(ts)}.")
        self.field, self.ts, self.trajectory = field, tuple(float(t) for t in ts), trajectory
        self.timed = _arguments(field) != 1
        self.configure_implicit(solver, adjoint, eval_solver=eval_solver)

    def forward(self, y0: Tensor) -> Tensor:
        """Return the state at the last time, (B, ...), for one at the first; with ``trajectory`` (T, B, ...)."""
        f = self.field if self.timed else lambda t, y: self.field(y)
        states = self.integrate(f, y0, self.ts, args=(), params=tuple(self.field.parameters()))
        return states if self.trajectory else states[-1]

    def extra_repr(self) -> str:
        return f"ts={self.ts}, trajectory={self.trajectory}"


def _arguments(field: nn.Module) -> int:
    """How many positional arguments without a default a module's ``forward`` takes; 2 where it does not say."""
    parameters = inspect.signature(field.forward).parameters.values()
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return 2
    return sum(p.kind is not p.KEYWORD_ONLY and p.default is p.empty for p in parameters)
