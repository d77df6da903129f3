"""One step for the whole batch.

The loop owns accepting and rejecting, landing on the requested times, terminal events, samples that are settled and
the statistics; a method owns nothing but one step. The clock and every decision live on the host in double precision,
from one read a step. Nothing that chooses a step carries a graph: the gradient is that of the steps which were taken.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from zoo.solvers.ode.base import Attempt, ODESolution, Problem, sample_norm
from zoo.solvers.ode.dense import Segment
from zoo.solvers.ode.events import EventWatch
from zoo.solvers.ode.first_step import first_step
from zoo.solvers.ode.one_step import OneStep, step_functions
from zoo.solvers.ode.pace import AdaptivePace, FixedPace
from zoo.solvers.ode.progress import IntegrationProgress
from zoo.solvers.ode.stiffness import stiff
from zoo.solvers.ode.waypoints import Waypoint, jump_gap, waypoints

EPS = float(np.finfo(np.float64).eps)  # of the clock


def integrate_batched(solver: OneStep, p: Problem) -> ODESolution:
    """Integrate all samples with common steps.

    Fixed steps take a sample to infinity or NaN and on, and its evaluations there would stay in the graph, where
    0 * NaN reaches the parameters that all samples share. Where a gradient is recorded, such steps are taken once more,
    with the sample held still, out of the field's sight, from the last requested time at which it was finite.
    """
    loop = _Batched(solver, p)
    solution = loop.run()
    lost = loop.log.broken
    if lost is None or not solution.value.requires_grad:
        return solution
    return _Batched(solver, p, lost).run()


class _Batched:
    """One integration with common steps: the clock, the states, and who still moves.

    Args:
        broken: (B,) the requested time, by its number, after which a sample is known to become infinite or NaN.
    """

    def __init__(self, solver: OneStep, p: Problem, broken: np.ndarray | None = None) -> None:
        self.solver, self.p, self.field, self.y = solver, p, p.field, p.y0
        self.norm = p.norm or sample_norm(p.y0)
        self.step, self.slope = step_functions(solver, p, self.norm)
        ts = p.ts.tolist()
        start, end = ts[0], ts[-1]
        out, *self.route = waypoints(ts, solver.jump_ts, jump_gap(p.ts, p.y0.dtype) if solver.jump_ts else 0.0)
        self.t, self.end = out.leave, end
        self.tiny = 16 * EPS * max(abs(start), abs(end))
        self.pace = AdaptivePace(solver) if solver.adaptive else FixedPace(solver, abs(end - start))
        self.between = p.dense or p.event is not None  # whether states between the steps are asked for
        self.wants_slope = self.between or solver.first_slope != "none"
        self.k: Tensor | None = None
        self.log = IntegrationProgress(p.batch, start, fixed=not solver.adaptive)
        self.broken = broken
        self.moving, self.left_over = np.ones(p.batch, dtype=bool), True
        self.accepted, self.last = 0, math.nan
        self.segments: list[Segment] = []
        self.events = EventWatch(p.event, self.clock(self.t), self.y, self.field.args) if p.event else None

    def clock(self, t: float) -> Tensor:
        return torch.full((), t, dtype=self.y.dtype, device=self.y.device)

    def run(self) -> ODESolution:
        values = [self.y]
        self.set_out()
        self.leave_broken(0)
        for mark in self.route:
            self.go_to(mark)
            if mark.requested:
                values.append(self.y)
                self.leave_broken(len(values) - 1)
        self.settle(self.moving)
        log, field = self.log, self.field
        if self.pace.ratio is not None:
            log.residual[:] = self.pace.ratio.double().cpu().numpy()
        if log.short.any() and self.accepted >= self.pace.enough_to_judge:
            log.stiff |= log.short & stiff(field, self.clock(self.t), self.y, self.last)
        log.trace = [*self.pace.trace]
        field.active_mask = field.stand_in = None
        return log.solution(torch.stack(values), field, self.p.ts, self.segments, events=self.events is not None)

    def set_out(self) -> None:
        """Begin at the present time, or begin anew there after a jump."""
        self.k = None
        if not isinstance(self.pace, AdaptivePace):
            return
        self.k = self.slope(self.clock(self.t), self.y)
        span = np.asarray(self.end - self.t)
        if self.solver.first_step is not None:
            dt = math.copysign(self.solver.first_step, span)
        else:
            dt = float(first_step(self.solver, self.field, self.clock(self.t), self.y, self.k, self.norm, span))
        self.pace.begin(dt)

    def go_to(self, mark: Waypoint) -> None:
        """Take steps until the clock shows the waypoint, nobody moves, or no step is left."""
        self.pace.aim(mark.land - self.t)
        while self.t != mark.land and self.left_over and self.pace.may_go_on:
            if self.k is None and self.wants_slope:
                self.k = self.slope(self.clock(self.t), self.y)
            h, landing = self.pace.next(mark.land - self.t)
            attempt = self.step(self.t, h, self.y, self.k, self.between)
            if not self.pace.accepts(h, landing, attempt.ratio):
                if abs(self.pace.dt) < self.tiny:
                    self.give_up(attempt)
                continue
            self.take(attempt, h, mark.land if landing else self.t + h)
        self.log.short |= self.moving & (self.t != mark.land)
        if mark.leave != mark.land and self.t == mark.land:
            self.t = mark.leave
            if mark.leave != self.end and self.left_over:
                self.set_out()

    def take(self, attempt: Attempt, h: float, t_next: float) -> None:
        """Move to the end of an accepted step."""
        if attempt.unsolved is not None:
            self.log.unsolved |= attempt.unsolved & self.moving
        self.accepted, self.last = self.accepted + 1, h
        y, k = self.y, self.k
        self.y, self.k = attempt.y, attempt.k
        if self.between:
            assert k is not None
            self.k = self.slope(self.clock(t_next), self.y) if self.k is None else self.k
            segment = Segment(self.t, h, y, k, self.y, self.k, attempt.dense_coeff)
            if self.p.dense:
                self.segments.append(segment)
            if self.events is not None:
                self.end_at_events(self.events, segment, t_next)
        self.t = t_next

    def end_at_events(self, events: EventWatch, segment: Segment, t_next: float) -> None:
        """Move samples that crossed an event in this step back to where they did, and hold them there."""
        crossed = events.look(self.clock(t_next), self.y, self.field.args) & self.moving
        if not crossed.any():
            return
        found = events.locate(segment, self.field.args)
        mask = torch.from_numpy(crossed).to(self.y.device).view((-1,) + (1,) * (self.y.dim() - 1))
        self.y = torch.where(mask, found.y, self.y)
        if self.segments:
            self.segments[-1] = segment._replace(stop=torch.where(mask, found.share.view(mask.shape), 1.0))
        times = self.t + self.last * found.share.double().cpu().numpy()[crossed]
        self.log.end(np.flatnonzero(crossed), crossed, times, found)
        self.settle(crossed)
        self.log.reached[crossed] = times
        self.hold(crossed)

    def give_up(self, attempt: Attempt) -> None:
        """Hold the samples whose error asks for steps below the clock's resolution."""
        assert isinstance(self.pace, AdaptivePace) and attempt.ratio is not None
        ratios = attempt.ratio.double().cpu().numpy()
        failed = ~(ratios <= 1) if self.pace.worst else ~(ratios < np.nanmax(ratios))
        who = np.broadcast_to(self.moving & failed, len(self.moving))
        (self.log.stalled if math.isfinite(self.pace.trace[-1]) else self.log.dead)[who] = True
        self.settle(who)
        self.hold(who)
        self.pace.dt = self.pace.good

    def leave_broken(self, row: int) -> None:
        """Hold the samples whose last finite state is that at the requested time ``row``."""
        if self.broken is not None and (who := self.moving & (self.broken == row)).any():
            self.settle(who)
            self.log.dead |= who
            self.hold(who)
            self.field.stand_in = int(self.moving.argmax()) if self.left_over else None

    def settle(self, who: np.ndarray) -> None:
        """Write down where samples stand that go no further."""
        self.log.reached[who], self.log.last_dt[who] = self.t, self.last
        self.log.accepted[who], self.log.rejected[who] = self.accepted, self.pace.rejected

    def hold(self, who: np.ndarray) -> None:
        """Hold samples still from now on."""
        self.moving[who] = False
        self.left_over = bool(self.moving.any())
        mask = torch.tensor(self.moving, device=self.y.device).view((-1,) + (1,) * (self.y.dim() - 1))
        self.field.active_mask = mask
        self.k = None if self.k is None else torch.where(mask, self.k, 0.0)
