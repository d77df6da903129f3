"""Training a network to solve a family of optimization problems."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torchmetrics import MaxMetric, MeanMetric

from zoo.tasks.base import Scored, Task, stage_metrics
from zoo.tasks.optim import Optim
from zoo.tasks.regularization import StabilityConfig


class Optimization(Task):
    """The mean objective of the answers, and a penalty on what leaves the constraints.

    ``loss = mean f(y) + penalty * mean |violation|^2``. ``objective``: mean f(y). ``gap``: mean ``(f(y) - f*) / |f*|``,
    where the optimum f* is known; below 0 where an answer is better than any feasible one. ``violation``: the largest
    distance from a constraint, over all answers.

    Args:
        model: from right sides (B, features) to answers; its ``family`` is a `QuadraticFamily`.
        optim: optimizer and schedule; None: `Optim`'s defaults.
        stability: what keeps the solves stable, see `StabilityConfig`; None: nothing.
        penalty: weight of the violation; a model that obeys the constraints needs none.

    Raises:
        ValueError: a negative penalty, or a model without a family.
    """

    monitor = "val/loss"

    def __init__(
        self,
        model: nn.Module,
        optim: Optim | None = None,
        stability: StabilityConfig | None = None,
        penalty: float = 10.0,
    ) -> None:
        super().__init__(model, optim, stability)
        if penalty < 0:
            raise ValueError(f"task.penalty must not be negative; got {penalty}.")
        if not hasattr(model, "family"):
            raise ValueError(
                f"{type(model).__name__} has no family of problems: set model.family to a QuadraticFamily."
            )
        self.penalty = penalty
        self.means = stage_metrics(lambda: nn.ModuleDict({"objective": MeanMetric(), "gap": MeanMetric()}))
        self.worst = stage_metrics(MaxMetric)

    def score(self, batch: Any, stage: str) -> Scored:
        x, best = batch
        y: Tensor = self.model(x)
        objective = self.model.family.objective(y)  # type: ignore[union-attr, operator]  # checked in __init__
        violation = self.model.family.violation(x, y)  # type: ignore[union-attr, operator]
        means, worst = self.means[stage], self.worst[stage]
        means["objective"](objective.detach())
        worst(violation.detach().max())
        metrics = {"objective": means["objective"], "violation": worst}
        if bool((best != 0).all()):
            means["gap"](((objective.detach().double() - best[:, 0]) / best[:, 0].abs()).float())
            metrics["gap"] = means["gap"]
        loss = objective.mean() + self.penalty * violation.square().sum(1).mean()
        return Scored(loss, metrics, len(x))
