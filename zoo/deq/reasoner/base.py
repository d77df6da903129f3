"""Equilibrium reasoner: the answer to a puzzle is read off a fixed point.

    z* = f(z*, e(givens)),    logits = read(z*)

Trained with few recorded iterations at a time (`zoo.tasks.reasoning`), solved with many: depth at test is the point.
The residual says, without a label, whether an answer can be trusted.

References: Jolicoeur-Martineau, "Less is more: recursive reasoning with tiny networks", 2025,
https://arxiv.org/abs/2510.04871; "Equilibrium reasoners", ICML 2026, https://arxiv.org/abs/2605.21488
"""

from __future__ import annotations

from torch import Tensor

from zoo.implicit import ImplicitMixin
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
        """Return the equilibrium for givens (B, H, W), sought from ``z0`` on (None: from `start`)."""
        e = self.embed(givens)
        return self.solve(self.cell, self.start(givens) if z0 is None else z0, args=(e,))
