"""Phantom gradients, and their one-step case, the Jacobian-free gradient."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from zoo.adjoints.base import Adjoint
from zoo.solvers.autograd import Once, refuse_second_order
from zoo.solvers.base import Map, Solution, Solver
from zoo.solvers.iterate import confirm, iterate
from zoo.solvers.packing import resolution


@dataclass(frozen=True, kw_only=True)
class Phantom(Adjoint):
    """Backpropagate through ``steps`` damped iterations taken at the fixed point: cheap, biased, robust.

    ``z <- (1 - damping) z + damping f(z)``, from ``z*`` held constant. As ``steps`` grows the gradient tends to the
    implicit one; with few it is a descent direction where ``f`` is well conditioned. Costs no linear solve; the
    memory of ``steps`` evaluations. While a gradient is recorded the value is the last of these iterates. A sample that
    the solver lost to infinity or NaN, or that these iterations lose, stays at ``z*`` and gives no gradient.

    Args:
        steps: damped iterations that are differentiated.
        damping: in (0, 1].

    Raises:
        ValueError: an option out of its range.

    Reference: Geng, Zhang, Bai, Wang and Lin, "On training implicit models", NeurIPS 2021.
    """

    steps: int = 5
    damping: float = 0.5

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"Phantom: steps must be at least 1; got {self.steps}.")
        if not 0 < self.damping <= 1:
            raise ValueError(f"Phantom: damping must lie in (0, 1]; got {self.damping}.")

    def solve(self, f: Map, z0: Tensor, solver: Solver, args: tuple[Tensor, ...] | None = None) -> Solution[Tensor]:
        with torch.no_grad():
            solution = iterate(f, z0, solver, args=args)
        if not torch.is_grad_enabled():
            return solution
        lost, calls = solution.stats.lost, self.steps
        still = lost.to(z0.device) if lost is not None and lost.any() else None
        start = solution.value.detach()
        z, first = self._iterate(f, start, args, still)
        solution = confirm(solution, start, first, solver, resolution(f, start))
        if not math.isfinite(z.detach().sum().item()):  # one pass; a sum that only overflowed is looked at closely
            bad = ~torch.isfinite(z.detach()).all(dim=1)
            if bad.any():  # in the graph, they would reach what all samples share by 0 * NaN
                calls += self.steps
                z, _ = self._iterate(f, start, args, bad if still is None else bad | still)
        stats = dataclasses.replace(
            solution.stats,
            nfe=solution.stats.nfe + calls,
            sample_nfe=solution.stats.sample_nfe + calls * len(z),
        )
        if z.requires_grad:  # a gradient cut short at the fixed point is right once
            z = Once.apply(z, partial(refuse_second_order, f"The adjoint {type(self).__name__}"))
        return dataclasses.replace(solution, value=z, stats=stats)

    def _iterate(
        self, f: Map, z: Tensor, args: tuple[Tensor, ...] | None, still: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The damped iterations, but for the samples that are held ``still`` (B,); and the first evaluation."""
        start, first = z, None
        for _ in range(self.steps):
            fz = f(z, *(args or ()))
            first = fz.detach() if first is None else first
            fz = fz if still is None else torch.where(still[:, None], start, fz)
            z = fz if self.damping == 1 else torch.lerp(z, fz, self.damping)
        assert first is not None
        return z, first


def jfb() -> Phantom:
    """The Jacobian-free gradient: ``dL/dtheta ~ dL/dz* df/dtheta (z*)``, the identity in place of the inverse.

    Reference: Fung et al., "JFB: Jacobian-free backpropagation for implicit networks", AAAI 2022.
    """
    return Phantom(steps=1, damping=1.0)
