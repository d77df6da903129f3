"""The alternating direction method of multipliers as a map whose fixed point solves a convex quadratic program.

    minimize 1/2 x'Qx + q'x   subject to   l <= Cx <= u,   the last rows in second-order cones

With the state ``v``, ``z`` the point of the set next to it (``clip(v, l, u)``) and the multipliers ``y = R (v - z)``,
one evaluation of the map is

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
from itertools import pairwise

import torch
from torch import Tensor

SIGMA, ALPHA = 1e-6, 1.6
STIFF = 1e3  # rows that are equalities have a step so many times larger


@dataclass(frozen=True)
class Program:
    """A batch of programs ``1/2 x'Qx + q'x, l <= Cx <= u``; matrices (1, ., .) are shared by all samples.

    The last rows are ``cones``: blocks of so many rows, of which ``Cx - l`` lies in the second-order cone (``u`` is
    ``l`` there).
    """

    Q: Tensor  # (B or 1, N, N)
    q: Tensor  # (B, N)
    C: Tensor  # (B or 1, M, N)
    l: Tensor  # (B, M)  # noqa: E741
    u: Tensor  # (B, M)
    cones: tuple[int, ...] = ()

    @property
    def variables(self) -> int:
        return self.q.shape[1]

    def detach(self) -> Program:
        Q, q, C, l, u = (t.detach() for t in (self.Q, self.q, self.C, self.l, self.u))  # noqa: E741
        return Program(Q, q, C, l, u, self.cones)

    @property
    def plain_rows(self) -> int:
        """How many rows come before those of cones."""
        return self.l.shape[1] - sum(self.cones)

    def blocks(self) -> list[slice]:
        """The rows of each cone."""
        ends = [self.plain_rows]
        for size in self.cones:
            ends.append(ends[-1] + size)
        return [slice(a, b) for a, b in pairwise(ends)]

    def nearest(self, v: Tensor) -> Tensor:
        """The point of the set that is next to ``v`` (B, M)."""
        if not self.cones:
            return torch.minimum(torch.maximum(v, self.l), self.u)
        parts = [torch.minimum(torch.maximum(v, self.l), self.u)[:, : self.plain_rows]]
        for rows in self.blocks():
            parts.append(onto_cone(v[:, rows] - self.l[:, rows]) + self.l[:, rows])
        return torch.cat(parts, 1)

    def scaled(self, scaling: Scaling) -> Program:
        """The program in scaled variables: ``x = D x^``, rows by E, objective by c."""
        D, E, c = scaling.D, scaling.E, scaling.c
        Q = (c * D)[:, :, None] * self.Q * D[:, None, :]
        C = E[:, :, None] * self.C * D[:, None, :]
        return Program(Q, c * D * self.q, C, E * self.l, E * self.u, self.cones)


def onto_cone(w: Tensor) -> Tensor:
    """The points of the cone ``w_0 >= |w_1..|`` that are next to ``w`` (B, K)."""
    t, x = w[:, :1], w[:, 1:]
    square = x.square().sum(1, keepdim=True)
    length = torch.where(square > 0, square, 1.0).sqrt() * (square > 0)  # a gradient of 0 at 0
    middle = (t + length) / 2
    edge = torch.cat([middle, middle * x / torch.where(length > 0, length, 1.0)], 1)
    return torch.where(length <= t, w, torch.where(length <= -t, 0.0, edge))


@dataclass(frozen=True)
class Scaling:
    """Diagonal scalings that make the rows of the optimality conditions of one size."""

    D: Tensor  # (B or 1, N)
    E: Tensor  # (B or 1, M)
    c: Tensor  # (B or 1, 1)

    @classmethod
    def ruiz(cls, p: Program, passes: int = 4) -> Scaling:
        """Equilibrate [[Q, C'], [C, 0]] by rows, then the objective; passes end where all rows are of one size.

        Reference: Ruiz, "A scaling algorithm to equilibrate both rows and columns norms in matrices", 2001.
        """
        rows = max(len(p.Q), len(p.C))
        D, E = p.q.new_ones(rows, p.Q.shape[1]), p.q.new_ones(rows, p.C.shape[1])
        Q, C = p.Q.abs(), p.C.abs()
        for _ in range(passes):
            columns = (Q * D[:, None, :]).amax(2)  # Q is symmetric
            if C.shape[1]:
                columns = torch.maximum(columns, (C * E[:, :, None]).amax(1))
            columns, across = columns * D, (C * D[:, None, :]).amax(2) * E
            for cone in p.blocks():  # one scale, so that the scaled set is a cone
                across[:, cone] = across[:, cone].amax(1, keepdim=True)
            D, E = D / _root(columns), E / _root(across)
            if _even(columns) and _even(across):
                break
        size = (Q * D[:, None, :]).amax(2).mul_(D).mean(1, keepdim=True)
        c = 1 / torch.where(size > 1e-8, size, 1.0).clamp(1e-8, 1e8)
        return cls(D, E, c)


def _root(x: Tensor) -> Tensor:
    return torch.where(x > 1e-12, x, 1.0).sqrt()


def _even(x: Tensor) -> bool:
    """Whether the sizes of rows lie within a factor of two of 1, empty ones aside."""
    return bool((((x > 0.5) & (x < 2)) | (x <= 1e-12)).all())


@dataclass(frozen=True)
class DualForm:
    """What a program with a positive definite Q is in its multipliers alone: ``Cx = -T y - t``.

    Attributes:
        inverse: (B or 1, N, N), of Q.
        T: (B or 1, M, M), ``C Q^-1 C'``.
        t: (B, M), ``C Q^-1 q``.
    """

    inverse: Tensor
    T: Tensor
    t: Tensor

    @classmethod
    def of(cls, p: Program, L: Tensor | None) -> DualForm | None:
        """The form of a program, by the Cholesky factor of its Q; None where it would be inexact or wasteful.

        Args:
            L: None: there is none.
        """
        M = p.C.shape[1]
        if L is None or not 0 < M <= 2 * p.variables:
            return None
        pivots = L.diagonal(dim1=1, dim2=2)
        if not bool((pivots.amin(1) > 1e-3 * pivots.amax(1)).all()):
            return None
        inverse = torch.cholesky_inverse(L)
        across = p.C @ inverse
        return cls(inverse, across @ p.C.transpose(1, 2), apply(across, p.q))

    def solve(self, r: Tensor) -> Tensor:
        """``Q^-1 r``, (B, N)."""
        return apply(self.inverse, r)


class Splitting:
    """The map for one program and one step size; what is constant over its iterations is made once.

    Args:
        p: the program, scaled; where its tensors carry a graph, so does the map.
        rho: (B, 1) step size.
        equal: (B, M) which rows are equalities.
        held: whether x is part of the state.
        form: of the program, where it has one: then the step is made in M numbers, and x is computed when it is read,
            ``y = -(T + R^-1)^-1 (t + w)``, ``z~ = w + R^-1 y`` for ``w = 2z - v``.
    """

    def __init__(self, p: Program, rho: Tensor, equal: Tensor, held: bool, form: DualForm | None = None) -> None:
        self.p, self.held, self.form = p, held, form
        self.R = rho * torch.where(equal, STIFF, 1.0)
        N = p.variables
        shared = len(p.Q) == len(p.C) == 1 and bool((self.R[:1] == self.R).all())
        R = self.R[:1] if shared else self.R
        self.spread: Tensor | None = None
        if form is not None:
            T = form.T + torch.diag_embed(1 / R)
            self.gain = torch.cholesky_inverse(torch.linalg.cholesky(T))
            self.rest = apply(self.gain, form.t)
            self.reach = torch.diag_embed(torch.ones_like(R)) - self.gain / R[:, :, None]
            self.rest_z = self.rest / self.R
            return
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
        return x, self.p.nearest(v), v

    def read(self, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``x``, ``z`` and the multipliers ``y`` of a state."""
        x, z, v = self._split(s)
        if self.form is not None:
            y = -apply(self.gain, 2 * z - v) - self.rest
            x = -self.form.solve(self.p.q + apply(self.p.C.transpose(1, 2), y))
        elif x is None:
            x = apply(self.gain, 2 * z - v) - self.rest
        return x, z, self.R * (v - z)

    def state(self, x: Tensor, z: Tensor, y: Tensor) -> Tensor:
        """The state of a point and its multipliers."""
        v = z + y / self.R
        return torch.cat([x, v], 1) if self.held else v


def apply(A: Tensor, x: Tensor) -> Tensor:
    """``A x`` for every sample, (B or 1, M, N) and (B, N) -> (B, M)."""
    return x @ A[0].T if len(A) == 1 else torch.baddbmm(x.new_zeros(()), A, x[:, :, None])[:, :, 0]


def largest(x: Tensor) -> Tensor:
    """The largest absolute number of each sample, 0 where there is none."""
    return x.abs().amax(1) if x.shape[1] else x.new_zeros(len(x))
