"""Dense output: the states between the steps of an integration."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Segment(NamedTuple):
    """One accepted step: ``y`` and ``f`` at both ends, and the quartic term if the method has one.

    ``stop`` is the share of the step at which a sample came to its end, 1 for the others, shaped to go with ``y``.
    """

    t: float | Tensor
    dt: float | Tensor
    y0: Tensor
    k0: Tensor
    y1: Tensor
    k1: Tensor
    dense_coeff: Tensor | None
    stop: Tensor | None = None

    def at(self, x: float | Tensor) -> Tensor:
        """The state at the share ``x`` in [0, 1] of the step.

        The cubic that meets both states and both slopes (Hermite), plus ``x^2 (1 - x)^2 dense_coeff``: every quartic
        with the same ends differs from that cubic by a multiple of this term only.
        """
        if self.stop is not None:
            x = self.stop.clamp(max=x)
        rise = self.y1 - self.y0
        left = self.k0 * self.dt - rise
        inner = rise - self.k1 * self.dt - left
        if self.dense_coeff is not None:
            inner = inner + (1 - x) * self.dense_coeff
        return self.y0 + x * (rise + (1 - x) * (left + x * inner))


class Interpolant:
    """The states at all times of an integration, of order 4 for dopri5 and tsit5 and of order 3 for the others."""

    def __init__(self, segments: list[Segment]) -> None:
        self.segments = segments
        self.sign = 1.0 if segments[0].dt > 0 else -1.0
        self.knots = [self.sign * float(s.t) for s in segments]
        self.start, self.end = float(segments[0].t), float(segments[-1].t + segments[-1].dt)

    def __call__(self, t: float | Sequence[float] | Tensor) -> Tensor:
        times = torch.as_tensor(t, dtype=torch.float64)
        if times.dim() > 1:
            raise ValueError(f"Evaluate at one time or at a list of times; got the shape {tuple(times.shape)}.")
        states = [self._one(x) for x in times.reshape(-1).tolist()]
        return states[0] if times.dim() == 0 else torch.stack(states)

    def _one(self, t: float) -> Tensor:
        slack = 1e-9 * abs(self.end - self.start)
        if not min(self.start, self.end) - slack <= t <= max(self.start, self.end) + slack:
            raise ValueError(f"The time {t} lies outside of what was integrated, {self.start} to {self.end}.")
        s = self.segments[max(bisect.bisect_right(self.knots, self.sign * t) - 1, 0)]
        return s.at((t - float(s.t)) / float(s.dt))
