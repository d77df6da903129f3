"""Equilibrium reasoner: the answer to a puzzle is read off a fixed point.

    z* = f(z*, e(givens)),    logits = read(z*)

Trained with few recorded iterations at a time (`zoo.tasks.reasoning`), solved with many: depth at test is the point.
The residual says, without a label, whether an answer can be trusted.

References: Jolicoeur-Martineau, "Less is more: recursive reasoning with tiny networks", 2025,
https://arxiv.org/abs/2510.04871; "Equilibrium reasoners", ICML 2026, https://arxiv.org/abs/2605.21488
"""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.deq.reasoner.starts import Best, asked_starts, best_of
from zoo.implicit import ImplicitMixin, SolveRecord, untracked
from zoo.layers.grids import GridCell, GridModel


class Reasoner(ImplicitMixin, GridModel):
    """A `GridModel` whose state is an equilibrium of its cell, by plain iteration unless told otherwise.

    Args:
        cell: the map.
        start_std: of the random starts.
    """

    def __init__(self, cell: GridCell, start_std: float = 1.0) -> None:
        super().__init__(cell, start_std)
        self.configure_implicit({"name": "picard", "rtol": 1e-4, "max_steps": 128}, "unroll")

    def equilibrium(self, givens: Tensor, z0: Tensor | None = None) -> Tensor:
        """Return the equilibrium for givens (B, H, W), sought from ``z0`` on (None: from `start`).

        In evaluation, within `zoo.deq.reasoner.starts.random_starts`, it is the best of several starts.
        """
        if z0 is None and not self.training and asked_starts().count > 1:
            return self.best(givens).solution.value
        e = self.embed(givens)
        return self.solve(self.cell, self.start(givens) if z0 is None else z0, args=(e,))

    def best(self, givens: Tensor) -> Best:
        """Return the equilibrium of least residual of givens (B, H, W), of the starts that the scope asks for."""

        def solve(rows: Tensor, z0: Tensor | None) -> tuple[Tensor, SolveRecord]:
            some = givens[rows.to(givens.device)]
            z = self.equilibrium(some, self.start(some) if z0 is None else z0)
            assert self.last is not None  # a solve leaves its record
            return z, self.last

        def start(generator: torch.Generator) -> Tensor:
            return self.start(givens[:1], random=True, generator=generator)

        with untracked():  # the one record of all is that of the best
            found = best_of(asked_starts(), len(givens), solve, start)
        self.record(SolveRecord(found.solution.result, found.solution.stats))
        self._refuse_unfinished(found.solution)
        return found
