"""What every adjoint shares: the two entry points, and the guard against silent second derivatives."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.solvers.base import Map, Solution, Solver


@dataclass(frozen=True, kw_only=True)
class Adjoint(ABC):  # noqa: B024 (each serves one entry point or both)
    """How gradients cross a solve; a value beside the solver. A subclass serves fixed points, ODEs, or both."""

    def solve(self, f: Map, z0: Tensor, solver: Solver, args: tuple[Tensor, ...] | None = None) -> Solution[Tensor]:
        """The fixed point of ``f`` on (B, N), differentiable in whatever ``f`` depends on."""
        raise wrong_pair(self, "a fixed point", solver, "implicit, phantom, jfb or unroll")

    def integrate(
        self,
        f: Map,
        y0: Tensor,
        ts: Any,
        solver: Any,
        args: Any = None,
        params: Any = None,
        *,
        event: Any = None,
        dense: bool = False,
    ) -> Any:
        """The states of ``dy/dt = f(t, y)`` at the times ``ts``, differentiable. See `zoo.solvers.ode.integrate`."""
        raise wrong_pair(self, "an ODE", solver, "unroll, checkpoint or backsolve")


def wrong_pair(adjoint: Adjoint, problem: str, solver: Any, instead: str) -> TypeError:
    """The error for an adjoint that does not fit a solver, naming both."""
    return TypeError(
        f"The adjoint {type(adjoint).__name__} cannot differentiate {problem} solved by {type(solver).__name__}; "
        f"use {instead}."
    )


class FirstOrder(torch.autograd.Function):
    """The identity, whose gradient refuses to be differentiated again.

    A gradient from the implicit function theorem, or one cut short at the fixed point, is right once. Its own graph
    treats the fixed point as a constant, so that a second derivative through it would be wrong without a word;
    ``once_differentiable`` does not notice, hence this check.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, name: str) -> Tensor:  # type: ignore[override]
        ctx.name = name
        return z.view_as(z)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        refuse_second_order(ctx.name)
        return grads[0], None


def refuse_second_order(name: str) -> None:
    """Raise where a backward pass is itself being recorded (``create_graph=True``)."""
    if torch.is_grad_enabled():
        raise RuntimeError(
            f"The adjoint {name} gives first derivatives only; a second derivative through it (create_graph=True) "
            "would be silently wrong. Use the adjoint 'unroll', which can be differentiated any number of times."
        )


def needs_grad(out: Tensor, own: Tensor) -> bool:
    """Whether anything besides the leaf ``own`` wants a gradient from ``out``: a walk over its graph."""
    return any(leaf is not own for leaf in leaves(out))


def leaves(out: Tensor) -> list[Tensor]:
    """The leaf tensors that ``out`` depends on, parameters and others, each once."""
    found: list[Tensor] = []
    seen: set[Any] = set()
    todo: list[Callable[..., Any] | None] = [out.grad_fn]
    if out.grad_fn is None and out.requires_grad:
        return [out]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):  # AccumulateGrad
            found.append(node.variable)
        todo.extend(parent for parent, _ in node.next_functions)  # type: ignore[attr-defined]
    return found
