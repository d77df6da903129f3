"""Few-shot classification: a model that learns each episode from its support set."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric

from zoo.tasks.base import Scored, Task, stage_metrics
from zoo.tasks.optim import Optim
from zoo.tasks.regularization import StabilityConfig


class Interval(Metric):
    """Half the width of the 95 % confidence interval of a mean, 1.96 standard errors; over all values and ranks."""

    full_state_update = False
    count: Tensor
    total: Tensor
    squares: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("count", "total", "squares"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, values: Tensor) -> None:
        """Add values (n,)."""
        values = values.double()
        self.count += len(values)
        self.total += values.sum()
        self.squares += values.square().sum()

    def compute(self) -> Tensor:
        mean = self.total / self.count
        spread = (self.squares - self.count * mean.square()).clamp_min(0) / (self.count - 1).clamp_min(1)
        return 1.96 * (spread / self.count).sqrt()


class FewShot(Task):
    """A model that maps ``(support_x, support_y, query_x)`` to logits (M, Q, N) of the query, in batches of episodes.

    The loss is the cross entropy of the query. ``accuracy`` is the mean over episodes, ``interval`` half the width of
    its 95 % confidence interval.

    Args:
        model: maps the first three parts of a batch of episodes (`zoo.data.episodes`) to logits.
        optim: optimizer and schedule; None: `Optim`'s defaults.
        stability: what keeps the solves stable, see `StabilityConfig`; None: nothing.
    """

    monitor = "val/accuracy"
    maximise = True

    def __init__(
        self,
        model: nn.Module,
        optim: Optim | None = None,
        stability: StabilityConfig | None = None,
    ) -> None:
        super().__init__(model, optim, stability)
        self.accuracy = stage_metrics(MeanMetric)
        self.interval = stage_metrics(Interval, ("val", "test"))

    def answer(self, batch: Any) -> Tensor:
        return self.model(*batch[:3])

    def score(self, batch: Any, stage: str) -> Scored:
        y = batch[3]
        logits = self.answer(batch)
        loss = F.cross_entropy(logits.flatten(0, 1), y.flatten())
        right = (logits.detach().argmax(-1) == y).float().mean(1)  # (M,), one an episode
        metrics: dict[str, Any] = {"accuracy": self.accuracy[stage]}
        if stage != "train":
            metrics["interval"] = self.interval[stage]
        for metric in metrics.values():
            metric.update(right)
        return Scored(loss, metrics, len(y))
