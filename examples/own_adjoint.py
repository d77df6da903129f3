"""A gradient of your own across a solve: the identity in place of (I - df/dz)^-1, scaled, beside the exact one."""

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

import zoo
from zoo.adjoints import ADJOINTS
from zoo.adjoints.base import Adjoint
from zoo.solvers.base import Map, Solution, Solver
from zoo.solvers.iterate import iterate


@ADJOINTS.register("scaled_one_step", kind="fixed_point", summary="one step, scaled")
@dataclass(frozen=True, kw_only=True)
class ScaledOneStep(Adjoint):
    """``dL/dtheta = scale * dL/dz* df/dtheta``: no linear system, and a descent direction where f contracts.

    Args:
        scale: of the gradient; 1 / (1 - L) is the most that a contraction of rate L can make of it.
    """

    scale: float = 1.0

    def solve(self, f: Map, z0: Tensor, solver: Solver, args: tuple[Tensor, ...] | None = None) -> Solution[Tensor]:
        with torch.no_grad():
            solution = iterate(f, z0, solver, args=args)  # the solve itself, whatever the solver
        if not torch.is_grad_enabled():
            return solution
        z = solution.value.detach()
        one = f(z, *(args or ()))  # the same value, now with a graph
        return replace(solution, value=z + self.scale * (one - one.detach()))


torch.manual_seed(0)
w, x = 0.3 * torch.randn(6, 6), torch.randn(4, 6)
gradients = {}
for adjoint in ("implicit", {"name": "scaled_one_step", "scale": 1.5}):
    weight = w.clone().requires_grad_()
    f = partial(lambda z, x, w: torch.tanh(z @ w + x), w=weight)
    zoo.fixed_point(f, torch.zeros(4, 6), args=(x,), adjoint=adjoint).value.square().sum().backward()
    gradients[str(adjoint)] = weight.grad.flatten()
exact, cheap = gradients.values()
print(f"cosine of the two gradients: {torch.cosine_similarity(exact, cheap, dim=0):.3f}")
