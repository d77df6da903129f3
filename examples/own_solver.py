"""A solver of your own: heavy-ball iteration, z <- f(z) + momentum (z - z_before), under a name like the others."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

import zoo
from zoo.solvers import SOLVERS
from zoo.solvers.base import FixedPointSolver


class State(NamedTuple):
    z: Tensor
    norm: Tensor  # of the residual, for each sample: the loop that drives the solver stops by it
    fz: Tensor
    before: Tensor


@SOLVERS.register("heavy_ball", kind="fixed_point", summary="the map with momentum")
@dataclass(frozen=True, kw_only=True)
class HeavyBall(FixedPointSolver):
    """Propose ``f(z) + momentum (z - z_before)``; stopping, best iterates and statistics are the loop's.

    Args:
        momentum: share of the last step that is added, in [0, 1).
    """

    momentum: float = 0.2

    def start(self, z: Tensor, fz: Tensor) -> State:
        return State(z, torch.linalg.vector_norm((fz - z).detach(), dim=1), fz, z)

    def propose(self, state: State) -> tuple[Tensor, State]:
        return state.fz + self.momentum * (state.z - state.before), state

    def absorb(self, state: State, z: Tensor, fz: Tensor) -> State:
        return State(z, torch.linalg.vector_norm((fz - z).detach(), dim=1), fz, state.z)


torch.manual_seed(0)
w = torch.linalg.qr(torch.randn(8, 8))[0] * 0.7
for solver in ("picard", {"name": "heavy_ball", "momentum": 0.1}):
    solution = zoo.fixed_point(lambda z: torch.tanh(z @ w + 1), torch.zeros(4, 8), solver=solver)
    print(f"{solver}: {solution.stats.nfe} evaluations, converged: {bool(solution.stats.converged.all())}")

model = zoo.load("mdeq_tiny.digits", solver={"name": "heavy_ball", "rtol": 1e-2, "max_steps": 60})
print("mdeq_tiny.digits with it:", tuple(model(torch.zeros(1, 1, 8, 8)).shape))
