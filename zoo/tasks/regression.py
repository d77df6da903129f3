"""Regression: the squared error of predicted numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanAbsoluteError, MeanSquaredError

from zoo.registry import unknown
from zoo.tasks.base import Scored, Task, stage_metrics
from zoo.tasks.optim import Optim
from zoo.tasks.regularization import StabilityConfig

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"mse": F.mse_loss, "l1": F.l1_loss, "huber": F.huber_loss}


class Regression(Task):
    """A model of numbers (B, targets) in training: ``L = loss(model(x), y)``, and the mean squared and absolute error.

    A set standardizes what is predicted, so that a mean squared error of 1 is that of always answering the mean.

    Args:
        model: maps a batch to numbers (B, targets).
        optim: optimizer and schedule; None: `Optim`'s defaults.
        stability: what keeps the solves stable, see `StabilityConfig`; None: nothing.
        loss: what training minimizes: ``mse``, ``l1`` or ``huber``, which outliers move less.

    Raises:
        ValueError: an unknown loss; a batch whose targets have another shape than the answers.
    """

    monitor = "val/mse"

    def __init__(
        self,
        model: nn.Module,
        optim: Optim | None = None,
        stability: StabilityConfig | None = None,
        *,
        loss: Literal["mse", "l1", "huber"] = "mse",
    ) -> None:
        super().__init__(model, optim, stability)
        if loss not in LOSSES:
            raise ValueError(f"task.loss: {unknown('loss', loss, LOSSES)}")
        self.loss = loss
        self.errors = stage_metrics(lambda: nn.ModuleDict({"mse": MeanSquaredError(), "mae": MeanAbsoluteError()}))

    def score(self, batch: Any, stage: str) -> Scored:
        x, y = batch
        answers = self.model(x)
        if answers.shape != y.shape:
            raise ValueError(
                f"The model answers {tuple(answers.shape)}, and the targets are {tuple(y.shape)}: a regression needs a "
                "number for each, (B, targets). Give the model targets as many as the columns that are predicted."
            )
        loss = LOSSES[self.loss](answers, y)
        errors = self.errors[stage]
        for error in errors.values():
            error.update(answers.detach(), y)
        return Scored(loss, dict(errors.items()), len(y))
