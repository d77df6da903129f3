"""Training a model to be a signal: values at places."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import nn
from torchmetrics.image import PeakSignalNoiseRatio

from zoo.tasks.base import Scored, Task, stage_metrics
from zoo.tasks.optim import Optim
from zoo.tasks.regularization import StabilityConfig


class ImplicitRepresentation(Task):
    """Mean squared error of values (B, targets) at places (B, features); values lie in [0, 1].

    ``psnr``: peak signal to noise, ``-10 log10 mse`` in decibels, the error over the whole set.

    Args:
        model: from places to values.
        optim: optimizer and schedule; None: `Optim`'s defaults.
        stability: what keeps the solves stable, see `StabilityConfig`; None: nothing.
    """

    monitor = "val/psnr"
    maximise = True

    def __init__(self, model: nn.Module, optim: Optim | None = None, stability: StabilityConfig | None = None) -> None:
        super().__init__(model, optim, stability)
        self.noise = stage_metrics(lambda: PeakSignalNoiseRatio(data_range=1.0))

    def score(self, batch: Any, stage: str) -> Scored:
        places, values = batch
        found = self.model(places)
        psnr = self.noise[stage]
        psnr(found.detach(), values)
        return Scored(F.mse_loss(found, values), {"psnr": psnr}, len(values))
