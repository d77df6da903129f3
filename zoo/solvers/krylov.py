"""Linear systems ``(I - L) u = b``, seen as the fixed point of the affine map ``u -> L u + b``.

They are the backward pass of every implicit layer (``L = J^T``) and the inner step of Newton's method (``L = J``).
All start from any ``u0`` and keep the residual ``r = b + L u - u`` by recurrence: a step costs its products, no more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from zoo.solvers.base import Affine, Map, Solver
from zoo.solvers.history import History


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """(B, 1): the inner product of two (B, N), sample by sample."""
    return torch.linalg.vecdot(a, b)[:, None]


def _over(a: Tensor, b: Tensor) -> Tensor:
    """``a / b`` of (B, 1), and 0 where ``b`` is 0: a sample that has broken down, or is solved, stays where it is."""
    return torch.where(b == 0, torch.zeros_like(a), a / torch.where(b == 0, torch.ones_like(b), b))


def _still(x: Tensor, active: Tensor | None) -> Tensor:
    """A (B, 1) step length, 0 for the samples that are settled."""
    return x if active is None else torch.where(active[:, None], x, torch.zeros_like(x))


def _norm(r: Tensor) -> Tensor:
    return torch.linalg.vector_norm(r, dim=1)


@dataclass(frozen=True, kw_only=True)
class LinearSolver(Solver):
    """A method for affine maps. Given another map, the answer is wrong where the map is not affine."""

    linear: ClassVar[bool] = True
    unrollable: ClassVar[bool] = False


class NeumannState(NamedTuple):
    z: Tensor
    norm: Tensor
    r: Tensor


@dataclass(frozen=True, kw_only=True)
class Neumann(LinearSolver):
    """``u = sum_k L^k b``: converges where the spectral radius of ``L`` is below 1, by that factor a term.

    ``max_steps`` terms cut the series short, which is the Neumann form of the phantom gradient. As many products make
    them; one more would only measure the last.

    Reference: Lorraine, Vicol and Duvenaud, "Optimizing millions of hyperparameters by implicit differentiation", 2020.
    """

    monotone: ClassVar[bool] = False

    def init(self, f: Map, z: Tensor) -> NeumannState:
        r = f(z) - z
        return NeumannState(z, _norm(r), r)

    def propose(self, state: NeumannState) -> tuple[Tensor, NeumannState]:
        """The sum with its next term, which is the residual: no product."""
        return state.z + state.r, state

    def step(self, f: Affine, state: NeumannState, active: Tensor | None) -> NeumannState:
        z, _ = self.propose(state)
        r = f.linear(state.r)
        return NeumannState(z, _norm(r), r)


class GMRESState(NamedTuple):
    z: Tensor  # the start of this cycle
    norm: Tensor
    r: Tensor
    directions: History  # p_k
    images: History  # w_k: orthonormal basis of the (I - L) p_k
    triangle: Tensor  # (B, m, m): (I - L) P = W R
    coefficients: Tensor  # (B, m): what each w_k took off the residual
    fell: Tensor  # (B,) whether the last step made the residual fall enough


@dataclass(frozen=True, kw_only=True)
class GMRES(LinearSolver):
    """Least residual over the Krylov space, one product a step; the default for implicit gradients.

    The form is adaptive simpler GMRES: the images ``(I - L) p_k`` are orthonormalised into ``w_k``, and each takes its
    share off the residual, ``r <- r - (w_k . r) w_k``, so that the residual is known at every step without the
    Hessenberg least-squares problem. The next direction is the residual itself while it falls (well conditioned), else
    the last ``w_k`` (which cannot stagnate). The answer is put together once, at the end.

    Args:
        window: directions before a restart. Costs two states each.

    Reference: Saad and Schultz 1986; Jiranek and Rozloznik, "Adaptive version of Simpler GMRES", Numer. Algor. 2010.
    """

    window: int = 30

    monotone: ClassVar[bool] = True
    krylov: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.window < 1:
            raise ValueError(f"GMRES: window must be at least 1; got {self.window}.")

    def init(self, f: Affine, z: Tensor) -> GMRESState:
        return self._cycle(z, f.residual(z))

    def _cycle(self, z: Tensor, r: Tensor) -> GMRESState:
        m = min(self.window, self.max_steps)
        triangle = z.new_zeros(z.shape[0], m, m)
        ones = torch.ones(z.shape[0], dtype=torch.bool, device=z.device)
        return GMRESState(
            z, _norm(r), r, History.empty(z, m), History.empty(z, m), triangle, z.new_zeros(z.shape[0], m), ones
        )

    def step(self, f: Affine, state: GMRESState, active: Tensor | None) -> GMRESState:
        if state.images.count == state.images.size:
            state = self._cycle(self.value(state), state.r)
        z, norm, r, directions, images, triangle, coefficients, fell = state
        k = images.count
        p = r
        if k > 0 and not bool(fell.all()):
            p = torch.where(fell[:, None], r, images.newest * norm[:, None])
        directions = directions.push(p)
        w = (p - f.linear(p))[:, None]  # (B, 1, N)
        if k > 0:
            rows = images.rows
            h = torch.bmm(w, rows.transpose(1, 2))
            w.baddbmm_(h, rows, alpha=-1)
            # Orthogonalise twice where much was taken off (Daniel et al. 1976): once leaves rounding errors in w.
            size = _norm(w[:, 0])
            if bool((_norm(h[:, 0]) > 1.7 * size).any()):
                again = torch.bmm(w, rows.transpose(1, 2))
                w.baddbmm_(again, rows, alpha=-1)
                h = h + again
                size = _norm(w[:, 0])
            triangle[:, :k, k] = h[:, 0]
        else:
            size = _norm(w[:, 0])
        w = w[:, 0]
        # An image of rounding size lies in the space already (a solved or settled sample): it must not be blown up.
        noise = (10 * torch.finfo(norm.dtype).eps * norm).clamp_min(torch.finfo(norm.dtype).tiny)
        size = torch.maximum(size, noise)
        triangle[:, k, k] = size
        images = images.push(w, times=size.reciprocal()[:, None])
        w = images.newest
        take = _still(torch.bmm(w[:, None], r[:, :, None])[:, :, 0], active)
        coefficients[:, k] = take[:, 0]
        r = torch.addcmul(r, w, take, value=-1)
        new = _norm(r)
        return GMRESState(z, new, r, directions, images, triangle, coefficients, new <= 0.95 * norm)

    def value(self, state: GMRESState) -> Tensor:
        k = state.images.used
        if k == 0:
            return state.z
        triangle, right = state.triangle[:, :k, :k], state.coefficients[:, :k, None]
        y = torch.linalg.solve_triangular(triangle.double(), right.double(), upper=True)[:, :, 0]
        return state.z + state.directions.mix(y)


class BiCGStabState(NamedTuple):
    z: Tensor
    norm: Tensor
    r: Tensor
    shadow: Tensor
    p: Tensor
    rho: Tensor  # (B, 1)


@dataclass(frozen=True, kw_only=True)
class BiCGStab(LinearSolver):
    """Stabilised bi-conjugate gradients: two products a step, and the memory of five states however many steps.

    Reference: van der Vorst, "Bi-CGSTAB", SISC 13, 1992.
    """

    krylov: ClassVar[bool] = True

    def init(self, f: Affine, z: Tensor) -> BiCGStabState:
        r = f.residual(z)
        return BiCGStabState(z, _norm(r), r, r, r, _dot(r, r))

    def step(self, f: Affine, state: BiCGStabState, active: Tensor | None) -> BiCGStabState:
        z, _, r, shadow, p, rho = state
        v = p - f.linear(p)
        alpha = _still(_over(rho, _dot(shadow, v)), active)
        s = r - alpha * v
        t = s - f.linear(s)
        omega = _still(_over(_dot(t, s), _dot(t, t)), active)
        z = z + alpha * p + omega * s
        r = s - omega * t
        rho_new = _dot(shadow, r)
        beta = _over(rho_new, rho) * _over(alpha, omega)
        # beta = 0 after a breakdown begins again from the residual, with itself as the new shadow.
        broken = beta == 0
        p = r + beta * (p - omega * v)
        shadow = torch.where(broken, r, shadow)
        rho = torch.where(broken, _dot(r, r), rho_new)
        return BiCGStabState(z, _norm(r), r, shadow, p, rho)


class CGState(NamedTuple):
    z: Tensor
    norm: Tensor
    r: Tensor
    p: Tensor
    rho: Tensor  # (B, 1)


@dataclass(frozen=True, kw_only=True)
class CG(LinearSolver):
    """Conjugate gradients.

    ``symmetric=True``: for symmetric ``L`` with eigenvalues below 1 (gradients of an energy, Hessians), one product a
    step. Otherwise the normal equations ``A^T A u = A^T b`` with ``A = I - L``: two products a step, one of them with
    the transpose, which the map must offer; robust for any ``L``, at the square of the condition number.

    Args:
        symmetric: whether ``L`` is symmetric.

    Reference: Hestenes and Stiefel 1952; Saad, "Iterative methods for sparse linear systems", section 8.3 (CGNR).
    """

    symmetric: bool = False

    krylov: ClassVar[bool] = True

    def _gradient(self, f: Affine, r: Tensor) -> Tensor:
        if self.symmetric:
            return r
        if f.transpose is None:
            raise TypeError(
                "cg on the normal equations needs products with the transpose, which this map does not offer: use "
                "gmres or bicgstab, or cg with symmetric=True where the matrix is symmetric."
            )
        return r - f.transpose(r)

    def init(self, f: Affine, z: Tensor) -> CGState:
        r = f.residual(z)
        s = self._gradient(f, r)
        return CGState(z, _norm(r), r, s, _dot(s, s))

    def step(self, f: Affine, state: CGState, active: Tensor | None) -> CGState:
        z, _, r, p, rho = state
        q = p - f.linear(p)
        alpha = _still(_over(rho, _dot(p, q) if self.symmetric else _dot(q, q)), active)
        z, r = z + alpha * p, r - alpha * q
        s = self._gradient(f, r)
        rho_new = _dot(s, s)
        return CGState(z, _norm(r), r, s + _over(rho_new, rho) * p, rho_new)
