"""What a solve needs of autograd's graph: its leaves, and the joint between a solution and the equation it solves."""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Any

import torch
from torch import Tensor

OWN = "_leaf_of_a_solve"  # attribute of the tensors that `own_leaf` makes


def own_leaf(x: Tensor) -> Tensor:
    """A leaf with the data of ``x`` that belongs to a solve: its gradient is the solve's matter, and no caller's."""
    x = x.detach().requires_grad_()
    setattr(x, OWN, True)
    return x


def leaves(out: Tensor, stop: Container[Any] = ()) -> list[Tensor]:
    """The leaf tensors that ``out`` depends on, parameters and others, each once: a walk, no computation.

    Those of solves within (`own_leaf`) are left out.

    Args:
        out: where to begin.
        stop: graph nodes (``grad_fn``) behind which not to look.
    """
    if out.grad_fn is None:
        return [out] if out.requires_grad else []
    found: list[Tensor] = []
    seen: set[Any] = set()
    todo: list[Any] = [out.grad_fn]
    while todo:
        node = todo.pop()
        if node is None or node in seen or node in stop:
            continue
        seen.add(node)
        if hasattr(node, "variable") and not hasattr(node.variable, OWN):  # AccumulateGrad
            found.append(node.variable)
        todo.extend(parent for parent, _ in node.next_functions)
    return found


def needs_grad(out: Tensor, own: Tensor) -> bool:
    """Whether anything besides the leaf ``own`` wants a gradient from ``out``."""
    return any(leaf is not own for leaf in leaves(out))


UNROLL = "the adjoint 'unroll', which can be differentiated any number of times"


def refuse_second_order(what: str, instead: str = UNROLL) -> None:
    """Raise where a backward pass is itself being recorded (``create_graph=True``).

    A gradient from the implicit function theorem is right once: its own graph treats the solution as a constant, so
    that a second derivative through it would be wrong without a word. ``once_differentiable`` does not notice.

    Args:
        what: gives first derivatives only, as the subject of a sentence.
        instead: what to use where more are needed.
    """
    if torch.is_grad_enabled():
        raise RuntimeError(
            f"{what} gives first derivatives only; a second derivative through it (create_graph=True) would be "
            f"silently wrong. Use {instead}."
        )


class Attach(torch.autograd.Function):
    """The solution of ``z = g(z)`` forward; backward, what enters the graph of ``g(z)`` solves the adjoint system.

    Args:
        gz: ``g(z)``, with its graph.
        z: the solution, without one.
        adjoint: from the incoming gradient to the solution of the adjoint system.
        refuse: called first in every backward pass; raises where that is recorded (`refuse_second_order`).
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, gz: Tensor, z: Tensor, adjoint: Callable[[Tensor], Tensor], refuse: Callable[[], None]
    ) -> Tensor:
        ctx.adjoint, ctx.refuse = adjoint, refuse
        return z.view_as(z)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        ctx.refuse()
        return ctx.adjoint(grads[0]), None, None, None


class Once(torch.autograd.Function):
    """A tensor as it is, whose gradient is right once: ``refuse`` is called first in every backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, refuse: Callable[[], None]) -> Tensor:  # type: ignore[override]
        ctx.refuse = refuse
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        ctx.refuse()
        return grads[0], None
