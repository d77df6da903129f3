"""The optimality conditions as linear equations, once the active constraints are known.

    [[Q, C_a'], [C_a, 0]] [x; y] = [r; s]

They end a search with residuals of rounding size, and they are the linear solve of the implicit function theorem: the
gradient of the solution with respect to all data.

``B`` samples, ``N`` variables, ``M`` rows of C, of which ``active`` says which are held at a bound.

Reference: Amos and Kolter, "OptNet: differentiable optimization as a layer in neural networks", ICML 2017.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from zoo.deq.optimization.splitting import SIGMA, DualForm, Program, apply, largest
from zoo.solvers.autograd import refuse_second_order

REFINEMENTS = 4  # at most
EXACT = 1e-13  # relative error of the equations below which no refinement follows
SINGULAR = 1e-8  # and above which they are solved by least squares


class Equations:
    """Those of one set of active constraints, factored once.

    With the dual form one Cholesky factorization of C_a Q^-1 C_a', else one of the whole system; both a little
    regularized, and what that changes is taken back by iterative refinement. Where active rows say the same, the
    answer is the least one.

    Args:
        p: the program.
        active: (B, M).
        form: of the program, or None.
    """

    def __init__(self, p: Program, active: Tensor, form: DualForm | None) -> None:
        self.p, self.active, self.form = p, active, form
        B, N, M = len(p.q), p.variables, active.shape[1]
        if form is not None:
            both = active[:, :, None] & active[:, None, :]
            S = torch.where(both, form.T, 0.0)
            S.diagonal(dim1=1, dim2=2).add_(torch.where(active, SIGMA, 1.0))
            self.factor, self.info = torch.linalg.cholesky_ex(S)
        else:
            K = self._system()
            K.diagonal(dim1=1, dim2=2).add_(torch.cat([p.q.new_full((B, N), SIGMA), torch.full_like(p.l, -SIGMA)], 1))
            self.factor, self.pivots, self.info = torch.linalg.lu_factor_ex(K)
        self.shape = B, N, M

    def _system(self) -> Tensor:
        """The matrix (B, N + M, N + M); a row that is not active says ``y = 0``."""
        p, (B, M), N = self.p, self.active.shape, self.p.variables
        K = p.q.new_zeros(B, N + M, N + M)
        C = torch.where(self.active[:, :, None], p.C.expand(B, M, N), 0.0)
        K[:, :N, :N] = p.Q
        K[:, :N, N:], K[:, N:, :N] = C.transpose(1, 2), C
        K[:, N:, N:] = torch.diag_embed(torch.where(self.active, 0.0, -1.0))
        return K

    def _once(self, r: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        if self.form is None:
            t = torch.linalg.lu_solve(self.factor, self.pivots, torch.cat([r, s], 1)[:, :, None])[:, :, 0]
            return t[:, : self.shape[1]], torch.where(self.active, t[:, self.shape[1] :], 0.0)
        right = torch.where(self.active, apply(self.p.C, self.form.solve(r)) - s, 0.0)
        y = torch.cholesky_solve(right[:, :, None], self.factor)[:, :, 0]
        return self.form.solve(r - apply(self.p.C.transpose(1, 2), y)), y

    def left(self, x: Tensor, y: Tensor, r: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """What the equations leave at a point, (B, N) and (B, M)."""
        p = self.p
        stationary = r - apply(p.Q, x) - apply(p.C.transpose(1, 2), y)
        return stationary, torch.where(self.active, s - apply(p.C, x), 0.0)

    def solve(self, r: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return x (B, N), y (B, M), and the largest error of the equations relative to the right side, (B,)."""
        s = torch.where(self.active, s, 0.0)
        x, y = self._once(r, s)
        size = torch.maximum(largest(r), largest(s)).clamp_min(1e-300)
        for k in range(REFINEMENTS + 1):
            dr, ds = self.left(x, y, r, s)
            error = torch.maximum(largest(dr), largest(ds)) / size
            if k == REFINEMENTS or bool((error <= EXACT).all()):
                break
            dx, dy = self._once(dr, ds)
            x, y = x + dx, y + dy
        return x, y, torch.where(self.info == 0, error, torch.inf)

    def least(self, r: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """Return x and y as `solve` does; those of least norm where the equations are singular."""
        x, y, error = self.solve(r, s)
        bad = ~(error <= SINGULAR)
        if bool(bad.any()):
            N = self.shape[1]
            right = torch.cat([r, torch.where(self.active, s, 0.0)], 1)[bad, :, None]
            t = torch.linalg.lstsq(self._system()[bad], right, driver="gelsd").solution[:, :, 0]
            x, y = x.clone(), y.clone()
            x[bad], y[bad] = t[:, :N], torch.where(self.active[bad], t[:, N:], 0.0)
        return x, y


class Solved(torch.autograd.Function):
    """A solution x (B, N) forward; backward the gradients of Q, q, C, l, u by the implicit function theorem.

    Args:
        Q, q, C, l, u: of the program.
        x: the solution, without a graph.
        adjoint: from the gradient of x to ``(dx, dy)``, the solution of the equations with right side ``[-grad; 0]``.
        y: (B, M) multipliers.
        low, high: (B, M) which rows are held at their lower and upper bounds; equalities are held at the upper one.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        Q: Tensor,
        q: Tensor,
        C: Tensor,
        l: Tensor,  # noqa: E741
        u: Tensor,
        x: Tensor,
        adjoint: Callable[[Tensor], tuple[Tensor, Tensor]],
        y: Tensor,
        low: Tensor,
        high: Tensor,
    ) -> Tensor:
        ctx.adjoint, ctx.shared = adjoint, (len(Q) == 1, len(C) == 1)
        ctx.save_for_backward(x, y, low, high)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        refuse_second_order("A quadratic program", "a penalty in the loss where second derivatives are needed")
        x, y, low, high = ctx.saved_tensors
        dx, dy = ctx.adjoint(grads[0])
        need_Q, _, need_C, need_l, need_u = ctx.needs_input_grad[:5]
        gQ = gC = gl = gu = None
        if need_Q:
            half = outer(dx, x, ctx.shared[0])
            gQ = (half + half.transpose(1, 2)).mul_(0.5)
        if need_C:
            gC = outer(torch.cat([y, dy], 1), torch.cat([dx, x], 1), ctx.shared[1], terms=2)
        if need_l:
            gl = torch.where(low, -dy, 0.0)
        if need_u:
            gu = torch.where(high, -dy, 0.0)
        return gQ, dx, gC, gl, gu, None, None, None, None, None


def outer(a: Tensor, b: Tensor, shared: bool, terms: int = 1) -> Tensor:
    """``sum_k a_k b_k'`` over the terms that lie beside one another, (B, I, J); of the whole batch, (1, I, J)."""
    a, b = (t.unflatten(1, (terms, -1)) for t in (a, b))
    if shared:
        return (a.flatten(0, 1).T @ b.flatten(0, 1))[None]
    return a.transpose(1, 2) @ b
