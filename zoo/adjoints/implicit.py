"""The implicit function theorem: the gradient of a fixed point is one linear solve."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from zoo.adjoints.base import Adjoint, refuse_second_order
from zoo.solvers.autograd import Attach, needs_grad
from zoo.solvers.base import Affine, Map, Solution, Solver
from zoo.solvers.iterate import iterate
from zoo.solvers.krylov import GMRES, Neumann
from zoo.solvers.packing import resolution
from zoo.solvers.profiler import profile_scope


@dataclass(frozen=True, kw_only=True)
class Implicit(Adjoint):
    """Differentiate the equation, not the solver: memory of one evaluation, whatever the number of steps.

    From ``z* = f(z*, theta)`` follows ``dL/dtheta = u^T (df/dtheta)`` where ``u`` solves ``u = J^T u + dL/dz*`` with
    ``J = df/dz (z*)``. The map is evaluated once more at ``z*`` with its graph recorded: products with ``J^T`` run
    through that graph, and so does the gradient to the parameters. Tensors that ``f`` only captures (weights written
    by another network, say) get their gradient by the same road, as does a backward pass under autocast.

    The incoming gradient is scaled to a root mean square of 1 for each sample, so that the tolerances of ``solver``
    are relative: the work does not depend on the scale of the loss.

    Args:
        solver: of the linear system; any registered one. GMRES needs the fewest products.
        select: ``best`` returns the iterate of least residual; ``last`` the last one, for a descent whose residual
            rises on its way past a saddle, where the iterate of least residual may be the start.

    Reference: Bai, Kolter and Koltun, "Deep equilibrium models", NeurIPS 2019, theorem 1.
    """

    solver: Solver = field(default_factory=lambda: GMRES(rtol=1e-3, max_steps=30))
    select: Literal["best", "last"] = "best"

    def __post_init__(self) -> None:
        if not all(callable(getattr(self.solver, a, None)) for a in ("init", "step", "value")):
            raise TypeError(f"The adjoint Implicit needs a solver instance, such as GMRES(); got {self.solver!r}.")
        if self.select not in ("best", "last"):
            raise ValueError(f"The adjoint Implicit selects the 'best' iterate or the 'last'; got {self.select!r}.")

    def solve(self, f: Map, z0: Tensor, solver: Solver, args: tuple[Tensor, ...] | None = None) -> Solution[Tensor]:
        with torch.no_grad():
            solution = iterate(f, z0, solver, args=args, select=self.select)
        return attach(f, solution, self.solver, args=args, name=type(self).__name__)


def neumann(*, terms: int = 5, rtol: float = 1e-6) -> Implicit:
    """The implicit adjoint with the inverse cut to ``terms`` Neumann terms, ``u = sum_{k<=terms} (J^T)^k dL/dz*``.

    Args:
        terms: products with ``J^T`` at most; 0 terms would be the Jacobian-free gradient (`jfb`). Terms that grow are
            left out.
        rtol: stop earlier where the next term is this small beside the gradient.
    """
    return Implicit(solver=Neumann(max_steps=terms, rtol=rtol, atol=0.0))


def attach(
    f: Map,
    solution: Solution[Tensor],
    solver: Solver,
    *,
    args: tuple[Tensor, ...] | None,
    name: str,
    guess: Callable[[Tensor], Tensor] | None = None,
) -> Solution[Tensor]:
    """Give a fixed point its implicit gradient.

    Args:
        f, args: the map and its per-sample arguments.
        solution: of the forward solve; its value carries no graph.
        solver: of the adjoint system.
        name: of the adjoint, for messages.
        guess: a first ``u`` from the incoming gradient; None: where the solver begins best.
    """
    if not torch.is_grad_enabled():
        return solution
    z = solution.value.detach().requires_grad_()
    fz = f(z, *(args or ()))
    stats = dataclasses.replace(
        solution.stats, nfe=solution.stats.nfe + 1, sample_nfe=solution.stats.sample_nfe + len(z)
    )
    value = solution.value
    if fz.requires_grad and needs_grad(fz, z):
        floor = resolution(f, z)
        select: Literal["best", "ahead"] = "ahead" if isinstance(solver, Neumann) else "best"

        def adjoint(grad: Tensor) -> Tensor:
            scale = torch.linalg.vector_norm(grad, dim=1, keepdim=True) / math.sqrt(grad.shape[1])
            b = grad / torch.where(scale > 0, scale, torch.ones_like(scale))
            system, start = Affine(lambda u: _vjp(fz, z, u), b, _Transpose(fz, z)).start(solver)
            start = start if guess is None else guess(b)
            with profile_scope(f"backward solve by {type(solver).__name__}"):
                u = iterate(system, start, solver, floor=floor, select=select)
            stats.backward.append(u.stats)
            return u.value * scale

        value = Attach.apply(fz, value, adjoint, partial(refuse_second_order, name))
    return dataclasses.replace(solution, value=value, stats=stats)


def _vjp(fz: Tensor, z: Tensor, u: Tensor) -> Tensor:
    """``J^T u`` through the recorded graph of one evaluation."""
    return torch.autograd.grad(fz, z, u, retain_graph=True, materialize_grads=True)[0]


class _Transpose:
    """``J v``, the transpose of the map's own product: the derivative of ``w -> J^T w``, which is linear in ``w``.

    The graph of ``J^T w`` is made when the first product is asked for: most methods never do.
    """

    def __init__(self, fz: Tensor, z: Tensor) -> None:
        self.fz, self.z = fz, z
        self.w: Tensor | None = None

    def __call__(self, v: Tensor) -> Tensor:
        with torch.enable_grad():
            if self.w is None:
                self.w = torch.zeros_like(v).requires_grad_()
                self.product = torch.autograd.grad(
                    self.fz, self.z, self.w, retain_graph=True, create_graph=True, materialize_grads=True
                )[0]
            return torch.autograd.grad(self.product, self.w, v, retain_graph=True, materialize_grads=True)[0]
