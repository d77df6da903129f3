"""The two time loops.

`integrate_batched` takes one step for the whole batch, `integrate_per_sample` gives every sample steps of its own.

Both own accepting and rejecting, landing on the requested times, terminal events, samples that are settled and the
statistics; a method owns nothing but one step. The clock and every decision live on the host in double precision, from
one read a step. Nothing that chooses a step carries a graph: the gradient is that of the steps which were taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from zoo.solvers.base import Result, take
from zoo.solvers.ode.base import Attempt, Field, Norm, ODESolution, ODEStats, Problem, Step, sample_norm
from zoo.solvers.ode.dense import Interpolant, Segment, locate
from zoo.solvers.ode.first_step import first_step
from zoo.solvers.ode.one_step import OneStep

LAND = 1.05  # a step that would end up to 5 % short of a requested time is stretched to it: safety leaves 10 %


class IntegrationProgress:
    """What is known of every sample of the whole batch; becomes the `ODEStats`."""

    def __init__(self, batch: int, start: np.ndarray | float) -> None:
        self.reached = np.full(batch, start, dtype=np.float64) if np.isscalar(start) else start.astype(np.float64)
        self.accepted, self.rejected = np.zeros(batch, dtype=np.int64), np.zeros(batch, dtype=np.int64)
        self.last_dt, self.residual, self.event_time = (np.full(batch, np.nan) for _ in range(3))
        self.short, self.dead, self.stalled, self.unsolved = (np.zeros(batch, dtype=bool) for _ in range(4))
        self.trace: list[np.ndarray | float] = []

    @property
    def result(self) -> Result:
        if self.dead.any():
            return Result.nonfinite
        if self.stalled.any():
            return Result.stalled
        if self.unsolved.any():
            return Result.unsolved
        if self.short.any():
            return Result.max_steps
        return Result.converged if np.isnan(self.event_time).all() else Result.terminated

    def solution(self, value: Tensor, field: Field, times: np.ndarray, segments: list[Segment]) -> ODESolution:
        value = self._finite(value, times)
        batch = len(self.reached)
        trace = np.zeros((len(self.trace), batch))
        for row, ratio in zip(trace, self.trace, strict=True):  # one ratio for the batch, or one for each sample
            row[:] = ratio
        stats = ODEStats(
            nfe=field.calls,
            steps=torch.from_numpy(self.accepted + self.rejected),
            residual=torch.from_numpy(self.residual),
            converged=torch.from_numpy(
                ~(self.short | self.dead | self.stalled | self.unsolved) & np.isnan(self.event_time)
            ),
            trace=torch.from_numpy(trace),
            sample_nfe=field.samples,
            accepted=torch.from_numpy(self.accepted),
            rejected=torch.from_numpy(self.rejected),
            last_dt=torch.from_numpy(self.last_dt),
            reached=torch.from_numpy(self.reached),
            event_time=torch.from_numpy(self.event_time),
        )
        return ODESolution(value, self.result, stats, interpolant=Interpolant(segments) if segments else None)

    def _finite(self, value: Tensor, times: np.ndarray) -> Tensor:
        """Repeat a sample's last finite state over the rows after it; the only look at what fixed steps computed."""
        if math.isfinite(value.detach().sum().item()):  # one pass; a sum that only overflowed is looked at closely
            return value
        good = torch.isfinite(value.detach())
        good = good.flatten(2).all(2) if value.dim() > 2 else good
        first_bad = np.argmin(np.cumprod(good.cpu().numpy(), axis=0), axis=0)  # 0 where all rows are finite
        rows = np.arange(len(value))[:, None].repeat(value.shape[1], 1)
        bad = first_bad > 0
        rows[:, bad] = np.minimum(rows[:, bad], first_bad[bad] - 1)
        self.dead |= bad
        self.reached[bad] = np.broadcast_to(times, (value.shape[1], len(value)))[bad, first_bad[bad] - 1]
        index = torch.from_numpy(rows).to(value.device)
        return value[index, torch.arange(value.shape[1], device=value.device)]


