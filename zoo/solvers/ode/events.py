"""Terminal events: functions whose change of sign ends a sample, and where in a step that happens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from zoo.solvers.autograd import Once, refuse_second_order
from zoo.solvers.ode.dense import Segment

Event = Callable[..., Tensor]  # (t, y, *args) -> (B,), or (B, K) for K events


@dataclass(frozen=True)
class Events:
    """The values of one or several event functions side by side, (B, K); each answer is checked."""

    functions: tuple[Event, ...]

    @classmethod
    def of(cls, event: Event | Sequence[Event] | Events | None) -> Events | None:
        """Read the argument ``event`` of `integrate`: none, a function, or several.

        Raises:
            TypeError: something that cannot be called.
        """
        if event is None or isinstance(event, Events):
            return event
        functions = tuple(event) if isinstance(event, Sequence) else (event,)
        if not functions or not all(callable(f) for f in functions):
            raise TypeError(f"event must be a function (t, y, *args) -> (B,), or a tuple of them; got {event!r}.")
        return cls(functions)

    def __call__(self, t: Tensor | float, y: Tensor, *args: Tensor) -> Tensor:
        values = [_checked(f(t, y, *args), y) for f in self.functions]
        return values[0] if len(values) == 1 else torch.cat(values, 1)


def _checked(g: object, y: Tensor) -> Tensor:
    """An event's answer as (B, K) in the state's dtype."""
    if not isinstance(g, Tensor):
        raise TypeError(
            f"event(t, y) must return a tensor (B,), one number a sample; got {type(g).__name__}. For an end at a "
            "known time, let ts end there."
        )
    if not g.is_floating_point():
        raise TypeError(
            f"event(t, y) must return numbers whose sign changes where a sample ends; got {g.dtype}. Return a "
            "difference, such as y[:, 0] - 0.5 in place of y[:, 0] < 0.5."
        )
    if g.dim() not in (1, 2) or g.shape[0] != y.shape[0] or g.numel() == 0:
        raise ValueError(
            f"event(t, y) must return one number for each of the {y.shape[0]} samples, (B,), or K of them, (B, K); got "
            f"the shape {tuple(g.shape)}. Reduce over the dimensions of a sample only, as in y.flatten(1).amin(1)."
        )
    return (g if g.dim() == 2 else g[:, None]).to(y.dtype)


def changed(before: Tensor, after: Tensor) -> Tensor:
    """Where a sign differs; a product of the two would underflow. What starts on zero has no sign to change."""
    return ((before > 0) & (after <= 0)) | ((before < 0) & (after >= 0))


class Crossing(NamedTuple):
    """Where samples meet their event within a step; rows of samples that meet none mean nothing."""

    share: Tensor  # (B,) of the step, without a graph
    y: Tensor  # (B, ...) the state there
    which: Tensor  # (B,) the event, by its number
    shift: Tensor | None  # (B,) zero, with the derivative of the event's time


class EventWatch:
    """The events along one integration."""

    def __init__(self, events: Events, t: Tensor, y: Tensor, args: tuple[Tensor, ...]) -> None:
        self.events = events
        self.before = self.after = events(t, y, *args).detach()
        if self.before.isnan().any():
            raise ValueError(
                "event(t, y) is NaN at the start, and would never change its sign. Let it be finite there; a sample "
                "that is to have no event can return 1."
            )
        self.crossed = torch.zeros_like(self.before, dtype=torch.bool)

    def look(self, t: Tensor, y: Tensor, args: tuple[Tensor, ...]) -> np.ndarray:
        """(B,) who crossed an event in the step that has come to ``y``; one host read."""
        self.before, self.after = self.after, self.events(t, y, *args).detach()
        self.crossed = changed(self.before, self.after)
        return self.crossed.any(1).cpu().numpy()

    def locate(self, segment: Segment, args: tuple[Tensor, ...]) -> Crossing:
        """Where in the step that was looked at last."""
        return locate(self.events, args, segment, self.before, self.crossed)

    def keep(self, rows: Tensor) -> None:
        """Take the other samples out of the batch."""
        self.after = self.after.index_select(0, rows)


def locate(events: Events, args: tuple[Tensor, ...], s: Segment, before: Tensor, crossed: Tensor) -> Crossing:
    """Where in a step the first of the events changes sign.

    Bisection on the interpolant, for all samples at once, for the first moment at which any event has changed. The
    state carries the derivative of the event's own time: with ``y(t)`` the trajectory and ``g`` the event,
    ``dt* = -dg / (dg/dt)`` by the implicit function theorem, so ``y(t*) + f (-dg / g')`` with the factor's value at
    zero is differentiated rightly at first order; a second derivative is refused.

    Args:
        before: (B, K) the events' values at the start of the step.
        crossed: (B, K) which of them have another sign at its end.
    """
    shape = (-1,) + (1,) * (s.y0.dim() - 1)
    with torch.no_grad():
        low, high = before.new_zeros(len(before)), before.new_ones(len(before))
        for _ in range(52 if before.dtype == torch.float64 else 24):
            middle = (low + high) / 2
            x = middle.view(shape)
            passed = (changed(before, events(s.t + x * s.dt, s.at(x), *args)) & crossed).any(1)
            low, high = torch.where(passed, low, middle), torch.where(passed, middle, high)
        share = high.view(shape)
        met = changed(before, events(s.t + share * s.dt, s.at(share), *args)) & crossed
        index = (2 * met.int() + crossed.int()).argmax(1)
    y = s.at(share)
    if not torch.is_grad_enabled():
        return Crossing(high, y, index, None)
    g = events(s.t + share * s.dt, y, *args).gather(1, index[:, None]).view(shape)
    if not (y.requires_grad or g.requires_grad):
        return Crossing(high, y, index, None)
    width = 1e-3
    with torch.no_grad():
        near, far = (share - width).clamp(min=0), (share + width).clamp(max=1)
        g0, g1 = (events(s.t + x * s.dt, s.at(x), *args).gather(1, index[:, None])[:, 0] for x in (near, far))
        slope = ((g1 - g0) / (far - near).view(-1)).view(shape)
        speed = (s.at(far) - s.at(near)) / (far - near)
    still = slope == 0  # a sample that is settled already
    late = torch.where(still, 0.0, (g.detach() - g) / torch.where(still, 1.0, slope))
    shift = Once.apply((late * s.dt).view(-1), _refuse)
    return Crossing(high, Once.apply(y + speed * late, _refuse), index, shift)


def _refuse() -> None:
    refuse_second_order("A terminal event", "odeint without an event, up to a time that is known")
