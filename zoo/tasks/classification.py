"""Classification: cross entropy and accuracy."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import nn
from torchmetrics import MeanMetric

from zoo.tasks.base import Scored, Task, stage_metrics
from zoo.tasks.optim import Optim
from zoo.tasks.regularization import StabilityConfig


class Classification(Task):
    """A classifier: cross entropy over logits (B, classes) and labels (B,), and the share of right answers.

    Args:
        model: maps images to logits.
        optim: optimizer and schedule; None: `Optim`'s defaults.
        stability: what keeps the solves stable, see `StabilityConfig`; None: nothing.
        label_smoothing: share of the target that is spread over all classes, in training only; in [0, 1).
    """

    monitor = "val/accuracy"
    maximise = True

    def __init__(
        self,
        model: nn.Module,
        optim: Optim | None = None,
        stability: StabilityConfig | None = None,
        *,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(model, optim, stability)
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"task.label_smoothing is a share in [0, 1); got {label_smoothing}.")
        self.label_smoothing = label_smoothing
        self.accuracy = stage_metrics(MeanMetric)

    def score(self, batch: Any, stage: str) -> Scored:
        x, y = batch
        logits = self.model(x)
        loss = F.cross_entropy(logits, y, label_smoothing=self.label_smoothing if stage == "train" else 0.0)
        accuracy = self.accuracy[stage]
        right = logits.detach().argmax(-1) == y
        accuracy.update(right.float())
        return Scored(loss, {"accuracy": accuracy}, len(y), right)
