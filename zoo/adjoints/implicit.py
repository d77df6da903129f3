"""The implicit function theorem: the gradient of a fixed point is one linear solve."""

from __future__ import annotations

import dataclasses
import math
import warnings
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from zoo._compat import will_execute
from zoo.adjoints.base import Adjoint
from zoo.solvers.autograd import Attach, needs_grad, own_leaf, refuse_second_order
from zoo.solvers.base import Affine, BackwardLog, Map, Solution, Solver, Stats
from zoo.solvers.iterate import confirm, iterate, spread
from zoo.solvers.krylov import GMRES, Neumann
from zoo.solvers.packing import mixes, resolution
from zoo.solvers.profiler import profile_scope
from zoo.solvers.progress import noise


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
        return attach(f, solution, solver, self.solver, args=args, name=type(self).__name__)


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
    forward: Solver,
    solver: Solver | None,
    *,
    args: tuple[Tensor, ...] | None,
    name: str,
    guess: Callable[[Tensor], Tensor] | None = None,
) -> Solution[Tensor]:
    """Give a fixed point its implicit gradient.

    Args:
        f, args: the map and its per-sample arguments.
        solution: of the forward solve; its value carries no graph.
        forward: the solver that found it.
        solver: of the adjoint system; None: ``guess`` is the answer.
        name: of the adjoint, for messages.
        guess: a first ``u`` from the incoming gradient; None: where the solver begins best.
    """
    if not torch.is_grad_enabled():
        return solution
    z = own_leaf(solution.value)
    fz = f(z, *(args or ()))
    floor = resolution(f, z)
    solution = confirm(solution, z, fz, forward, floor)
    stats = dataclasses.replace(
        solution.stats, nfe=solution.stats.nfe + 1, sample_nfe=solution.stats.sample_nfe + len(z)
    )
    value = solution.value
    if fz.requires_grad and needs_grad(fz, z):
        log = BackwardLog()
        stats = dataclasses.replace(stats, backward=log)
        adjoint = _AdjointSystem(fz, z, solver, guess, floor, mixes(f) or stats.coupled, log)
        value = Attach.apply(fz, value, adjoint, partial(refuse_second_order, f"The adjoint {name}"))
    return dataclasses.replace(solution, value=value, stats=stats)