def _functions(solver: OneStep, p: Problem, norm: Norm) -> tuple[Step, Callable[[Tensor, Tensor], Tensor]]:
    """The step, and the evaluation ``f(t, y)`` at its start, both as the adjoint wants their graphs kept."""
    step = solver.stepper(p, norm)
    if p.step_wrapper is None:
        return step, p.field
    evaluate = p.step_wrapper(lambda t, dt, y, k, dense: Attempt(y, p.field(t, y), None), p.field, False)
    return p.step_wrapper(step, p.field, solver.first_slope == "own"), lambda t, y: evaluate(t, 0.0, y, None, False).k


def integrate_batched(solver: OneStep, p: Problem) -> ODESolution:
    """One step for the whole batch."""
    field, y, ts, batch = p.field, p.y0, p.ts.tolist(), p.batch
    t, k, end = ts[0], None, ts[-1]
    norm = p.norm or sample_norm(y)
    step, slope = _functions(solver, p, norm)
    adaptive, worst, watch = solver.adaptive, solver.norm == "max", p.dense or p.event is not None
    tiny = 16 * np.finfo(np.float64).eps * max(abs(t), abs(end))

    def clock(time: float) -> Tensor:
        return torch.full((), time, dtype=y.dtype, device=y.device)

    def settle(who: np.ndarray) -> None:
        log.reached[who], log.last_dt[who] = t, last
        log.accepted[who], log.rejected[who] = accepted, rejected

    def hold(who: np.ndarray, k: Tensor) -> Tensor:
        """Hold samples still from now on; gives the masked derivative."""
        nonlocal left_over
        moving[who] = False
        left_over = bool(moving.any())
        field.active_mask = torch.tensor(moving, device=y.device).view((-1,) + (1,) * (y.dim() - 1))
        return torch.where(field.active_mask, k, 0.0)

    log, moving = IntegrationProgress(batch, t), np.ones(batch, dtype=bool)
    order, controller = solver.order, solver.controller
    left_over, wants_slope = True, watch or solver.first_slope != "none"
    accepted = rejected = 0
    last, good, ratio = math.nan, math.nan, None
    r1 = r2 = 1.0
    values, segments = [y], []
    before = p.event(clock(t), y, *field.args).detach() if p.event else None
    dt = math.copysign(solver.first_step, end - t) if solver.first_step is not None else 0.0
    if adaptive:
        k = slope(clock(t), y)
        if not dt:
            dt = float(first_step(solver, field, clock(t), y, k, norm, np.asarray(end - t)))
        good = dt

    for target in ts[1:]:
        left = 0 if adaptive else solver.substeps(abs(target - t), abs(end - ts[0]))
        while t != target and left_over and accepted + rejected < solver.max_steps:
            if k is None and wants_slope:
                k = slope(clock(t), y)
            gap = target - t
            landing = left == 1 if not adaptive else abs(gap) <= LAND * abs(dt)
            h = gap / left if not adaptive else gap if landing else dt
            a = step(t, h, y, k, watch)
            if adaptive:
                r = (a.ratio.amax() if worst else a.ratio.square().mean().sqrt()).item()
                log.trace.append(r)
                factor = controller(order, (r, r1, r2))
                if not r <= 1:
                    rejected += 1
                    dt = h * min(factor, 0.9)
                    if abs(dt) < tiny:
                        ratios = a.ratio.double().cpu().numpy()
                        who = moving & ~(ratios <= 1) if worst else moving & ~(ratios < np.nanmax(ratios))
                        who = np.broadcast_to(who, batch)
                        (log.stalled if math.isfinite(r) else log.dead)[who] = True
                        settle(who)
                        k, dt = hold(who, k), good
                    continue
                proposal, r1, r2 = h * factor, max(r, 1e-10), r1
                dt = max(dt, proposal, key=abs) if landing and abs(h) < abs(dt) else proposal
                good, ratio = dt, a.ratio
            if a.unsolved is not None:
                log.unsolved |= a.unsolved & moving
            accepted, left, last = accepted + 1, left - 1, h
            start, t_next = (y, k), target if landing else t + h
            y, k = a.y, a.k
            if watch:
                k = slope(clock(t_next), y) if k is None else k
                segment = Segment(t, h, start[0], start[1], y, k, a.dense_coeff)
                if p.dense:
                    segments.append(segment)
            if p.event:
                after = p.event(clock(t_next), y, *field.args).detach()
                crossed = (((after * before) <= 0) & (before != 0)).cpu().numpy() & moving
                if crossed.any():
                    share, at_event = locate(p.event, field.args, segment, before)
                    mask = torch.from_numpy(crossed).to(y.device).view((-1,) + (1,) * (y.dim() - 1))
                    y = torch.where(mask, at_event, y)
                    if segments:
                        stop = torch.where(mask, share.view(mask.shape), 1.0)
                        segments[-1] = segment._replace(stop=stop)
                    log.event_time[crossed] = t + h * share.double().cpu().numpy()[crossed]
                    settle(crossed)
                    log.reached[crossed] = log.event_time[crossed]
                    k = hold(crossed, k)
                before = after
            t = t_next
        log.short |= moving & (t != target)
        values.append(y)
    settle(moving)
    if ratio is not None:
        log.residual[:] = ratio.double().cpu().numpy()
    field.active_mask = None
    return log.solution(torch.stack(values), field, p.ts, segments)


