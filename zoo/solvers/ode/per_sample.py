"""Steps of every sample's own.

The rules are those of `zoo.solvers.ode.batched`, sample by sample; with ``args`` given, finished samples are taken out
of the batch. The clocks are arrays on the host, and one read a step serves all of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from zoo.solvers.base import take
from zoo.solvers.ode.base import Attempt, ODESolution, Problem, sample_norm
from zoo.solvers.ode.dense import Segment
from zoo.solvers.ode.events import EventWatch
from zoo.solvers.ode.first_step import first_step
from zoo.solvers.ode.one_step import OneStep, step_functions
from zoo.solvers.ode.pace import LAND, STEPS_TO_JUDGE
from zoo.solvers.ode.progress import IntegrationProgress
from zoo.solvers.ode.stiffness import stiff
from zoo.solvers.ode.waypoints import Routes, jump_gap


def integrate_per_sample(solver: OneStep, p: Problem) -> ODESolution:
    """Integrate every sample with steps of its own.

    Raises:
        ValueError: dense output or a norm over the whole batch, which need a common step.
    """
    if p.dense or p.norm is not None:
        raise ValueError("Dense output and a norm over the whole batch need a common step; set per_sample=False.")
    return _PerSample(solver, p).run()


@dataclass
class _Clocks:
    """The samples that are present, each with its clock; arrays (R,)."""

    rows: np.ndarray  # their numbers in the whole batch
    t: np.ndarray
    dt: np.ndarray  # the next step, where the waypoint is not nearer
    goal: np.ndarray  # the waypoint ahead
    r1: np.ndarray  # the last error ratios
    r2: np.ndarray
    active: np.ndarray
    jumped: np.ndarray  # whose field has just jumped

    def keep(self, rows: np.ndarray) -> None:
        """Take the other samples out."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name)[rows])


class _Harvest:
    """The states at the requested times, gathered at the end from a pool of pieces by one index.

    So the loop writes into nothing, and backpropagation passes.
    """

    def __init__(self, y0: Tensor, count: int) -> None:
        self.shape = (count, *y0.shape)
        self.pool, self.filled = [y0], len(y0)
        self.index = np.zeros((count, len(y0)), dtype=np.int64)
        self.index[:] = np.arange(len(y0))

    def add(self, y: Tensor, kept: np.ndarray, rows: np.ndarray, first: np.ndarray, upto: np.ndarray) -> None:
        """The states of ``kept``, of the samples ``rows``, are those at the requested times ``first`` to ``upto``."""
        whole = len(kept) == len(y)
        self.pool.append(y if whole else y.index_select(0, torch.from_numpy(kept).to(y.device)))
        for place, (row, start, end) in enumerate(zip(rows, first, upto, strict=True)):
            self.index[start:end, row] = self.filled + place
        self.filled += len(kept)

    def value(self) -> Tensor:
        chosen = torch.from_numpy(self.index.reshape(-1)).to(self.pool[0].device)
        return torch.cat(self.pool).index_select(0, chosen).view(self.shape)


