"""The alternating direction method of multipliers as a map whose fixed point solves a convex quadratic program.

    minimize 1/2 x'Qx + q'x   subject to   l <= Cx <= u

With the state ``s = (x, v)``, ``z = clip(v, l, u)`` and the multipliers ``y = R (v - z)``, one evaluation of the map is

    x~ = (Q + sigma I + C'RC)^-1 (sigma x - q + C'(Rz - y)),     z~ = C x~
    x+ = alpha x~ + (1 - alpha) x,     v+ = alpha z~ + (1 - alpha) z + (v - z)

so that ``x = x~`` and ``Cx = z`` at a fixed point: feasible, with ``Qx + q + C'y = 0`` and ``y`` of the right signs.
The map is averaged for every convex program, and affine between the faces of the box, where Anderson's mixing is at
home.

``B`` samples, ``N`` variables, ``M`` rows of C.

Reference: Stellato, Banjac, Goulart, Bemporad and Boyd, "OSQP: an operator splitting solver for quadratic programs",
Mathematical Programming Computation 12, 2020, https://arxiv.org/abs/1711.08013.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

SIGMA, ALPHA = 1e-6, 1.6
STIFF = 1e3  # rows that are equalities have a step so many times larger


@dataclass(frozen=True)
class Program:
    """A batch of programs ``1/2 x'Qx + q'x, l <= Cx <= u``; matrices (1, ., .) are shared by all samples."""

    Q: Tensor  # (B or 1, N, N)
    q: Tensor  # (B, N)
    C: Tensor  # (B or 1, M, N)
    l: Tensor  # (B, M)  # noqa: E741
    u: Tensor  # (B, M)

    @property
    def variables(self) -> int:
        return self.q.shape[1]

    def detach(self) -> Program:
        return Program(self.Q.detach(), self.q.detach(), self.C.detach(), self.l.detach(), self.u.detach())

    def scaled(self, scaling: Scaling) -> Program:
        """The program in scaled variables: ``x = D x^``, rows by E, objective by c."""
        D, E, c = scaling.D, scaling.E, scaling.c
        Q = c[:, :, None] * D[:, :, None] * self.Q * D[:, None, :]
        C = E[:, :, None] * self.C * D[:, None, :]
        return Program(Q, c * D * self.q, C, E * self.l, E * self.u)


@dataclass(frozen=True)
class Scaling:
    """Diagonal scalings that make the rows of the optimality conditions of one size."""

    D: Tensor  # (B or 1, N)
    E: Tensor  # (B or 1, M)
    c: Tensor  # (B or 1, 1)

    @classmethod
    def ruiz(cls, p: Program, passes: int = 10) -> Scaling:
        """Equilibrate [[Q, C'], [C, 0]] by rows, then the objective.

        Reference: Ruiz, "A scaling algorithm to equilibrate both rows and columns norms in matrices", 2001.
        """
        rows = max(len(p.Q), len(p.C))
        D, E = p.q.new_ones(rows, p.Q.shape[1]), p.q.new_ones(rows, p.C.shape[1])
        for _ in range(passes):
            Q, C = D[:, :, None] * p.Q * D[:, None, :], E[:, :, None] * p.C * D[:, None, :]
            columns = torch.maximum(Q.abs().amax(1), C.abs().amax(1) if C.shape[1] else Q.new_zeros(()))
            D = D / _root(columns)
            E = E / _root(C.abs().amax(2))
        Q = D[:, :, None] * p.Q * D[:, None, :]
        size = Q.abs().amax(1).mean(1, keepdim=True)
        c = 1 / torch.where(size > 1e-8, size, 1.0).clamp(1e-8, 1e8)
        return cls(D, E, c)


def _root(x: Tensor) -> Tensor:
    return torch.where(x > 1e-12, x, 1.0).sqrt()


class Splitting:
    """The map for one program and one step size; the factor is made once.

    Args:
        p: the program, scaled; where its tensors carry a graph, so does the map.
        rho: (B, 1) step size.
        equal: (B, M) which rows are equalities.
    """

    def __init__(self, p: Program, rho: Tensor, equal: Tensor) -> None:
        self.p = p
        self.R = rho * torch.where(equal, STIFF, 1.0)
        N = p.variables
        shared = len(p.Q) == len(p.C) == 1 and bool((self.R[:1] == self.R).all())
        R = self.R[:1] if shared else self.R
        H = p.Q + p.C.transpose(1, 2) @ (R[:, :, None] * p.C)
        H = H + SIGMA * torch.eye(N, dtype=H.dtype, device=H.device)
        self.M = torch.cholesky_inverse(torch.linalg.cholesky(H))  # one product an evaluation in place of two solves

    def __call__(self, s: Tensor) -> Tensor:
        p, N = self.p, self.p.variables
        x, v = s[:, :N], s[:, N:]
        z = torch.minimum(torch.maximum(v, p.l), p.u)
        right = SIGMA * x - p.q + apply(p.C.transpose(1, 2), self.R * (2 * z - v))
        solved = apply(self.M, right)
        reached = apply(p.C, solved)
        return torch.cat([ALPHA * solved + (1 - ALPHA) * x, ALPHA * (reached - z) + v], 1)

    def read(self, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``x``, ``z`` and the multipliers ``y`` of a state."""
        p, N = self.p, self.p.variables
        x, v = s[:, :N], s[:, N:]
        z = torch.minimum(torch.maximum(v, p.l), p.u)
        return x, z, self.R * (v - z)

    def state(self, x: Tensor, z: Tensor, y: Tensor) -> Tensor:
        """The state of a point and its multipliers."""
        return torch.cat([x, z + y / self.R], 1)


def apply(A: Tensor, x: Tensor) -> Tensor:
    """``A x`` for every sample, (B or 1, M, N) and (B, N) -> (B, M)."""
    return x @ A[0].T if len(A) == 1 else torch.baddbmm(x.new_zeros(()), A, x[:, :, None])[:, :, 0]


def largest(x: Tensor) -> Tensor:
    """The largest absolute number of each sample, 0 where there is none."""
    return x.abs().amax(1) if x.shape[1] else x.new_zeros(len(x))