def integrate_per_sample(solver: OneStep, p: Problem) -> ODESolution:
    """Steps of every sample's own; with ``args`` given, finished samples are taken out of the batch.

    The states at the requested times are gathered at the end from a pool of pieces by one index, so that the loop
    writes into nothing and backpropagation passes.
    """
    if p.dense or p.norm is not None:
        raise ValueError("Dense output and a norm over the whole batch need a common step; set per_sample=False.")
    field, y, batch = p.field, p.y0, p.batch
    shape = (-1,) + (1,) * (y.dim() - 1)
    ts = np.broadcast_to(p.ts, (batch, p.ts.shape[-1]))
    count, norm = ts.shape[1], sample_norm(y)
    step, slope = _functions(solver, p, norm)

    def device(x: np.ndarray, like: Tensor = y) -> Tensor:
        return (
            torch.from_numpy(x).to(device=like.device, dtype=torch.bool if x.dtype == bool else like.dtype).view(shape)
        )

    rows = np.arange(batch)
    t, goal = ts[:, 0].copy(), np.ones(batch, dtype=np.int64)
    tiny = 16 * np.finfo(np.float64).eps * np.abs(ts).max(1)
    log, active = IntegrationProgress(batch, t), np.ones(batch, dtype=bool)
    r1, r2 = np.ones(batch), np.ones(batch)
    pool, filled, index = [y], batch, np.zeros((count, batch), dtype=np.int64)
    index[:] = rows
    before = p.event(device(t), y, *field.args).detach() if p.event else None
    k: Tensor | None = slope(device(t), y)
    span = ts[:, -1] - t
    if solver.first_step is not None:
        dt = np.copysign(np.full(batch, solver.first_step), span)
    else:
        dt = first_step(solver, field, device(t), y, k, norm, span)

    for _ in range(solver.max_steps):
        target = ts[rows, np.minimum(goal, count - 1)]
        gap = target - t
        landing = np.abs(gap) <= LAND * np.abs(dt)
        h = np.where(active, np.where(landing, gap, dt), 0.0)
        time, length = device(t), device(h)
        if k is None:
            k = slope(time, y)
        a = step(time, length, y, k, p.event is not None)
        r = a.ratio.double().cpu().numpy()
        broken = active & ~np.isfinite(r)
        if broken.any() and torch.is_grad_enabled():
            # The attempt stays in the graph for the rows that accept it, where 0 * NaN would reach shared parameters:
            # take it once more with the broken rows held still.
            field.active_mask = device(active & ~broken)
            a = step(time, length, y, torch.where(field.active_mask, k, 0.0), p.event is not None)
            field.active_mask = None if active.all() else device(active)
        log.trace.append(_scatter(np.where(active, r, np.nan), rows, batch))
        ok = (r <= 1) & active
        failed = active & ~ok

        factor = solver.controller(solver.order, (r, r1, r2))
        clipped = landing & (np.abs(h) < np.abs(dt))
        proposal = h * np.where(ok, factor, np.minimum(factor, 0.9))
        proposal = np.where(ok & clipped & (np.abs(proposal) < np.abs(dt)), dt, proposal)
        lost = failed & (np.abs(proposal) < tiny[rows])
        dt = np.where(active, proposal, dt)
        r1, r2 = np.where(ok, np.maximum(r, 1e-10), r1), np.where(ok, r1, r2)

        start, mask = (y, k), None if ok.all() else device(ok)
        y = a.y if mask is None else torch.where(mask, a.y, y)
        k = a.k if mask is None or a.k is None else torch.where(mask, a.k, k)
        t_next = np.where(ok, np.where(landing, target, t + h), t)
        log.accepted[rows] += ok
        log.rejected[rows] += failed
        log.last_dt[rows] = np.where(ok, h, log.last_dt[rows])
        log.residual[rows] = np.where(ok, r, log.residual[rows])
        log.dead[rows] |= lost & ~np.isfinite(r)
        log.stalled[rows] |= lost & np.isfinite(r)

        crossed = np.zeros(len(rows), dtype=bool)
        if p.event:
            k = slope(device(t_next), y) if k is None else k
            after = p.event(device(t_next), y, *field.args).detach()
            crossed = ((after * before <= 0) & (before != 0)).cpu().numpy() & ok
            if crossed.any():
                share, at_event = locate(
                    p.event, field.args, Segment(time, length, *start, y, k, a.dense_coeff), before
                )
                y = torch.where(device(crossed), at_event, y)
                t_next = np.where(crossed, t + h * share.double().cpu().numpy(), t_next)
                log.event_time[rows[crossed]] = t_next[crossed]
            before = after
        t = t_next
        log.reached[rows] = t

        hit = ok & landing & ~crossed
        over = lost | crossed
        kept = np.flatnonzero(hit | over)
        if len(kept):
            pool.append(y if len(kept) == len(rows) else y.index_select(0, torch.from_numpy(kept).to(y.device)))
            for place, row in enumerate(kept):
                upto = count if over[row] else goal[row] + 1
                index[goal[row] : upto, rows[row]] = filled + place
            filled += len(kept)
            goal = goal + hit
            active = active & ~over & (goal < count)
            if not active.any():
                break
            if p.compact and 8 * (~active).sum() >= len(rows):
                keep = np.flatnonzero(active)
                cut = torch.from_numpy(keep).to(y.device)
                y, k, before, field.args = (None if s is None else take(s, cut) for s in (y, k, before, field.args))
                rows, t, dt, goal, r1, r2, active = (x[keep] for x in (rows, t, dt, goal, r1, r2, active))
            field.active_mask = None if active.all() else device(active)
            if field.active_mask is not None and k is not None:
                k = torch.where(field.active_mask, k, 0.0)
    else:
        left = np.flatnonzero(active)
        pool.append(y.index_select(0, torch.from_numpy(left).to(y.device)))
        for place, row in enumerate(left):
            index[goal[row] :, rows[row]] = filled + place
        log.short[rows[left]] = True
    field.active_mask = None
    chosen = torch.from_numpy(index.reshape(-1)).to(y.device)
    value = torch.cat(pool).index_select(0, chosen).view(count, batch, *p.y0.shape[1:])
    return log.solution(value, field, ts, [])


def _scatter(values: np.ndarray, rows: np.ndarray, batch: int) -> np.ndarray:
    out = np.full(batch, np.nan)
    out[rows] = values
    return out
