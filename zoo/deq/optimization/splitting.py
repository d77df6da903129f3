"""The alternating direction method of multipliers as a map whose fixed point solves a convex quadratic program.

    minimize 1/2 x'Qx + q'x   subject to   l <= Cx <= u

With the state ``v``, ``z = clip(v, l, u)`` and the multipliers ``y = R (v - z)``, one evaluation of the map is

    x~ = (Q + C'RC)^-1 (C'R (2z - v) - q),     z~ = C x~,     v+ = v + alpha (z~ - z)

so that ``Cx~ = z`` at a fixed point: feasible, with ``Qx~ + q + C'y = 0`` and ``y`` of the right signs. Where Q and the
constraints leave a direction of x free, x itself joins the state, held by ``sigma |x~ - x|^2 / 2``. The map is averaged
for every convex program, and affine between the faces of the box, where Anderson's mixing is at home.

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
    def ruiz(cls, p: Program, passes: int = 4) -> Scaling:
        """Equilibrate [[Q, C'], [C, 0]] by rows, then the objective.

        Reference: Ruiz, "A scaling algorithm to equilibrate both rows and columns norms in matrices", 2001.
        """
        rows = max(len(p.Q), len(p.C))
        D, E = p.q.new_ones(rows, p.Q.shape[1]), p.q.new_ones(rows, p.C.shape[1])
        Q, C = p.Q.abs(), p.C.abs()
        for _ in range(passes):
            columns = torch.maximum(Q.amax(1), C.amax(1) if C.shape[1] else Q.new_zeros(()))
            d, e = 1 / _root(columns), 1 / _root(C.amax(2))
            Q, C, D, E = Q * (d[:, :, None] * d[:, None, :]), C * (e[:, :, None] * d[:, None, :]), D * d, E * e
        size = Q.amax(1).mean(1, keepdim=True)
        c = 1 / torch.where(size > 1e-8, size, 1.0).clamp(1e-8, 1e8)
        return cls(D, E, c)


def _root(x: Tensor) -> Tensor:
    return torch.where(x > 1e-12, x, 1.0).sqrt()


class Splitting:
    """The map for one program and one step size; what is constant over its iterations is made once.

    Args:
        p: the program, scaled; where its tensors carry a graph, so does the map.
        rho: (B, 1) step size.
        equal: (B, M) which rows are equalities.
        held: whether x is part of the state.
    """

    def __init__(self, p: Program, rho: Tensor, equal: Tensor, held: bool) -> None:
        self.p, self.held = p, held
        self.R = rho * torch.where(equal, STIFF, 1.0)
        N = p.variables
        shared = len(p.Q) == len(p.C) == 1 and bool((self.R[:1] == self.R).all())
        R = self.R[:1] if shared else self.R
        weighted = p.C.transpose(1, 2) * R[:, None, :]  # C'R
        H = p.Q + weighted @ p.C
        if held:
            H = H + SIGMA * torch.eye(N, dtype=H.dtype, device=H.device)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(H))  # products in place of solves
        self.inverse, self.gain = inverse, inverse @ weighted  # x~ = gain (2z - v) - inverse q
        self.reach = p.C @ self.gain  # z~ = reach (2z - v) - C inverse q
        self.rest = apply(inverse, p.q)
        self.rest_z = apply(p.C, self.rest)
        self.spread = p.C @ inverse if held else None

    def __call__(self, s: Tensor) -> Tensor:
        z, v = self._split(s)[1:]
        w = 2 * z - v
        reached = apply(self.reach, w) - self.rest_z
        if not self.held:
            return v + ALPHA * (reached - z)
        x = s[:, : self.p.variables]
        assert self.spread is not None
        reached = reached + SIGMA * apply(self.spread, x)
        solved = apply(self.gain, w) - self.rest + SIGMA * apply(self.inverse, x)
        return torch.cat([ALPHA * solved + (1 - ALPHA) * x, ALPHA * (reached - z) + v], 1)

    def _split(self, s: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        x, v = (s[:, : self.p.variables], s[:, self.p.variables :]) if self.held else (None, s)
        return x, torch.minimum(torch.maximum(v, self.p.l), self.p.u), v

    def read(self, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``x``, ``z`` and the multipliers ``y`` of a state."""
        x, z, v = self._split(s)
        if x is None:
            x = apply(self.gain, 2 * z - v) - self.rest
        return x, z, self.R * (v - z)

    def state(self, x: Tensor, z: Tensor, y: Tensor) -> Tensor:
        """The state of a point and its multipliers."""
        v = z + y / self.R
        return torch.cat([x, v], 1) if self.held else v

    def jacobian(self, s: Tensor) -> Tensor:
        """``I - J`` of the map at a state, (B, M, M) or (B, N + M, N + M): columns where z follows v, and where not."""
        _, _, v = self._split(s)
        follows = torch.where((v > self.p.l) & (v < self.p.u), 1.0, 0.0).to(v)  # dz/dv
        turned = 2 * follows - 1
        block = ALPHA * (torch.diag_embed(follows) - self.reach * turned[:, None, :])
        if not self.held:
            return block
        assert self.spread is not None
        B, eye = len(s), torch.eye(self.p.variables, dtype=v.dtype, device=v.device)
        top = torch.cat(
            [ALPHA * (eye - SIGMA * self.inverse).expand(B, -1, -1), -ALPHA * self.gain * turned[:, None]], 2
        )
        return torch.cat([top, torch.cat([(-ALPHA * SIGMA * self.spread).expand(B, -1, -1), block], 2)], 1)


def apply(A: Tensor, x: Tensor) -> Tensor:
    """``A x`` for every sample, (B or 1, M, N) and (B, N) -> (B, M)."""
    return x @ A[0].T if len(A) == 1 else torch.baddbmm(x.new_zeros(()), A, x[:, :, None])[:, :, 0]


def largest(x: Tensor) -> Tensor:
    """The largest absolute number of each sample, 0 where there is none."""
    return x.abs().amax(1) if x.shape[1] else x.new_zeros(len(x))
