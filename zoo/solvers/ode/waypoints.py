"""Where steps must land: the requested times, and the times at which the field jumps.

A field that jumps at ``t = j`` (``torch.where(t < j, ...)``) has two values there. The step that ends at a jump lands a
rounding error before it, and the next one leaves a rounding error after it: no stage of a step sees the other side, so
that the method keeps its order and its error estimate. What is skipped is ``8 eps`` of the integration's time scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch


class Waypoint(NamedTuple):
    """One time to land on."""

    land: float
    leave: float  # where the next step starts: later than ``land`` at a jump
    requested: bool


def jump_gap(ts: np.ndarray, dtype: torch.dtype) -> float:
    """How far from a jump steps keep: what a clock of the state's dtype can tell apart, with room for its sums."""
    return 4 * torch.finfo(dtype).eps * float(np.abs(ts).max())


def waypoints(ts: Sequence[float], jumps: Sequence[float], gap: float) -> list[Waypoint]:
    """The times in their order, the start first; jumps outside of them do not matter."""
    marks = [Waypoint(t, t, True) for t in ts]
    if not jumps:
        return marks
    sign = 1.0 if ts[-1] > ts[0] else -1.0
    for jump in jumps:
        around = Waypoint(jump - sign * gap, jump + sign * gap, False)
        near = [i for i, m in enumerate(marks) if abs(m.land - jump) <= 4 * gap]
        if near:
            around = around._replace(requested=marks[near[0]].requested)
            marks[near[0]] = around
        elif sign * ts[0] < sign * jump < sign * ts[-1]:
            marks.append(around)
    marks.sort(key=lambda m: sign * m.land)
    marks[0] = marks[0]._replace(land=ts[0], leave=max(marks[0].leave, ts[0], key=lambda t: sign * t))
    marks[-1] = marks[-1]._replace(leave=ts[-1])
    return marks


class Routes:
    """The waypoints of every sample, (B, W) without the start; short routes repeat their last one.

    Attributes:
        start: (B,) where the first steps leave from.
        land, leave: (B, W).
        requested: (B, W) whether the state there was asked for.
        column: (B, W) the first requested time, by its number in ts, that is not before the waypoint.
        length: (B,) waypoints of each sample.
    """

    def __init__(self, ts: np.ndarray, jumps: Sequence[float], gap: float) -> None:
        batch, count = ts.shape
        if not jumps:
            self.start, self.land, self.leave = ts[:, 0].copy(), ts[:, 1:], ts[:, 1:]
            self.requested = np.ones((batch, count - 1), dtype=bool)
            self.column = np.broadcast_to(np.arange(1, count), (batch, count - 1))
            self.length = np.full(batch, count - 1)
            return
        routes = [waypoints(row, jumps, gap) for row in ts.tolist()]
        self.start = np.array([r[0].leave for r in routes])
        self.length = np.array([len(r) - 1 for r in routes])
        padded = [r[1:] + [r[-1]] * (self.length.max() - len(r) + 1) for r in routes]
        self.land = np.array([[m.land for m in r] for r in padded])
        self.leave = np.array([[m.leave for m in r] for r in padded])
        self.requested = np.array([[m.requested for m in r] for r in padded])
        self.column = 1 + np.cumsum(self.requested, 1) - self.requested
