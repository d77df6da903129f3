"""Continual learning: tasks that come one after the other, and what is forgotten of those before."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import Metric

from zoo.tasks.base import Scored, Task, stage_metrics
from zoo.tasks.optim import Optim
from zoo.tasks.regularization import StabilityConfig


class TaskMean(Metric):
    """The mean over tasks of the mean of a value over a task's samples; tasks without samples are left out.

    Args:
        tasks: how many there are.
    """

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, tasks: int) -> None:
        super().__init__()
        for name in ("total", "count"):
            self.add_state(name, torch.zeros(tasks, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, values: Tensor, task: Tensor) -> None:
        """Add values (B,) of the tasks (B,)."""
        self.total.index_add_(0, task, values.double())
        self.count.index_add_(0, task, torch.ones_like(task, dtype=torch.float64))

    def compute(self) -> Tensor:
        there = self.count > 0
        return (self.total[there] / self.count[there]).mean() if bool(there.any()) else self.total.sum()


class Continual(Task):
    """A model that learns tasks one after the other, from batches ``(x, y, task)``.

    While task ``t`` is trained, the weights of the tasks before it are held where they were when each was done::

        L = cross_entropy + strength / (t) * sum_{s < t} |weights(s) - learned_s|^2

    A task is done when a batch of another one comes. Its weights are kept then, in the checkpoint too, both for the
    penalty and to measure how much was forgotten: the accuracy with the weights of that moment less the present one,
    on the same samples. ``accuracy`` is the mean over all tasks, ``forgetting`` over those that are done. The weights
    that are tested are the last ones, never those of an epoch that was better.

    Args:
        model: maps ``(x, task)`` to logits; says ``tasks``; ``weights(task)`` (n, P) and ``run(weights, x)``.
        optim: optimizer and schedule; None: `Optim`'s defaults.
        stability: what keeps the solves stable, see `StabilityConfig`; None: nothing.
        strength: of the penalty; 0 is plain fine-tuning.

    Raises:
        ValueError: a negative strength.

    Reference: von Oswald, Henning, Grewe, Sacramento, "Continual learning with hypernetworks", ICLR 2020.
    """

    monitor = "val/accuracy"
    maximise = True
    latest = True

    done: Tensor
    learned: Tensor
    present: Tensor

    def __init__(
        self,
        model: nn.Module,
        optim: Optim | None = None,
        stability: StabilityConfig | None = None,
        *,
        strength: float = 0.01,
    ) -> None:
        super().__init__(model, optim, stability)
        if not strength >= 0:
            raise ValueError(f"task.strength must not be negative; got {strength}.")
        self.strength = strength
        tasks = int(model.tasks)  # type: ignore[arg-type]
        with torch.no_grad():
            first = model.weights(torch.zeros(1, dtype=torch.long))  # type: ignore[operator]
        self.register_buffer("learned", first.new_zeros(tasks, first.shape[1]))
        self.register_buffer("done", torch.zeros(tasks, dtype=torch.bool))
        self.register_buffer("present", torch.tensor(-1))
        self.accuracy = stage_metrics(lambda: TaskMean(tasks))
        self.forgetting = stage_metrics(lambda: TaskMean(tasks), ("val", "test"))

    def answer(self, batch: Any) -> Tensor:
        return self.model(batch[0], batch[2])

    def score(self, batch: Any, stage: str) -> Scored:
        x, y, task = batch
        if stage == "train":
            self._meet(int(task[0]))
        logits = self.answer(batch)
        loss = F.cross_entropy(logits, y)
        if stage == "train" and self.strength > 0 and self.done.any():
            loss = loss + self.strength * self.drift()
        right = (logits.detach().argmax(-1) == y).double()
        metrics = {"accuracy": self.accuracy[stage]}
        metrics["accuracy"].update(right, task)
        if stage != "train":
            metrics["forgetting"] = self.forgetting[stage]
            rows = self.done[task]  # an update without samples still counts as one
            then = torch.zeros_like(right)
            for k in task[rows].unique():
                mine = task == k
                then[mine] = (self.model.run(self.learned[k], x[mine]).argmax(-1) == y[mine]).double()  # type: ignore[operator]
            metrics["forgetting"].update((then - right)[rows], task[rows])
        return Scored(loss, metrics, len(y))

    def drift(self) -> Tensor:
        """The mean over the tasks that are done of the squared distance of their weights from those learned."""
        done = torch.nonzero(self.done)[:, 0]
        return (self.model.weights(done) - self.learned[done]).square().sum(1).mean()  # type: ignore[operator]

    @torch.no_grad()
    def _meet(self, task: int) -> None:
        """Keep the weights of the task before, when a new one comes."""
        before = int(self.present)
        if task == before:
            return
        if before >= 0:
            self.learned[before] = self.model.weights(self.present[None])[0]  # type: ignore[operator]
            self.done[before] = True
        self.done[task] = False  # it may change again
        self.present.fill_(task)
