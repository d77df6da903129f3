"""The size of the next common step: fixed, or adapted to the error estimate."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

from torch import Tensor

from zoo.solvers.ode.one_step import OneStep

LAND = 1.05  # a step that would end up to 5 % short of a waypoint is stretched to it: safety leaves 10 %
STEPS_TO_JUDGE = 20  # accepted ones, before a solve that ran out of steps is examined for stiffness


class Pace(ABC):
    """Proposes steps and judges them.

    Attributes:
        dt: the next step, where the waypoint is not nearer.
        ratio: (B,) error over tolerance of the last accepted step, if it is known.
        trace: error over tolerance of every attempt, over the batch.
    """

    enough_to_judge: float = math.inf

    def __init__(self) -> None:
        self.dt = self.good = math.nan
        self.ratio: Tensor | None = None
        self.trace: list[float] = []
        self.rejected = 0

    @property
    @abstractmethod
    def may_go_on(self) -> bool:
        """Whether another attempt is allowed."""

    @abstractmethod
    def aim(self, gap: float) -> None:
        """Prepare for a waypoint that is ``gap`` away."""

    @abstractmethod
    def next(self, gap: float) -> tuple[float, bool]:
        """The next step, and whether it lands on the waypoint ``gap`` away."""

    @abstractmethod
    def accepts(self, h: float, landing: bool, ratio: Tensor | None) -> bool:
        """Judge the step ``h`` by its error over tolerance, and adapt."""


class FixedPace(Pace):
    """Even steps between two waypoints, as many as were asked for: no budget cuts them."""

    def __init__(self, solver: OneStep, span: float) -> None:
        super().__init__()
        self.solver, self.span, self.left = solver, span, 0

    @property
    def may_go_on(self) -> bool:
        return True

    def aim(self, gap: float) -> None:
        self.left = self.solver.substeps(abs(gap), self.span)

    def next(self, gap: float) -> tuple[float, bool]:
        return gap / self.left, self.left == 1

    def accepts(self, h: float, landing: bool, ratio: Tensor | None) -> bool:
        self.left -= 1
        return True


class AdaptivePace(Pace):
    """Steps that keep the error estimate at the tolerance."""

    enough_to_judge = STEPS_TO_JUDGE

    def __init__(self, solver: OneStep) -> None:
        super().__init__()
        self.order, self.controller, self.worst = solver.order, solver.controller, solver.norm == "max"
        self.most = math.inf if solver.max_step is None else solver.max_step
        self.budget = solver.max_steps
        self.r1 = self.r2 = 1.0

    def begin(self, dt: float) -> None:
        """Start with a step, forgetting the errors of steps before."""
        self.r1 = self.r2 = 1.0
        self.dt = self.good = self.limited(dt)

    def limited(self, dt: float) -> float:
        return dt if abs(dt) <= self.most else math.copysign(self.most, dt)

    @property
    def may_go_on(self) -> bool:
        return len(self.trace) < self.budget

    def aim(self, gap: float) -> None:
        """Nothing to prepare: the steps look for themselves."""

    def next(self, gap: float) -> tuple[float, bool]:
        landing = abs(gap) <= LAND * abs(self.dt) and abs(gap) <= self.most
        return (gap if landing else self.dt), landing

    def accepts(self, h: float, landing: bool, ratio: Tensor | None) -> bool:
        assert ratio is not None
        r = (ratio.amax() if self.worst else ratio.square().mean().sqrt()).item()
        self.trace.append(r)
        factor = self.controller(self.order, (r, self.r1, self.r2))
        if not r <= 1:
            self.rejected += 1
            self.dt = h * min(factor, 0.9)
            return False
        proposal, self.r1, self.r2 = h * factor, max(r, 1e-10), self.r1
        dt = max(self.dt, proposal, key=abs) if landing and abs(h) < abs(self.dt) else proposal
        self.dt = self.good = self.limited(dt)
        self.ratio = ratio
        return True
