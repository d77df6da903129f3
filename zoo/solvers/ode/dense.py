"""Between the steps: dense output of an integration, and where in a step a terminal event falls."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from zoo.solvers.autograd import Once, refuse_second_order

Event = Callable[..., Tensor]  # (t, y, *args) -> (B,)


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


def locate(event: Event, args: tuple[Tensor, ...], s: Segment, before: Tensor) -> tuple[Tensor, Tensor]:
    """Where in a step the event changes sign: the share of the step (B,), without a graph, and the state there.

    Bisection on the interpolant, for all samples at once. The state carries the derivative of the event's own time:
    with ``y(t)`` the trajectory and ``g`` the event, ``dt* = -dg / (dg/dt)`` by the implicit function theorem, so
    ``y(t*) + f (-dg / g')`` with the factor's value at zero is differentiated rightly at first order; a second
    derivative is refused.

    Args:
        before: (B,) the event's values at the start of the step.
    """
    shape = (-1,) + (1,) * (s.y0.dim() - 1)
    with torch.no_grad():
        low, high = torch.zeros_like(before), torch.ones_like(before)
        for _ in range(52 if before.dtype == torch.float64 else 24):
            middle = (low + high) / 2
            x = middle.view(shape)
            after = event(s.t + x * s.dt, s.at(x), *args) * before <= 0
            low, high = torch.where(after, low, middle), torch.where(after, middle, high)
        share = high.view(shape)
    y = s.at(share)
    if y.requires_grad:
        width = 1e-3
        with torch.no_grad():
            near, far = (share - width).clamp(min=0), (share + width).clamp(max=1)
            g0, g1 = (event(s.t + x * s.dt, s.at(x), *args) for x in (near, far))
            slope = ((g1 - g0) / (far - near).view(-1)).view(shape)
            speed = (s.at(far) - s.at(near)) / (far - near)
        g = event(s.t + share * s.dt, y, *args).view(shape)
        still = slope == 0  # a sample that is settled already
        y = Once.apply(y + speed * torch.where(still, 0.0, (g.detach() - g) / torch.where(still, 1.0, slope)), _refuse)
    return high, y


def _refuse() -> None:
    refuse_second_order("A terminal event", "odeint without an event, up to a time that is known")
