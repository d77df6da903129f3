"""What an integration is known to have done, sample by sample."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from zoo.solvers.base import Result
from zoo.solvers.ode.base import Field, ODESolution, ODEStats
from zoo.solvers.ode.dense import Interpolant, Segment
from zoo.solvers.ode.events import Crossing

FAILURES = (Result.max_steps, Result.unsolved, Result.stiff, Result.stalled, Result.nonfinite)


class IntegrationProgress:
    """What is known of every sample of the whole batch; becomes the `ODEStats`.

    Args:
        batch: number of samples.
        start: the time, or the times (B,), from which they set out.
        fixed: whether the steps are fixed, so that nothing is known of their error.
    """

    def __init__(self, batch: int, start: np.ndarray | float, fixed: bool) -> None:
        self.fixed = fixed
        self.reached, self.last_dt, self.residual, self.event_time = np.full((4, batch), np.nan)
        self.reached[:] = start
        self.accepted, self.rejected, self.event_index = np.zeros((3, batch), dtype=np.int64)
        self.event_index[:] = -1
        self.failures = np.zeros((5, batch), dtype=bool)  # in the order of `FAILURES`
        self.short, self.unsolved, self.stiff, self.stalled, self.dead = self.failures
        self.trace: list[np.ndarray | float] = []
        self.shifts: list[tuple[np.ndarray, Tensor]] = []  # rows, and the derivative of their events' times
        self.broken: np.ndarray | None = None  # (B,) the last row with a finite state, -1 where all are; None: all are

    @property
    def result(self) -> Result:
        """The worst that happened to a sample."""
        if np.count_nonzero(self.failures):
            return Result.worst(r for r, who in zip(FAILURES, self.failures, strict=True) if who.any())
        if self.shifts or np.count_nonzero(self.event_index >= 0):
            return Result.terminated
        return Result.fixed_steps if self.fixed else Result.converged

    def end(self, rows: np.ndarray, who: np.ndarray, times: np.ndarray, crossing: Crossing) -> None:
        """Note the event at which the samples ``rows`` (of the whole batch; ``who`` of those present) have ended."""
        self.event_time[rows] = times
        self.event_index[rows] = crossing.which.cpu().numpy()[who]
        if crossing.shift is not None:
            kept = torch.from_numpy(np.flatnonzero(who)).to(crossing.shift.device)
            self.shifts.append((rows, crossing.shift.index_select(0, kept)))

    def solution(
        self, value: Tensor, field: Field, times: np.ndarray, segments: list[Segment], events: bool = False
    ) -> ODESolution:
        """The solution with this for its statistics.

        Args:
            value: (T, B, ...) the states at the requested times.
            times: (T,) or (B, T).
            events: whether terminal events were looked for.
        """
        value = self._finite(value, times)
        trace = np.zeros((len(self.trace), len(self.reached)))
        for row, ratio in zip(trace, self.trace, strict=True):  # one ratio for the batch, or one for each sample
            row[:] = ratio
        stats = ODEStats(
            nfe=field.calls,
            steps=torch.from_numpy(self.accepted + self.rejected),
            residual=torch.from_numpy(self.residual),
            converged=torch.from_numpy(~self.failures.any(0) & (self.event_index < 0)),
            trace=torch.from_numpy(trace),
            sample_nfe=field.samples,
            accepted=torch.from_numpy(self.accepted),
            rejected=torch.from_numpy(self.rejected),
            last_dt=torch.from_numpy(self.last_dt),
            reached=torch.from_numpy(self.reached),
            event_time=torch.from_numpy(self.event_time),
            event_index=torch.from_numpy(self.event_index),
        )
        event_time = self._event_time(value) if events else None
        interpolant = Interpolant(segments) if segments else None
        return ODESolution(value, self.result, stats, interpolant=interpolant, event_time=event_time)

    def _event_time(self, value: Tensor) -> Tensor:
        times = torch.from_numpy(self.event_time).to(value)
        for rows, shift in self.shifts:
            times = times.index_add(0, torch.from_numpy(rows).to(shift.device), shift.to(times.dtype))
        return times

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
        self.broken = np.where(bad, first_bad - 1, -1)
        self.reached[bad] = np.broadcast_to(times, (value.shape[1], len(value)))[bad, first_bad[bad] - 1]
        index = torch.from_numpy(rows).to(value.device)
        return value[index, torch.arange(value.shape[1], device=value.device)]
