"""Trajectories of mechanical systems: the error of predicted paths, and the energy they lose or gain."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric

from zoo import _compat
from zoo.data.motion import Motion as MotionData
from zoo.tasks.base import Scored, Task, stage_metrics
from zoo.tasks.optim import Optim


class Motion(Task):
    """A model that is given the first state of a path and the times, and predicts the others; mean squared error.

    The test also measures the relative energy drift, ``mean |H(y_T) - H(y_0)| / mean |H(y_0)|`` of the predicted
    paths by the system's true energy, where the data module is one of `zoo.data.motion`, which knows it.

    Args:
        model: maps ``(states (B, D), times (T,))`` to paths (B, T, D).
        optim: optimizer and schedule; None: `Optim`'s defaults.
    """

    monitor = "val/mse"

    def __init__(self, model: nn.Module, optim: Optim | None = None) -> None:
        super().__init__(model, optim)
        self.mse = stage_metrics(MeanMetric)
        self.drift = MeanMetric()

    def answer(self, batch: Any) -> Tensor:
        """The predicted paths (B, T, D); all paths of a batch have the same times."""
        path, times = batch
        model: Any = self.model
        return model(path[:, 0], times[0])

    def score(self, batch: Any, stage: str) -> Scored:
        path = batch[0]
        if path.dim() != 3 or path.shape[1] < 2:
            raise ValueError(f"Expected paths (B, T, D) of at least two times; got {tuple(path.shape)}.")
        found = self.answer(batch)
        loss = F.mse_loss(found[:, 1:], path[:, 1:])
        metrics = {"mse": self.mse[stage]}
        metrics["mse"].update(loss.detach(), len(path))
        data = _compat.data_module(self) if stage == "test" else None
        if isinstance(data, MotionData):
            first = data.energy(path[:, 0])
            metrics["energy_drift"] = self.drift
            self.drift.update((data.energy(found[:, -1].detach()) - first).abs().mean() / first.abs().mean(), len(path))
        return Scored(loss, metrics, len(path))
