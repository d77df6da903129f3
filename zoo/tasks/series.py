"""Irregular time series: the error of predicted values, or of classes, and the evidence bound of latent models."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric
from torchmetrics.classification import BinaryAUROC, MulticlassAccuracy, MulticlassAUROC

from zoo.data.series import Series
from zoo.layers.series import Outcome
from zoo.tasks.base import Scored, Task, model_size, stage_metrics
from zoo.tasks.optim import Optim
from zoo.tasks.regularization import StabilityConfig


class TimeSeries(Task):
    """A model of series in training: values at asked times, or classes, by what the model gives.

    Values are modeled as Gaussian around the prediction, with the deviation ``noise`` known:

        L = [ sum -log N(x | model, noise^2) + beta sum KL ] / (numbers asked for)

    where the KL of a latent model's variable, if it has one, is weighted by a ``beta`` that rises from 0 to 1 over
    ``anneal`` steps: at full weight from the start, the variable is ignored before it has come to mean anything.
    In training a latent model also predicts what it saw, as one trajectory has to explain both. Classes have the cross
    entropy, plus ``reconstruction`` times the L above for a latent model.

    Args:
        model: maps ``(times, values, mask, query)`` to an `Outcome`; says ``num_classes``, 0 for values.
        optim: optimizer and schedule; None: `Optim`'s defaults.
        stability: what keeps the solves stable, see `StabilityConfig`; None: nothing.
        noise: standard deviation of an observed number around the predicted one.
        anneal: training steps over which the weight of the KL rises to 1.
        reconstruction: weight of L beside the cross entropy, for a latent model that classifies; 0: a latent model is
            not asked for what it saw.
        thin: at most this share of a series' rows is left out of what the model sees in a training step, at random:
            an augmentation by which few series do for more. What it is asked for stays.

    Raises:
        ValueError: an option is out of its range; a batch without anything to predict.

    Reference: Rubanova, Chen and Duvenaud, 2019, https://arxiv.org/abs/1907.03907
    """

    monitor = "val/mse"

    def __init__(
        self,
        model: nn.Module,
        optim: Optim | None = None,
        stability: StabilityConfig | None = None,
        *,
        noise: float = 0.1,
        anneal: int = 500,
        reconstruction: float = 1.0,
        thin: float = 0.0,
    ) -> None:
        super().__init__(model, optim, stability)
        if not noise > 0 or anneal < 0 or not reconstruction >= 0 or not 0 <= thin < 1:
            raise ValueError(
                "task.noise must be above 0, task.anneal and task.reconstruction at least 0, task.thin in [0, 1); got "
                f"{noise}, {anneal}, {reconstruction} and {thin}."
            )
        self.noise, self.anneal, self.reconstruction, self.thin = noise, anneal, reconstruction, thin
        self.classes = model_size(model, "num_classes")
        if self.classes:
            self.monitor, self.maximise = "val/auc", True
        keys = ("accuracy", "auc") if self.classes else ("mse", "nll")
        self.meters = stage_metrics(lambda: nn.ModuleDict({key: self._meter(key) for key in keys}))

    def _meter(self, key: str) -> nn.Module:
        if key == "accuracy":
            return MulticlassAccuracy(self.classes, average="micro")
        if key == "auc":
            return BinaryAUROC() if self.classes == 2 else MulticlassAUROC(self.classes)
        return MeanMetric()

    def answer(self, batch: Any) -> Tensor:
        out = self.ask(batch)
        return out.logits if self.classes else out.values  # type: ignore[return-value]

    def ask(self, batch: Series) -> Outcome:
        """The model's outcome; a latent model that classifies is asked for what it saw, if that counts."""
        query = None if self.classes else batch.query
        if self.classes and self._rebuilds():
            query = batch.times
        return self.model(batch.times, batch.values, batch.mask, query)

    def rows(self, batch: Any) -> int:
        return len(batch.times)

    def cut(self, batch: Any, count: int) -> Series:
        return Series(*(x[:count] for x in batch))

    def describe(self, batch: Any) -> str:
        if batch is None:
            return ""
        seen = torch.where(batch.mask, batch.values, 0.0), torch.where(batch.target_mask, batch.target, 0.0)
        bad = any(not torch.isfinite(x).all() for x in (batch.times, batch.query, *seen))
        return "the series hold NaN or infinity where they were seen" if bad else ""

    def score(self, batch: Any, stage: str) -> Scored:
        if not self.classes and self._rebuilds():
            batch = with_seen(batch)
        out = self.ask(thinned(batch, self.thin) if self.thin and self.training else batch)
        size = len(batch.times)
        if self.classes:
            if int(batch.label.min()) < 0:
                raise ValueError("The model has classes, but the data have no labels: create it with num_classes=0.")
            loss = F.cross_entropy(out.logits, batch.label)  # type: ignore[arg-type]
            if out.values is not None:
                loss = loss + self.reconstruction * self.bound(out, batch.values, batch.mask, stage)[0]
            logits = out.logits.detach()  # type: ignore[union-attr]
            chance = logits.softmax(1)[:, 1] if self.classes == 2 else logits.softmax(1)
            self.meters[stage]["accuracy"](logits, batch.label)
            self.meters[stage]["auc"].update(chance, batch.label)
            return Scored(loss, {k: self.meters[stage][k] for k in ("accuracy", "auc")}, size)
        loss, squared, count = self.bound(out, batch.target, batch.target_mask, stage)
        mse = squared.detach() / count
        nll = 0.5 * mse / self.noise**2 + math.log(self.noise) + 0.5 * math.log(2 * math.pi)
        self.meters[stage]["mse"].update(mse, count)
        self.meters[stage]["nll"].update(nll, count)
        return Scored(loss, {k: self.meters[stage][k] for k in ("mse", "nll")}, size)

    def bound(self, out: Outcome, target: Tensor, mask: Tensor, stage: str) -> tuple[Tensor, Tensor, Tensor]:
        """The loss L, the sum of squared errors, and how many numbers were asked for."""
        count = mask.sum()
        if count == 0:
            raise ValueError("The batch asks for nothing: its target_mask is False everywhere. Leave such series out.")
        squared = torch.where(mask, out.values - target, 0.0).square().sum()  # type: ignore[operator]
        constant = math.log(self.noise) + 0.5 * math.log(2 * math.pi)
        loss = 0.5 * squared / (count * self.noise**2) + constant
        if out.kl is not None:
            beta = min(1.0, self.global_step / self.anneal) if self.anneal and stage == "train" else 1.0
            loss = loss + beta * out.kl.sum() / count
        return loss, squared, count

    def _rebuilds(self) -> bool:
        """Whether the model is asked for what it saw: in training, where one trajectory explains a whole series."""
        return self.training and self.reconstruction > 0 and getattr(self.model, "latent", 0) > 0


def thinned(batch: Series, most: float) -> Series:
    """The batch with some rows of each series hidden: a share drawn below ``most``, the first row never."""
    chance = torch.rand(*batch.mask.shape[:2], 1, device=batch.mask.device)
    share = most * torch.rand(len(batch.mask), 1, 1, device=batch.mask.device)
    kept = chance >= share
    kept[:, 0] = True
    left = batch.mask & kept
    enough = left.any(2).any(1)  # the first row may be one in which nothing was seen
    return batch._replace(mask=torch.where(enough[:, None, None], left, batch.mask))


def with_seen(batch: Series) -> Series:
    """The batch, asked for what it shows as well, in order of time."""
    times, order = torch.cat([batch.times, batch.query], 1).sort(dim=1, stable=True)
    place = order[..., None].expand(-1, -1, batch.values.shape[2])
    target = torch.cat([batch.values, batch.target], 1).gather(1, place)
    return batch._replace(
        query=times, target=target, target_mask=torch.cat([batch.mask, batch.target_mask], 1).gather(1, place)
    )