class _PerSample:
    """One integration with steps of every sample's own."""

    def __init__(self, solver: OneStep, p: Problem) -> None:
        self.solver, self.p, self.field, self.y = solver, p, p.field, p.y0
        batch = p.batch
        self.shape = (-1,) + (1,) * (p.y0.dim() - 1)
        self.ts = np.broadcast_to(p.ts, (batch, p.ts.shape[-1]))
        self.norm = sample_norm(p.y0)
        self.step, self.slope = step_functions(solver, p, self.norm)
        self.routes = Routes(self.ts, solver.jump_ts, jump_gap(p.ts, p.y0.dtype))
        self.most = math.inf if solver.max_step is None else solver.max_step
        self.tiny = 16 * np.finfo(np.float64).eps * np.abs(self.ts).max(1)
        start, ones, all_on = self.routes.start, np.ones(batch), np.ones(batch, dtype=bool)
        self.c = _Clocks(
            np.arange(batch), start, ones, np.zeros(batch, dtype=np.int64), ones, ones, all_on, np.zeros_like(all_on)
        )
        self.log = IntegrationProgress(batch, self.ts[:, 0], fixed=False)
        self.harvest = _Harvest(p.y0, self.ts.shape[1])
        self.events = EventWatch(p.event, self.device(start), self.y, self.field.args) if p.event else None
        self.k: Tensor | None = None

    def device(self, x: np.ndarray) -> Tensor:
        dtype = torch.bool if x.dtype == bool else self.y.dtype
        return torch.from_numpy(x).to(device=self.y.device, dtype=dtype).view(self.shape)

    def run(self) -> ODESolution:
        self.k = self.slope(self.device(self.c.t), self.y)
        self.c.dt = self.first_steps(self.k)
        for _ in range(self.solver.max_steps):
            self.advance()
            if not self.c.active.any():
                break
        else:
            self.run_out()
        self.field.active_mask = None
        return self.log.solution(self.harvest.value(), self.field, self.ts, [], events=self.events is not None)

    def first_steps(self, k: Tensor) -> np.ndarray:
        """The steps to set out with from the present times."""
        c = self.c
        whole = self.ts[c.rows, -1] - self.ts[c.rows, 0]
        span = np.where(c.active, self.ts[c.rows, -1] - c.t, whole)
        if self.solver.first_step is not None:
            return self.limited(np.copysign(np.full(len(c.rows), self.solver.first_step), span))
        return self.limited(first_step(self.solver, self.field, self.device(c.t), self.y, k, self.norm, span))

    def limited(self, dt: np.ndarray) -> np.ndarray:
        return dt if self.most == math.inf else np.copysign(np.minimum(np.abs(dt), self.most), dt)

    def advance(self) -> None:
        """One attempt of every sample."""
        c = self.c
        ahead = np.minimum(c.goal, self.routes.land.shape[1] - 1)
        target = self.routes.land[c.rows, ahead]
        gap = target - c.t
        landing = (np.abs(gap) <= LAND * np.abs(c.dt)) & (np.abs(gap) <= self.most)
        h = np.where(c.active, np.where(landing, gap, c.dt), 0.0)
        time, length = self.device(c.t), self.device(h)
        if self.k is None:
            self.k = self.slope(time, self.y)
        attempt, r = self.attempt(time, length, self.k)
        self.log.trace.append(_scatter(np.where(c.active, r, np.nan), c.rows, self.p.batch))
        ok = (r <= 1) & c.active
        lost = self.choose_steps(h, r, ok, landing)

        y, k, mask = self.y, self.k, None if ok.all() else self.device(ok)
        self.y = attempt.y if mask is None else torch.where(mask, attempt.y, y)
        if ok.any():  # where everyone starts anew, the slopes are those that are known
            self.k = attempt.k if mask is None or attempt.k is None else torch.where(mask, attempt.k, k)
        t_next = np.where(ok, np.where(landing, target, c.t + h), c.t)
        crossed = np.zeros(len(c.rows), dtype=bool)
        if self.events is not None:
            self.k = self.slope(self.device(t_next), self.y) if self.k is None else self.k
            segment = Segment(time, length, y, k, self.y, self.k, attempt.dense_coeff)
            crossed, t_next = self.end_at_events(self.events, segment, h, t_next, ok)
        hit = ok & landing & ~crossed
        leave = self.routes.leave[c.rows, ahead]
        c.t = np.where(hit, leave, t_next)
        self.log.reached[c.rows] = c.t
        if self.arrive(hit, lost | crossed):
            self.rest()
        if self.solver.jump_ts:
            self.leave_jumps()

    def attempt(self, time: Tensor, length: Tensor, k: Tensor) -> tuple[Attempt, np.ndarray]:
        """A step of every sample, and its error over tolerance: the one host read."""
        active, dense = self.c.active, self.events is not None
        attempt = self.step(time, length, self.y, k, dense)
        assert attempt.ratio is not None
        r = attempt.ratio.double().cpu().numpy()
        broken = active & ~np.isfinite(r)
        if broken.any() and torch.is_grad_enabled():
            # The attempt stays in the graph for the rows that accept it, where 0 * NaN would reach shared parameters:
            # take it once more with the broken rows held still.
            self.field.active_mask = self.device(active & ~broken)
            attempt = self.step(time, length, self.y, torch.where(self.field.active_mask, k, 0.0), dense)
            self.field.active_mask = None if active.all() else self.device(active)
        return attempt, r

    def choose_steps(self, h: np.ndarray, r: np.ndarray, ok: np.ndarray, landing: np.ndarray) -> np.ndarray:
        """Adapt the steps to the errors ``r``, write down what was taken; (R,) who is lost below the clock's
        resolution."""
        c, log = self.c, self.log
        failed = c.active & ~ok
        factor = self.solver.controller(self.solver.order, (r, c.r1, c.r2))
        clipped = landing & (np.abs(h) < np.abs(c.dt))
        proposal = h * np.where(ok, factor, np.minimum(factor, 0.9))
        proposal = np.where(ok & clipped & (np.abs(proposal) < np.abs(c.dt)), c.dt, proposal)
        lost = failed & (np.abs(proposal) < self.tiny[c.rows])
        c.dt = np.where(c.active, self.limited(proposal), c.dt)
        c.r1, c.r2 = np.where(ok, np.maximum(r, 1e-10), c.r1), np.where(ok, c.r1, c.r2)
        log.accepted[c.rows] += ok
        log.rejected[c.rows] += failed
        log.last_dt[c.rows] = np.where(ok, h, log.last_dt[c.rows])
        log.residual[c.rows] = np.where(ok, r, log.residual[c.rows])
        log.dead[c.rows] |= lost & ~np.isfinite(r)
        log.stalled[c.rows] |= lost & np.isfinite(r)
        return lost

    def end_at_events(
        self, events: EventWatch, segment: Segment, h: np.ndarray, t_next: np.ndarray, ok: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """(R,) who crossed an event, and the times, set back to the event's for those."""
        c, args = self.c, self.field.args
        crossed = events.look(self.device(t_next), self.y, args) & ok
        if crossed.any():
            found = events.locate(segment, args)
            self.y = torch.where(self.device(crossed), found.y, self.y)
            t_next = np.where(crossed, c.t + h * found.share.double().cpu().numpy(), t_next)
            self.log.end(c.rows[crossed], crossed, t_next[crossed], found)
        return crossed, t_next

    def arrive(self, hit: np.ndarray, over: np.ndarray) -> bool:
        """Gather the states of samples that have hit a waypoint or are over; whether there were any."""
        c, routes = self.c, self.routes
        ahead = np.minimum(c.goal, routes.land.shape[1] - 1)
        kept = np.flatnonzero((hit & routes.requested[c.rows, ahead]) | over)
        if len(kept):
            rows, count = c.rows[kept], len(self.harvest.index)
            first = routes.column[rows, ahead[kept]]
            self.harvest.add(self.y, kept, rows, first, np.where(over[kept], count, first + 1))
        c.jumped = hit & (routes.leave[c.rows, ahead] != routes.land[c.rows, ahead])
        c.goal = c.goal + hit
        c.active = c.active & ~over & (c.goal < routes.length[c.rows])
        return len(kept) > 0

    def leave_jumps(self) -> None:
        """Begin anew where the field has jumped."""
        c = self.c
        jumped = c.active & c.jumped
        if not jumped.any():
            return
        slope = self.slope(self.device(c.t), self.y)
        if self.k is not None:
            self.k = torch.where(self.device(jumped), slope, self.k)
        c.dt = np.where(jumped, self.first_steps(slope), c.dt)
        c.r1, c.r2 = np.where(jumped, 1.0, c.r1), np.where(jumped, 1.0, c.r2)

    def rest(self) -> None:
        """Hold the finished samples still, or take them out of the batch where they are many."""
        c, y = self.c, self.y
        if not c.active.any():
            return
        if self.p.compact and 8 * (~c.active).sum() >= len(c.rows):
            keep = np.flatnonzero(c.active)
            cut = torch.from_numpy(keep).to(y.device)
            self.y, self.k = take(y, cut), None if self.k is None else take(self.k, cut)
            self.field.args = take(self.field.args, cut)
            if self.events is not None:
                self.events.keep(cut)
            c.keep(keep)
        self.field.active_mask = None if c.active.all() else self.device(c.active)
        if self.field.active_mask is not None and self.k is not None:
            self.k = torch.where(self.field.active_mask, self.k, 0.0)

    def run_out(self) -> None:
        """Every attempt is used up: the states reached are the answer of who is still on the way."""
        c, log = self.c, self.log
        left = np.flatnonzero(c.active)
        rows, count = c.rows[left], len(self.harvest.index)
        first = self.routes.column[rows, c.goal[left]]
        self.harvest.add(self.y, left, rows, first, np.full(len(left), count))
        log.short[rows] = True
        judged = c.active & (log.accepted[c.rows] >= STEPS_TO_JUDGE)
        if judged.any():
            log.stiff[c.rows] |= judged & stiff(self.field, self.device(c.t), self.y, log.last_dt[c.rows])


def _scatter(values: np.ndarray, rows: np.ndarray, batch: int) -> np.ndarray:
    out = np.full(batch, np.nan)
    out[rows] = values
    return out
