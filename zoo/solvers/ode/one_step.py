"""One-step methods of ODEs: what they are configured by, and the choice of their next step."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from torch import Tensor

from zoo.registry import check_options
from zoo.solvers.ode.base import Attempt, Norm, ODESolver, Problem, Step


@dataclass(frozen=True, kw_only=True)
class Controller:
    """Proportional-integral-derivative choice of the next step from the last three error ratios ``r``.

    ``dt_next = dt * safety * r^-((p + i + d)/q) * r_1^((p + 2d)/q) * r_2^(-d/q)``, with ``q`` the method's order.

    Args:
        p, i, d: (0, 1, 0) is the elementary controller; (0.4, 0.3, 0) is smoother where stability bounds the step.
        safety: share of the step at which the tolerance is expected to be met just so.
        shrink, grow: least and greatest change of the step at once.

    Reference: Soederlind, "Digital filters in adaptive time-stepping", ACM TOMS 29(1), 2003.
    """

    p: float = 0.0
    i: float = 1.0
    d: float = 0.0
    safety: float = 0.9
    shrink: float = 0.2
    grow: float = 10.0

    def __call__(self, order: int, ratios: tuple[Any, Any, Any]) -> Any:
        """The factor for the next step, from the newest three ratios (floats, or arrays by row), newest first."""
        r, r1, r2 = ratios
        p, i, d = self.p / order, self.i / order, self.d / order
        if isinstance(r, float):
            if not math.isfinite(r):
                return self.shrink
            r = max(r, 1e-10)
            return min(max(self.safety * r ** -(p + i + d) * r1 ** (p + 2 * d) * r2**-d, self.shrink), self.grow)
        r = np.where(np.isfinite(r), np.maximum(r, 1e-10), np.inf)
        return np.clip(self.safety * r ** -(p + i + d) * r1 ** (p + 2 * d) * r2**-d, self.shrink, self.grow)


@dataclass(frozen=True, kw_only=True)
class OneStep(ODESolver):
    """A method that goes from one time to the next; what the loops of this package drive.

    Args:
        steps: fixed steps, evenly over ``ts[0] .. ts[-1]`` (rounded up so that each requested time is hit).
        step_size: fixed steps of at most this size; at most one of the two. With neither, a method with an error
            estimate adapts its steps, and one without takes 32.
        first_step: first attempted step; by default found from the field and its slope, with one more evaluation.
        max_step: greatest step that adaptive steps may take. An error estimate sees what the stages see: a pulse that
            lies between them is missed without a sign. Give its width, where the field has one.
        jump_ts: times at which the field jumps. Steps land just before each and begin anew just after it, so that no
            step crosses a jump; write the field's test as ``t < jump``.
        per_sample: every sample has its own steps, and where `integrate` is given ``args`` (``()`` if f needs none)
            finished samples leave the batch. Worth it where samples differ in stiffness; the host works a little more.
        norm: ``max`` over the samples of each one's error, or their root mean ``mean`` square, as torchdiffeq takes.
        controller: how the step follows the error; a mapping of its options will do.
    """

    steps: int | None = None
    step_size: float | None = None
    first_step: float | None = None
    max_step: float | None = None
    jump_ts: Sequence[float] = ()
    per_sample: bool = False
    norm: Literal["max", "mean"] = "max"
    controller: Controller = Controller()

    fsal: ClassVar[bool] = False  # the last stage of a step is the first of the next
    embedded: ClassVar[bool] = False  # has an error estimate
    error_constant: ClassVar[float] = 1.0  # of dt^order |L^(order-1) f| that the estimate is on y' = L y
    first_slope: ClassVar[Literal["field", "own", "none"]] = (
        "field"  # the k a step starts from: f(t, y), its own, or unused
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        name = type(self).__name__
        if isinstance(self.controller, Mapping):  # as configuration files give it
            check_options(f"option of {name}'s controller", Controller, self.controller)
            object.__setattr__(self, "controller", Controller(**self.controller))
        if self.steps is not None and self.step_size is not None:
            raise ValueError(f"{name}: give steps ({self.steps}) or step_size ({self.step_size}), not both.")
        object.__setattr__(self, "jump_ts", tuple(float(t) for t in self.jump_ts))
        if not all(map(math.isfinite, self.jump_ts)):
            raise ValueError(f"{name}: jump_ts must be finite times; got {self.jump_ts}.")
        for option in ("steps", "step_size", "first_step", "max_step"):
            value = getattr(self, option)
            if value is not None and not value > 0:
                raise ValueError(f"{name}: {option} must be positive (it counts in the direction of ts); got {value}.")
        if self.norm not in ("max", "mean"):
            raise ValueError(f"{name}: norm must be 'max' or 'mean'; got {self.norm!r}.")
        if self.max_step is not None and not self.adaptive:
            raise ValueError(f"{name}: max_step bounds adaptive steps, and these are fixed; use step_size.")
        if self.per_sample and not self.adaptive:
            raise ValueError(f"{name}: per_sample needs adaptive steps; leave steps and step_size open.")

    @property
    def adaptive(self) -> bool:
        return self.embedded and self.steps is None and self.step_size is None

    @abstractmethod
    def stepper(self, problem: Problem, norm: Norm) -> Step:
        """The step function for one solve; what is constant over the solve is prepared here."""

    def substeps(self, length: float, span: float) -> int:
        """Fixed steps over an interval of this length."""
        size = self.step_size if self.step_size is not None else span / (self.steps or 32)
        return max(1, math.ceil(length / size - 1e-9))


def step_functions(solver: OneStep, p: Problem, norm: Norm) -> tuple[Step, Callable[[Tensor, Tensor], Tensor]]:
    """The step, and the evaluation ``f(t, y)`` at its start, both as the adjoint wants their graphs kept."""
    step = solver.stepper(p, norm)
    if p.step_wrapper is None:
        return step, p.field
    evaluate = p.step_wrapper(lambda t, dt, y, k, dense: Attempt(y, p.field(t, y), None), p.field, False)

    def slope(t: Tensor, y: Tensor) -> Tensor:
        k = evaluate(t, 0.0, y, None, False).k
        assert k is not None
        return k

    return p.step_wrapper(step, p.field, solver.first_slope == "own"), slope