class _AdjointSystem:
    """``u = J^T u + g`` for a gradient ``g`` that comes in, solved for every sample by itself where that is right.

    The rows of ``g`` are scaled one by one, and a Krylov method searches a space for each. Both are wrong where
    samples depend on one another: such a batch is solved as one system. Where nothing is known of it, one product with
    the answer tells. ``loss.backward()`` makes that product by itself on its way to ``z``, a leaf, but only after the
    gradient has gone out: there a batch that turns out to be coupled is refused. ``torch.autograd.grad`` does not, and
    there the system is solved again.

    Args:
        fz, z: the recorded evaluation of the map.
        solver, guess: as `attach` has them.
        floor: least relative tolerance.
        coupled: whether samples depend on one another; None: unknown.
        log: where the stats of each backward solve go.
    """

    def __init__(
        self,
        fz: Tensor,
        z: Tensor,
        solver: Solver | None,
        guess: Callable[[Tensor], Tensor] | None,
        floor: float,
        coupled: bool | None,
        log: BackwardLog,
    ) -> None:
        self.fz, self.z, self.solver, self.guess, self.floor, self.log = fz, z, solver, guess, floor, log
        self.coupled = False if len(z) == 1 else coupled
        self.unseen: tuple[Tensor, Tensor] | None = None  # (g, u) of a backward pass that has yet to reach z
        self.node = torch.autograd.graph.get_gradient_edge(z).node
        arrived = weakref.WeakMethod(self._arrived)  # z must not keep the system that keeps it
        z.register_post_accumulate_grad_hook(lambda z: (arrived() or _ignore)(z))

    def __call__(self, grad: Tensor) -> Tensor:
        if self.solver is None:
            u, stats = self._estimate(grad)
        else:
            u, stats = self._solve(grad, self.solver, None)
            # The Neumann series has no inner products: a common scale makes it right for any batch.
            if self.coupled is None and not isinstance(self.solver, Neumann) and will_execute(self.node):
                self.unseen = grad, u
            elif self.coupled is None and not isinstance(self.solver, Neumann):
                rest = grad + self.product(u) - u
                self.coupled = bool(self._differs(rest, grad, u, stats))
                stats = dataclasses.replace(stats, nfe=stats.nfe + 1, sample_nfe=stats.sample_nfe + len(grad))
                if self.coupled:
                    warnings.warn(
                        "The samples of a batch depend on one another, which the forward solve had not shown: their "
                        "gradient was solved again, as one system. Say coupled=True, or give the state a leading axis "
                        "of 1, which saves the first solve.",
                        stacklevel=2,
                    )
                    products = stats.nfe
                    u, stats = self._solve(grad, self.solver, u if bool(torch.isfinite(u).all()) else None)
                    stats = dataclasses.replace(stats, nfe=stats.nfe + products)
        if not math.isfinite(float(u.detach().sum())):
            stats = dataclasses.replace(stats, lost=~torch.isfinite(u).all(dim=1).cpu())
        self.log.append(stats)
        return u

    def _arrived(self, z: Tensor) -> None:
        """Take ``J^T u``, which a backward pass has brought to ``z``, and hold the answer against it."""
        product, z.grad = z.grad, None
        if self.unseen is None or product is None:
            return
        grad, u = self.unseen
        self.unseen = None
        if self._differs(grad + product - u, grad, u, self.log[-1]):
            self.coupled = True
            raise RuntimeError(
                "The samples of a batch depend on one another, and their gradient was computed as if they did not. "
                "Solve the batch as one system: coupled=True, or a leading axis of 1."
            )

    def product(self, u: Tensor) -> Tensor:
        """``J^T u`` through the recorded graph of one evaluation."""
        return torch.autograd.grad(self.fz, self.z, u, retain_graph=True, materialize_grads=True)[0]

    def _solve(self, grad: Tensor, solver: Solver, start: Tensor | None) -> tuple[Tensor, Stats]:
        """Solve, as one system where samples are known to be coupled; from ``start``, where one is known."""
        rows = (1, -1) if self.coupled else grad.shape
        scale = _scale(grad.reshape(rows))
        if self.coupled is None and isinstance(solver, Neumann):
            scale = scale.amax(dim=0, keepdim=True).expand_as(scale)
        b = grad.reshape(rows) / scale
        transpose = _Transpose(self.fz, self.z)
        system, u0 = Affine(
            lambda u: self.product(u.view(grad.shape)).reshape(rows),
            b,
            lambda u: transpose(u.view(grad.shape)).reshape(rows),
        ).start(solver)
        if start is not None:
            u0 = start.reshape(rows) / scale
        elif self.guess is not None:
            u0 = self.guess(grad / scale.view(-1, 1)).reshape(rows)
            u0 = torch.where(torch.isfinite(u0).all(dim=1, keepdim=True), u0, b)
        select: Literal["best", "ahead"] = "ahead" if isinstance(solver, Neumann) else "best"
        with profile_scope(f"backward solve by {type(solver).__name__}"):
            found = iterate(system, u0, solver, floor=self.floor, select=select)
        stats = found.stats if not self.coupled else spread(found.stats, len(grad))
        return (found.value * scale).view(grad.shape), dataclasses.replace(stats, coupled=self.coupled)

    def _estimate(self, grad: Tensor) -> tuple[Tensor, Stats]:
        """The guess as it stands, and one product to measure it."""
        assert self.guess is not None
        scale = _scale(grad)
        u = self.guess(grad / scale)
        u = torch.where(torch.isfinite(u).all(dim=1, keepdim=True), u, grad / scale) * scale
        rest = grad + self.product(u) - u
        size = torch.linalg.vector_norm(grad / scale, dim=1)
        residual = torch.linalg.vector_norm(rest / scale, dim=1) / torch.where(size > 0, size, torch.ones_like(size))
        residual = residual.double().cpu()
        zero = torch.zeros(len(grad), dtype=torch.int64)
        lost = torch.zeros(len(grad), dtype=torch.bool)
        return u, Stats(1, zero, residual, residual <= self.floor, residual[None], len(grad), lost=lost)

    def _differs(self, rest: Tensor, grad: Tensor, u: Tensor, stats: Stats) -> Tensor:
        """Whether the true residual is another than the one that the solve has found, sample by sample."""
        sizes = torch.stack([_rms(x) for x in (rest, grad, u)]).double().cpu()
        true, size, most = sizes
        slack = noise(self.floor, grad.device.type) * (
            size + most + float(most.nan_to_num(0.0, 0.0, 0.0).amax())
        ).nan_to_num(0.0, 0.0, 0.0)
        allowed = 1.5 * stats.residual.nan_to_num(0.0) * size + slack
        return (torch.isfinite(size) & ~(true <= allowed)).any()  # a NaN that the gradient did not bring, too


def _ignore(z: Tensor) -> None:
    """Do nothing: for a graph that is gone."""


def _rms(x: Tensor) -> Tensor:
    """(B,) root mean squares of (B, N), whose squares neither under- nor overflow."""
    most = x.abs().amax(dim=1, keepdim=True)
    unit = torch.where((most > 0) & torch.isfinite(most), most, torch.ones_like(most))
    return torch.linalg.vector_norm(x / unit, dim=1) * unit[:, 0] / math.sqrt(x.shape[1])


def _scale(grad: Tensor) -> Tensor:
    """(B, 1) root mean squares, and 1 for a sample without a gradient.

    Of a gradient that is not finite it is not either, so that the answer is not: a scaler of mixed precision sees it.
    """
    scale = _rms(grad)[:, None]
    return torch.where(scale == 0, torch.ones_like(scale), scale)


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
