"""The forward solve of a quadratic program: rounds of the splitting, certificates, polishing."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.deq.optimization.equations import Equations
from zoo.deq.optimization.splitting import STIFF, DualForm, Program, Scaling, Splitting, apply, largest, onto_cone
from zoo.deq.optimization.status import CODES, ProgramRecord, Status
from zoo.solvers.base import Solver, Stats
from zoo.solvers.iterate import iterate

RHO = (1e-6, 1e6)  # least and greatest step size
EARLY = 20  # steps after which the equations of the active constraints are tried first
PLAIN = 60  # plain iterations before a certificate of infeasibility is looked for


def determined(p: Program, rho: Tensor, equal: Tensor) -> bool:
    """Whether Q and the constraints determine x: whether Q + C'RC is well positive definite in every sample."""
    R = rho * torch.where(equal, STIFF, 1.0)
    H = p.Q + (p.C.transpose(1, 2) * R[:, None, :]) @ p.C
    least = 1e-6 * H.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
    eye = torch.eye(p.variables, dtype=H.dtype, device=H.device)
    return bool((torch.linalg.cholesky_ex(H - least * eye)[1] == 0).all())


class Search:
    """The forward solve of one batch, without a graph."""

    def __init__(
        self,
        plain: Program,
        scaling: Scaling,
        equal: Tensor,
        solver: Solver,
        rounds: int,
        start: tuple[Tensor, Tensor] | None,
        factor: Tensor | None = None,
    ) -> None:
        self.plain, self.scaling, self.equal, self.solver, self.most = plain, scaling, equal, solver, rounds
        self.scaled = scaled = plain.scaled(scaling)
        B, N = plain.q.shape
        self.rho = rho = plain.q.new_full((B, 1), 0.1)
        self.code = torch.full((B,), CODES.index(Status.max_steps), device=rho.device)
        self.steps = torch.zeros(B, dtype=torch.long)
        self.rounds = self.nfe = 0
        self.trace: list[Tensor] = []
        self.warm = start is not None
        x, y = plain.q.new_zeros(B, N), torch.zeros_like(plain.l)
        if start is not None:
            x, y = start[0].detach().to(x) / scaling.D, scaling.c * start[1].detach().to(x) / scaling.E
        if factor is not None:
            factor = (scaling.c.sqrt() * scaling.D)[:, :, None] * factor
        self.form = DualForm.of(scaled, factor)
        self.held = self.form is None and (plain.l.shape[1] == 0 or not determined(scaled, rho, equal))
        self.state = self.splitting().state(x, apply(scaled.C, x), y)

    def splitting(self) -> Splitting:
        """The map at the present step size."""
        return Splitting(self.scaled, self.rho, self.equal, self.held, self.form)

    def run(self) -> tuple[Tensor, Tensor]:
        """Return the state and the step size that belong to the answer."""
        for _ in range(self.most):
            self.rounds += 1
            splitting = self.splitting()
            ratio = self._round(splitting)
            unsolved = self.code == CODES.index(Status.max_steps)
            if bool(unsolved.any()) and bool(self.steps.any()):
                self._certify(splitting, unsolved)
            unsolved = self.code == CODES.index(Status.max_steps)
            if not bool(unsolved.any()):
                break
            self._adapt(splitting, ratio, ~unsolved)
        return self.state, self.rho

    def _round(self, splitting: Splitting) -> Tensor:
        """The steps of one round, and the equations after a few and after all; return the ratio of the residuals."""
        most = self.solver.max_steps
        for steps in (min(EARLY, most), most - EARLY):
            if steps < 1:
                break
            if not self.warm:
                solution = iterate(splitting, self.state, self.solver.replace(max_steps=steps))
                self.state = solution.value
                self.steps += solution.stats.steps.cpu()
                self.nfe += solution.stats.nfe
                self.trace.append(solution.stats.trace)
            self.warm = False  # where the active constraints are those of the start, it needs no iteration
            primal, dual, ratio = self._residuals(splitting)
            solved = (primal <= 1) & (dual <= 1)
            self.code = torch.where(solved, CODES.index(Status.solved), CODES.index(Status.max_steps))
            self._polish(splitting)
            if bool((self.code == CODES.index(Status.solved)).all()):
                break
        return ratio

    def _residuals(self, splitting: Splitting) -> tuple[Tensor, Tensor, Tensor]:
        """Primal and dual residual over their tolerances, in the units of the data, and the ratio of the two."""
        x, z, y = self.point(splitting)
        p, solver = self.plain, self.solver
        Cx, Qx, Cy = apply(p.C, x), apply(p.Q, x), apply(p.C.transpose(1, 2), y)
        self.x, self.y = x, y
        self.primal, self.dual = largest(Cx - z), largest(Qx + p.q + Cy)
        one = torch.maximum(largest(Cx), largest(z))
        two = torch.stack([largest(Qx), largest(Cy), largest(p.q)]).amax(0)
        relative = (self.primal / one.clamp_min(1e-10)) / (self.dual / two.clamp_min(1e-10)).clamp_min(1e-12)
        atol, rtol = solver.atol, solver.rtol
        return self.primal / (atol + rtol * one), self.dual / (atol + rtol * two), relative

    def point(self, splitting: Splitting) -> tuple[Tensor, Tensor, Tensor]:
        """``x``, ``z`` and ``y`` of the state in the units of the data."""
        x, z, y = splitting.read(self.state)
        s = self.scaling
        return s.D * x, z / s.E, s.E * y / s.c

    def _adapt(self, splitting: Splitting, ratio: Tensor, solved: Tensor) -> None:
        """Change the step size where one residual outruns the other; the point and its multipliers stay."""
        factor = ratio.clamp(1e-6, 1e6).sqrt()[:, None]
        change = ((factor > 3) | (factor < 1 / 3)) & ~solved[:, None]
        x, z, y = splitting.read(self.state)
        self.rho = torch.where(change, (self.rho * factor).clamp(*RHO), self.rho)
        self.state = self.splitting().state(x, z, y)

    def _certify(self, splitting: Splitting, open_: Tensor) -> None:
        """Look for certificates: without a solution the differences of plain iterates tend to one.

        Reference: Banjac, Goulart, Stellato and Boyd, "Infeasibility detection in the alternating direction method of
        multipliers for convex optimization", J. Optimization Theory and Applications 183, 2019.
        """
        state = self.state
        for _ in range(PLAIN):
            before, state = state, splitting(state)
        s, p = self.scaling, self.plain
        (x1, _, y1), (x0, _, y0) = splitting.read(state), splitting.read(before)
        dx, dy = s.D * (x1 - x0), s.E * (y1 - y0) / s.c
        tolerance = 1e-6
        size = largest(dy)
        bounded_u = torch.where(p.u.isfinite(), p.u, 0.0)
        bounded_l = torch.where(p.l.isfinite(), p.l, 0.0)
        positive, negative = dy.clamp_min(0), dy.clamp_max(0)
        open_row = (torch.where(p.u.isfinite(), 0.0, positive) - torch.where(p.l.isfinite(), 0.0, negative)).abs()
        support = (bounded_u * positive + bounded_l * negative).sum(1)
        for rows in p.blocks():  # the multipliers of a cone lie in its polar
            open_row[:, rows] = dy[:, rows] + onto_cone(-dy[:, rows])
        none = (largest(apply(p.C.transpose(1, 2), dy)) <= tolerance * size) & (largest(open_row) <= tolerance * size)
        infeasible = none & (support < -tolerance * size) & (size > 1e-12)
        size = largest(dx)
        Cd = apply(p.C, dx)
        inside = torch.where(p.u.isfinite(), Cd.clamp_min(0), 0.0) - torch.where(p.l.isfinite(), Cd.clamp_max(0), 0.0)
        for rows in p.blocks():
            inside[:, rows] = Cd[:, rows] - onto_cone(Cd[:, rows])
        falls = (p.q * dx).sum(1) < -tolerance * size
        flat = largest(apply(p.Q, dx)) <= tolerance * size
        unbounded = falls & flat & (largest(inside) <= tolerance * size) & (size > 1e-12)
        self.code = torch.where(open_ & infeasible, CODES.index(Status.infeasible), self.code)
        self.code = torch.where(open_ & unbounded & ~infeasible, CODES.index(Status.unbounded), self.code)
        bad = ~state.isfinite().all(1)
        self.code = torch.where(bad, CODES.index(Status.nonfinite), self.code)

    def _polish(self, splitting: Splitting) -> None:
        """Solve the linear equations of the constraints that are active; kept where the residuals fall."""
        p = self.scaled
        if p.cones:
            return  # the boundary of a cone is curved
        _, _, y = splitting.read(self.state)
        low, high = (y < 0) & p.l.isfinite(), (y > 0) & p.u.isfinite()
        active = low | high | self.equal
        bound = torch.where(active, torch.where(self.equal | low, p.l, p.u), 0.0)
        x1, y1, error = Equations(p, active, self.form).solve(-p.q, bound)
        reached = apply(p.C, x1)
        z1 = torch.where(active, bound, torch.minimum(torch.maximum(reached, p.l), p.u))
        y1 = torch.where(self.equal, y1, torch.where(low, y1.clamp_max(0), y1.clamp_min(0)))
        x0, y0 = self.x, self.y
        before, old = torch.maximum(self.primal, self.dual), self.state
        kept = x0, y0, self.primal, self.dual
        self.state = splitting.state(x1, z1, y1)
        primal, dual, _ = self._residuals(splitting)
        better = (torch.maximum(self.primal, self.dual) <= before) & self.state.isfinite().all(1) & error.isfinite()
        self.state = torch.where(better[:, None], self.state, old)
        fresh = self.x, self.y, self.primal, self.dual
        self.x, self.y, self.primal, self.dual = (
            torch.where(better.view(-1, *([1] * (a.dim() - 1))), a, b) for a, b in zip(fresh, kept, strict=True)
        )
        now = better & (primal <= 1) & (dual <= 1) & (self.code == CODES.index(Status.max_steps))
        self.code = torch.where(now, CODES.index(Status.solved), self.code)

    def bound(self) -> tuple[Tensor, Tensor]:
        """Which rows the state holds at their lower and at their upper bounds, (B, M) each."""
        p = self.scaled
        v = self.state[:, p.variables :] if self.held else self.state
        return v <= p.l, v >= p.u

    def stats(self) -> Stats:
        """What the search took, as of one solve; the residual is the larger of primal and dual."""
        solved = self.code.cpu() == CODES.index(Status.solved)
        trace = torch.cat(self.trace) if self.trace else torch.zeros(0, len(solved))
        residual = torch.maximum(self.primal, self.dual).cpu()
        return Stats(self.nfe, self.steps, residual, solved, trace, self.nfe * len(solved))

    def record(self) -> ProgramRecord:
        status = tuple(CODES[i] for i in self.code.tolist())
        return ProgramRecord(status, self.primal, self.dual, self.y, self.steps, self.rounds)
