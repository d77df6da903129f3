"""Optimization problems that differ in one right side, with their optima where the problem is convex."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from zoo.data.tensors import Split, TensorData
from zoo.deq.optimization.qp import QP
from zoo.layers.quadratic import QuadraticFamily


class QuadraticPrograms(TensorData):
    """Right sides x, uniform in [-1, 1]^E, and the optimal objectives of the validation and the test.

    Args:
        batch_size: problems a batch.
        seed: of the order; not of the problems.
        variables, equalities, inequalities: of the family, see `QuadraticFamily`.
        convex: whether the objective is; else ``p'sin(y)`` stands in it, and no optimum is known (0 is given).
        count: problems in all; a twelfth validates, another is the test, as in DC3.

    Raises:
        ValueError: a size that no family has, or fewer than 24 problems.
    """

    reads_files = False

    def __init__(
        self,
        batch_size: int = 200,
        seed: int = 0,
        variables: int = 100,
        equalities: int = 50,
        inequalities: int = 50,
        convex: bool = True,
        count: int = 10_000,
    ) -> None:
        super().__init__(None, batch_size, seed)
        if count < 24:
            raise ValueError(f"QuadraticPrograms: count must be at least 24; got {count}.")
        self.family = QuadraticFamily(variables, equalities, inequalities, convex)
        self.features, self.count = equalities, count

    def model_arguments(self) -> dict[str, int]:
        """Return the sizes of the family, which the model holds too."""
        f = self.family
        return {
            "features": f.equalities,
            "variables": f.variables,
            "inequalities": f.inequalities,
            "convex": f.convex,
        }

    def read(self) -> dict[str, Split]:
        random = np.random.RandomState(17)
        x = torch.from_numpy(random.uniform(-1, 1, size=(self.count, self.features)))
        held = self.count // 12
        parts = {"train": x[: -2 * held], "val": x[-2 * held : -held], "test": x[-held:]}
        return {name: (part.float(), self.optima(part.float(), name)) for name, part in parts.items()}

    @torch.no_grad()
    def optima(self, x: Tensor, name: str) -> Tensor:
        """Return the optimal objectives (n, 1), float64; 0 for what is trained on, and where none is known."""
        f = self.family
        if name == "train" or not f.convex:
            return torch.zeros(len(x), 1, dtype=torch.float64)
        solver = QP(throw=True)
        found = [solver(f.Q.diag(), f.p.expand(len(part), -1), f.A, part.double(), f.G, f.h) for part in x.split(512)]
        return f.objective(torch.cat(found))[:, None]


class NonconvexPrograms(QuadraticPrograms):
    """`QuadraticPrograms` with ``p'sin(y)`` in the objective."""

    def __init__(
        self,
        batch_size: int = 200,
        seed: int = 0,
        variables: int = 100,
        equalities: int = 50,
        inequalities: int = 50,
        count: int = 10_000,
    ) -> None:
        super().__init__(batch_size, seed, variables, equalities, inequalities, False, count)
