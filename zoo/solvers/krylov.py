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


def _affine(f: Map) -> Affine:
    """The map as one that offers its products."""
    if not isinstance(f, Affine):
        raise TypeError("A linear solver needs an affine map; view one as such by zoo.solvers.base.Affine.of(f, z).")
    return f


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

    def step(self, f: Map, state: NeumannState, active: Tensor | None) -> NeumannState:
        z, _ = self.propose(state)
        r = _affine(f).linear(state.r)
        return NeumannState(z, _norm(r), r)


class GMRESState(NamedTuple):
    z: Tensor  # the start of this cycle
    norm: Tensor
    basis: History  # u_0 .. u_k: the Krylov vectors, orthogonal, not normalized
    inverse: Tensor  # (B, 1, m + 1) float64: 1 / |u_j|
    columns: tuple[Tensor, ...]  # k of (B, 1, j + 1) float64: H_0j .. H_jj, in L V_k = V_{k+1} H with v_j = u_j / |u_j|
    left: Tensor  # (B, 1, m + 1) float64: c, with c (I - H) = 0 and c_0 = 1 / |r_0|
    loss: Tensor  # (B, 1) float64: how far V may be from orthonormal


@dataclass(frozen=True, kw_only=True)
class GMRES(LinearSolver):
    """Least residual over the Krylov space, one product a step; the default for implicit gradients.

    Arnoldi's process makes an orthonormal basis ``V`` of ``span(r_0, L r_0, ...)`` in which ``L`` is a Hessenberg
    matrix ``H``, of one row more than columns. One vector ``c`` with ``c (I - H) = 0`` and ``c_0 = 1 / |r_0|`` takes
    the place of a least-squares problem. It grows by one number a step,

        c_{k+1} = (c_k - sum_{i<=k} c_i H_ik) / H_{k+1,k},    r_k = V c / |c|^2,    |r_k| = 1 / |c|

    since the least residual is what of ``r_0`` lies along ``V c``, the one direction that ``I - H`` does not reach. So
    the residual is known at every step, and the answer, put together once at the end, is a triangular solve: ``I - H``
    without its first row. A step passes over the ``k`` vectors twice and over the new one three times: vectors are kept
    as long as orthogonalizing left them, which spares normalizing them.

    Args:
        window: directions before a restart. Costs one state each.

    Reference: Saad and Schultz, SISSC 7, 1986; Ayachour, "A fast implementation for GMRES method", J. Comput. Appl.
    Math. 159, 2003.
    """

    window: int = 30

    monotone: ClassVar[bool] = True
    krylov: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.window < 1:
            raise ValueError(f"GMRES: window must be at least 1; got {self.window}.")

    def init(self, f: Map, z: Tensor) -> GMRESState:
        return self._cycle(z, _affine(f).residual(z))

    def _cycle(self, z: Tensor, r: Tensor) -> GMRESState:
        m, norm = min(self.window, self.max_steps), _norm(r)
        inverse = torch.zeros(len(z), 1, m + 1, dtype=torch.float64, device=z.device)
        inverse[:, 0, 0] = norm.clamp_min(torch.finfo(norm.dtype).tiny).double().reciprocal()
        loss = torch.full_like(inverse[:, :, 0], 4 * torch.finfo(norm.dtype).eps)
        return GMRESState(z, norm, History.empty(z, m + 1).push(r), inverse, (), inverse.clone(), loss)

    def step(self, f: Map, state: GMRESState, active: Tensor | None) -> GMRESState:
        if state.basis.pushed == state.basis.size:
            state = self._cycle(self.value(state), state.basis.mix((self._rest(state) * state.inverse)[:, 0]))
        z, _, basis, inverse, columns, left, loss = state
        n = basis.pushed
        scale = inverse[:, :, :n]
        w = _affine(f).linear(basis.newest)
        eps, dtype = torch.finfo(w.dtype).eps, w.dtype
        basis = basis.push(w, times=inverse[:, :, n - 1].to(dtype))  # L v
        rows = basis.rows
        older, new = rows[:, :n], rows[:, n:]
        across = older.transpose(1, 2)
        h = torch.bmm(new, across) * scale
        new.baddbmm_((h * scale).to(dtype), older, alpha=-1)
        size, taken = torch.linalg.vector_norm(new, dim=2).double(), torch.linalg.vector_norm(h, dim=2)
        # What the older vectors lack in orthogonality comes back, as many times larger as more was taken off than is
        # left. The relation of V and H holds all the same, and |r| is off by no more than that share: 5 % is allowed.
        lost = taken / size * loss
        twice = lost > 0.05 if active is None else (lost > 0.05) & active[:, None]
        if bool(twice.any()):
            again = torch.where(twice[:, :, None], torch.bmm(new, across) * scale, 0.0)
            new.baddbmm_((again * scale).to(dtype), older, alpha=-1)
            h, size = h + again, torch.where(twice, torch.linalg.vector_norm(new, dim=2).double(), size)
            lost = torch.where(twice, lost * torch.linalg.vector_norm(again, dim=2) / taken, lost)
        size = size.clamp_min(10 * eps)  # what is of rounding size lies in the space already: it is not blown up
        rest = left[:, :, n - 1] - (left[:, :, :n] * h).sum(2)
        if active is not None:  # a settled sample's answer has no share of the directions from here on
            rest, h = torch.where(active[:, None], rest, 0.0), torch.where(active[:, None, None], h, 0.0)
            h[:, 0, -1] = torch.where(active, h[:, 0, -1], 1.0)
        torch.div(rest, size, out=left[:, :, n])
        torch.reciprocal(size, out=inverse[:, :, n])
        norm = torch.linalg.vector_norm(left, dim=(1, 2)).reciprocal()
        return GMRESState(z, norm, basis, inverse, (*columns, h), left, torch.maximum(loss, lost))

    def value(self, state: GMRESState) -> Tensor:
        k = len(state.columns)
        if k == 0:
            return state.z
        h = state.left.new_zeros(len(state.z), k, k)
        row, column = torch.tril_indices(k, k, device=h.device)
        h[:, column, row] = torch.cat(state.columns, 2)[:, 0]
        upper = torch.diag_embed(h.new_ones(len(h), k - 1), 1)  # I - H without its first row
        upper[:, :-1] -= h[:, 1:]
        upper.diagonal(dim1=1, dim2=2).sub_(state.inverse[:, 0, 1 : k + 1].reciprocal())
        y = torch.linalg.solve_triangular(upper, -self._rest(state)[:, 0, 1:, None], upper=True)
        weights = (y.transpose(1, 2) * state.inverse[:, :, :k]).to(state.z.dtype)
        return torch.baddbmm(state.z[:, None], weights, state.basis.rows[:, :k])[:, 0]

    @staticmethod
    def _rest(state: GMRESState) -> Tensor:
        """(B, 1, k + 1): the residual in the basis ``V``."""
        c = state.left[:, :, : state.basis.pushed]
        return c / c.square().sum(2, keepdim=True)


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

    def init(self, f: Map, z: Tensor) -> BiCGStabState:
        f = _affine(f)
        r = f.residual(z)
        return BiCGStabState(z, _norm(r), r, r, r, _dot(r, r))

    def step(self, f: Map, state: BiCGStabState, active: Tensor | None) -> BiCGStabState:
        f = _affine(f)
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

    def init(self, f: Map, z: Tensor) -> CGState:
        f = _affine(f)
        r = f.residual(z)
        s = self._gradient(f, r)
        return CGState(z, _norm(r), r, s, _dot(s, s))

    def step(self, f: Map, state: CGState, active: Tensor | None) -> CGState:
        f = _affine(f)
        z, _, r, p, rho = state
        q = p - f.linear(p)
        alpha = _still(_over(rho, _dot(p, q) if self.symmetric else _dot(q, q)), active)
        z, r = z + alpha * p, r - alpha * q
        s = self._gradient(f, r)
        rho_new = _dot(s, s)
        return CGState(z, _norm(r), r, s + _over(rho_new, rho) * p, rho_new)
