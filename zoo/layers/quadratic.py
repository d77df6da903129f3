"""A family of optimization problems that differ in one right side: what a network is to solve in one pass.

    minimize f(y) = 1/2 y'Qy + p'y,  or  1/2 y'Qy + p'sin(y)      subject to   Ay = x,  Gy <= h

Every sample is an ``x``; Q, p, A, G and h are the family's. ``h_i = sum_j |(G A^+)_ij|`` makes ``A^+ x`` feasible for
every x in [-1, 1]^E.

Reference: Donti, Rolnick and Kolter, "DC3: a learning method for optimization with hard constraints", ICLR 2021,
https://arxiv.org/abs/2104.12225, section 4.1.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn


class QuadraticFamily(nn.Module):
    """The constants of the family as buffers (float64), its objective and its violation.

    Args:
        variables, equalities, inequalities: numbers of y, rows of A, rows of G.
        convex: whether the linear term is ``p'y``; else it is ``p'sin(y)``.
        seed: of the constants.

    Raises:
        ValueError: fewer variables than equalities, or a size below 1.
    """

    Q: Tensor
    p: Tensor
    A: Tensor
    G: Tensor
    h: Tensor
    inverse: Tensor

    def __init__(self, variables: int, equalities: int, inequalities: int, convex: bool = True, seed: int = 17) -> None:
        super().__init__()
        if not variables > equalities >= 1 or inequalities < 1:
            raise ValueError(
                "The family needs more variables than equalities, and one row of each kind at least; got "
                f"{variables} variables, {equalities} equalities, {inequalities} inequalities."
            )
        self.variables, self.equalities, self.inequalities, self.convex = variables, equalities, inequalities, convex
        random = np.random.RandomState(seed)
        Q, p = random.random_sample(variables), random.random_sample(variables)
        A = random.normal(size=(equalities, variables))
        G = random.normal(size=(inequalities, variables))
        inverse = np.linalg.pinv(A)
        constants = {"Q": Q, "p": p, "A": A, "G": G, "h": np.abs(G @ inverse).sum(1), "inverse": inverse}
        for name, value in constants.items():
            self.register_buffer(name, torch.from_numpy(value), persistent=False)

    def objective(self, y: Tensor) -> Tensor:
        """``f(y)``, (B,)."""
        linear = y if self.convex else y.sin()
        return 0.5 * (self.Q.to(y) * y.square()).sum(1) + linear @ self.p.to(y)

    def violation(self, x: Tensor, y: Tensor) -> Tensor:
        """The distances from each constraint, (B, E + I): ``|Ay - x|`` and ``max(Gy - h, 0)``."""
        equal = (y @ self.A.to(y).T - x.to(y)).abs()
        return torch.cat([equal, (y @ self.G.to(y).T - self.h.to(y)).clamp_min(0)], 1)

    def guess(self, x: Tensor) -> Tensor:
        """``A^+ x``, which is feasible for x in [-1, 1]^E."""
        return x @ self.inverse.to(x).T


def perceptron(sizes: tuple[int, ...]) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
