"""A convex quadratic program as a layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from zoo.adjoints.unroll import Unroll
from zoo.deq.optimization.equations import Equations, Solved
from zoo.deq.optimization.program import Cones, assemble, check_convex
from zoo.deq.optimization.search import Search
from zoo.deq.optimization.splitting import Program, Scaling, Splitting
from zoo.deq.optimization.status import ProgramRecord, Status
from zoo.implicit import ImplicitMixin, SolveRecord
from zoo.solve import Spec, fixed_point, make_adjoint
from zoo.solvers.base import Result, Solver, Stats

# The default. Of this one the linear system is that of the active constraints, factored once; others solve the map's.
DIRECT = make_adjoint({"name": "implicit", "solver": {"name": "gmres", "rtol": 1e-9, "atol": 0.0, "max_steps": 400}})


class QP(ImplicitMixin, nn.Module):
    """The layer ``(Q, q, A, b, G, h) -> argmin 1/2 x'Qx + q'x  subject to  Ax = b, Gx <= h``, batched.

    With ``cones`` the constraints may be second-order cones, too: ``|Mx + m| <= c'x + d``.

        >>> layer = QP()
        >>> x = layer(torch.eye(2), torch.tensor([[-3.0, 1.0]]), G=torch.eye(2), h=torch.ones(1, 2))
        >>> x.round(decimals=4)
        tensor([[ 1., -1.]])

    Every argument may be one sample's (batch first) or shared by all: a matrix (N, N) is factored once. Gradients reach
    every argument. A program without a solution is NaN in the answer, takes no part in gradients, and its `Status` says
    whether it is infeasible or unbounded; ``record`` has the residuals and the multipliers of every sample.

    All is computed in float64, where 1e-8 can be reached; the answer has the dtype of ``q``.

    Args:
        solver: finds the fixed point of the splitting map; its ``rtol`` bounds the residuals of the optimality
            conditions, relative to the sizes of their terms; its ``max_steps`` are those of one round.
        adjoint: how gradients cross the solve; None: by the linear equations of the active constraints, factored
            once; with cones, by GMRES.
        throw: raise where a program is not solved, instead of saying so in ``program``.
        rounds: each ends with the equations of the active constraints, which bring the residuals to rounding where the
            active ones were found, and adapts the step size otherwise; at most so many.

    Reference: Amos and Kolter, "OptNet: differentiable optimization as a layer in neural networks", ICML 2017.
    """

    def __init__(
        self,
        solver: Spec | Any = None,
        adjoint: Spec | Any = None,
        *,
        rounds: int = 20,
        throw: bool = False,
    ) -> None:
        super().__init__()
        if rounds < 1:
            raise ValueError(f"QP: rounds must be at least 1; got {rounds}.")
        self.rounds = rounds
        self.program: ProgramRecord | None = None
        self.configure_implicit(
            solver or {"name": "anderson", "window": 5, "rtol": 1e-7, "atol": 1e-9, "max_steps": 50},
            DIRECT if adjoint is None else adjoint,
            throw=throw,
        )

    def forward(
        self,
        Q: Tensor,
        q: Tensor,
        A: Tensor | None = None,
        b: Tensor | None = None,
        G: Tensor | None = None,
        h: Tensor | None = None,
        *,
        lower: Tensor | float | None = None,
        upper: Tensor | float | None = None,
        cones: Cones = (),
        start: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Solve; return x, (B, N).

        Args:
            Q: (N, N) or (B, N, N), symmetric and positive semidefinite.
            q: (B, N) or (N,).
            A, b: equalities, (E, N) or (B, E, N), and (E,) or (B, E).
            G, h: inequalities, likewise.
            lower, upper: bounds of x, numbers, (N,) or (B, N).
            cones: pairs ``(F, f)`` of (K, N) or (B, K, N) and (K,) or (B, K), each a constraint that ``Fx + f`` lies in
                the second-order cone: its first number is at least the length of the others.
            start: (B, N) and (B, M), where to begin: the answer to a similar program and its multipliers
                (``layer.program.y``), say.

        Raises:
            ValueError: shapes that do not fit, data that are not finite, a Q that is not symmetric or not positive
                semidefinite (the samples are named); with ``throw``, a sample that is not solved.
        """
        p, equal = assemble(Q, q, A, b, G, h, lower, upper, cones)
        x = self.solve_program(p, equal, start, check_convex(p))
        return x.to(q.dtype)

    def solve_program(
        self,
        p: Program,
        equal: Tensor,
        start: tuple[Tensor, Tensor] | None = None,
        factor: Tensor | None = None,
    ) -> Tensor:
        """Solve an assembled program: rounds of the splitting, certificates, polishing, and the implicit gradient.

        Args:
            p: the program; its tensors may carry a graph.
            equal: (B, M) which rows are equalities.
            start: as of ``forward``.
            factor: the Cholesky factor of Q, None where Q is not positive definite.
        """
        plain = p.detach()
        with torch.no_grad():
            scaling = Scaling.ruiz(plain)
            solver, _ = self._present("anderson", "implicit")
            assert isinstance(solver, Solver)  # configure_implicit refuses those of ODEs
            search = Search(plain, scaling, equal, solver, self.rounds, start, factor)
            state, rho = search.run()
            x = search.x
        stats = search.stats()
        result = Result.converged if bool(stats.converged.all()) else Result.max_steps
        self.program = search.record()
        lost = torch.tensor([s not in (Status.solved, Status.max_steps) for s in self.program.status], device=x.device)
        if torch.is_grad_enabled() and any(t.requires_grad for t in (p.Q, p.q, p.C, p.l, p.u)):
            _, across = self._present("anderson", "implicit")
            if across == DIRECT and not p.cones:
                x = self._solved(p, x, search, lost)
            else:
                graph = Splitting(p.scaled(scaling), rho, equal, search.held)
                state, backward = self._attach(graph, state, across)
                x = scaling.D * graph.read(state)[0]
                stats = replace(stats, backward=backward)
        self.record(SolveRecord(result, stats))
        if self.throw and not self.program.solved:
            bad = [i for i, s in enumerate(self.program.status) if s is not Status.solved]
            raise ValueError(f"The program of samples {bad[:5]} is not solved: {self.program.status[bad[0]].value}")
        return torch.where(lost[:, None], torch.nan, x)

    def _solved(self, p: Program, x: Tensor, search: Search, lost: Tensor) -> Tensor:
        """Give the solution its gradient, by the linear equations of the active constraints."""
        low, high = search.bound()
        low, high = low & ~search.equal, high | search.equal
        s = search.scaling

        def adjoint(grad: Tensor) -> tuple[Tensor, Tensor]:
            active = (low | high) & ~lost[:, None]
            right = torch.where(lost[:, None], 0.0, -s.c * s.D * grad)
            dx, dy = Equations(search.scaled, active, search.form).least(right, torch.zeros_like(active, dtype=x.dtype))
            return s.D * dx, s.E * dy / s.c

        y = torch.where(lost[:, None], 0.0, search.y)
        return Solved.apply(p.Q, p.q, p.C, p.l, p.u, torch.where(lost[:, None], 0.0, x), adjoint, y, low, high)

    def _attach(self, splitting: Splitting, state: Tensor, across: Any) -> tuple[Tensor, Sequence[Stats]]:
        """Give the state its gradient by the adjoint that was chosen; also return the log of the adjoint's solves."""
        if isinstance(across, Unroll):
            raise ValueError(
                "The search of a QP is not unrolled: its rounds change the step size. Use the adjoint implicit."
            )
        solution = fixed_point(splitting, state, {"name": "picard", "max_steps": 1, "rtol": 1e-3}, across)
        return solution.value, solution.stats.backward
