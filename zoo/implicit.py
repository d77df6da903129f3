"""`ImplicitMixin`: a solver, an adjoint, and what the last solve did, for any ``nn.Module``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor, nn

from zoo import penalties
from zoo.solve import Spec, fixed_point, make_adjoint, make_solver
from zoo.solvers.base import Result, Stats
from zoo.solvers.packing import Tensors


@dataclass(frozen=True)
class SolveRecord:
    """How a solve ended and what it took; detached numbers only, so that keeping it keeps no graph alive."""

    result: Result
    stats: Stats


class ImplicitMixin:
    """Beside ``nn.Module``: ``class Model(ImplicitMixin, nn.Module)``.

    The model calls `configure_implicit` in its ``__init__`` and `solve` in its ``forward``.

    Attributes:
        solver, adjoint: what the next solve uses.
        eval_solver: used instead of ``solver`` in evaluation mode, unless None.
        last: how the newest solve went, None before the first. The one thing that a forward pass changes.
    """

    solver: Any = None
    adjoint: Any = None
    eval_solver: Any = None
    last: SolveRecord | None = None

    def configure_implicit(
        self,
        solver: Spec | Any | None = None,
        adjoint: Spec | Any | None = None,
        *,
        eval_solver: Spec | Any | None = None,
    ) -> None:
        """Choose the solver and the adjoint; what is None stays as it is. The weights are not touched.

        A solver or adjoint is a name, a mapping ``{"name": ..., option: value}`` or an instance. Where a new solver
        leaves ``rtol``, ``atol`` or ``max_steps`` open, they carry over from the present one.
        """
        if solver is not None:
            self.solver = make_solver(_carry_over(solver, self.solver))
        if eval_solver is not None:
            self.eval_solver = make_solver(_carry_over(eval_solver, self.solver))
        if adjoint is not None:
            self.adjoint = make_adjoint(adjoint)

    def solve(self, f: Callable[..., Tensors], z0: Tensors, *, args: tuple[Tensor, ...] | None = None) -> Any:
        """The fixed point of ``f`` by this module's solver and adjoint; records `last`. See `zoo.fixed_point`."""
        evaluating = self.eval_solver is not None and not self.training  # type: ignore[attr-defined]
        solver = self.eval_solver if evaluating else self.solver
        if solver is None or self.adjoint is None:
            raise RuntimeError(
                f"{type(self).__name__} has no solver yet: call configure_implicit(solver='anderson', "
                "adjoint='implicit') in its __init__."
            )
        solution = fixed_point(f, z0, solver, self.adjoint, args=args)
        self.last = SolveRecord(solution.result, solution.stats)
        penalties.observe(self, f, solution.value, args)
        return solution.value


def _carry_over(spec: Spec | Any, present: Any) -> Spec | Any:
    if not isinstance(spec, str | Mapping) or present is None:
        return spec
    spec = {"name": spec} if isinstance(spec, str) else dict(spec)
    have = {f.name for f in fields(present)} if hasattr(present, "__dataclass_fields__") else set()
    kept = {k: getattr(present, k) for k in ("rtol", "atol", "max_steps") if k in have}
    return {**kept, **spec}


def implicit_modules(model: nn.Module) -> list[tuple[str, ImplicitMixin]]:
    """The implicit modules within a model, itself included, with their names."""
    return [(name, m) for name, m in model.named_modules() if isinstance(m, ImplicitMixin)]
