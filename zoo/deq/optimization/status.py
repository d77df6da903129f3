"""How a convex program ended, for every sample."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from torch import Tensor


class Status(Enum):
    """The end of one sample's program; the value is the sentence that a person reads."""

    solved = "The optimality conditions hold to the tolerance."
    max_steps = "The budget ended before the optimality conditions held: raise max_steps or rounds, or loosen rtol."
    infeasible = "No point satisfies the constraints: a certificate was found. Check them for contradictions."
    unbounded = "The objective falls without end: a direction of descent was found. Bound x, or make Q definite."
    nonfinite = "The data or an iterate is not finite: check the program's matrices for NaN."


CODES = tuple(Status)  # a status as a number: its place here


@dataclass(frozen=True)
class ProgramRecord:
    """What the newest solve of an optimization layer reached; detached numbers only.

    Attributes:
        status: one `Status` a sample.
        primal: (B,) largest violation of a constraint, max |Cx - z|.
        dual: (B,) largest error of stationarity, max |Qx + q + C'y|.
        y: (B, M) multipliers: of the equalities, then of the inequalities, then of the bounds.
        steps: (B,) iterations over all rounds.
        rounds: how often the step size was adapted.
    """

    status: tuple[Status, ...]
    primal: Tensor
    dual: Tensor
    y: Tensor
    steps: Tensor
    rounds: int

    @property
    def solved(self) -> bool:
        """Whether every sample is solved."""
        return all(s is Status.solved for s in self.status)
