"""Reasoning by iteration: a grid is filled in by a state that is revised until it settles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric

from zoo.implicit import solver_budget, untracked
from zoo.layers.grids import GridModel
from zoo.tasks.base import Scored, Task, stage_metrics
from zoo.tasks.optim import Optim
from zoo.tasks.regularization import StabilityConfig


class Reasoning(Task):
    """Cross entropy over the cells of a grid, after each of a few segments of one long solve.

    A training step follows the solve from its start over a random number of free steps, which no gradient crosses, and
    then over ``segments`` of ``steps``. Each segment has a loss of its own, and the state goes on detached:

        z <- solve(z, k), k ~ U{0..free_steps};    z <- solve(detach z, steps), L <- L + CE(read(z), y) / segments

    so that the map learns to improve the states that it meets at any depth, at the memory of few steps. Evaluation
    solves once, as the model's solver says.

    How gradients cross a segment is the model's adjoint, ``--adjoint NAME``: ``unroll`` crosses its steps, ``jfb`` and
    ``phantom`` one or a few more at their end. ``implicit`` is exact at an equilibrium alone, so set ``steps`` to 0.
    ``reversible`` crosses all steps at the memory of one, of the solver of that name: ``--solver reversible`` too.

    Metrics: ``solved``, the share of grids that are right by the rules of the data (its ``check(givens, answer)``; else
    by the reference answer), and ``cells``, the share of cells that agree with the reference.

    Args:
        model: from givens (B, H, W) to logits (B, H, W, C); a `GridModel` where it is to be trained in segments.
        optim: optimizer and schedule; None: `Optim`'s defaults.
        stability: what keeps the solves stable, see `StabilityConfig`; None: nothing.
        segments: of a training step, each with a loss.
        steps: of the solver in a segment; 0: as many as the solver says.
        free_steps: at most, before the first segment.
        random_start: share of the training samples whose solve begins at random, in [0, 1].

    Raises:
        ValueError: an option out of its range, or segments for a model that is no `GridModel`.
    """

    monitor = "val/solved"
    maximise = True

    def __init__(
        self,
        model: nn.Module,
        optim: Optim | None = None,
        stability: StabilityConfig | None = None,
        *,
        segments: int = 2,
        steps: int = 4,
        free_steps: int = 16,
        random_start: float = 0.0,
    ) -> None:
        super().__init__(model, optim, stability)
        for name, value, least in (("segments", segments, 1), ("steps", steps, 0), ("free_steps", free_steps, 0)):
            if value < least:
                raise ValueError(f"task.{name} must be at least {least}; got {value}.")
        if not 0 <= random_start <= 1:
            raise ValueError(f"task.random_start is a share in [0, 1]; got {random_start}.")
        if not isinstance(model, GridModel) and (segments > 1 or free_steps or random_start):
            raise ValueError(
                f"{type(model).__name__} keeps no state from one call to the next (it is no GridModel): set "
                "task.segments to 1, task.free_steps and task.random_start to 0."
            )
        self.segments, self.steps, self.free_steps, self.random_start = segments, steps, free_steps, random_start
        self.check: Callable[[Tensor, Tensor], Tensor] | None = None
        self.metrics = stage_metrics(lambda: nn.ModuleDict({"solved": MeanMetric(), "cells": MeanMetric()}))

    def setup(self, stage: str) -> None:
        """Take the rules of the data; called by Lightning."""
        self.check = getattr(self.trainer.datamodule, "check", None)  # type: ignore[attr-defined]

    def teardown(self, stage: str) -> None:
        """Let go of the data, which a copy of the task would copy too; called by Lightning."""
        self.check = None

    def score(self, batch: Any, stage: str) -> Scored:
        givens, answer = batch
        readings = self._segments(givens) if stage == "train" else [self.model(givens)]
        loss = sum(F.cross_entropy(r.flatten(0, -2), answer.flatten()) for r in readings) / len(readings)
        guess = readings[-1].detach().argmax(-1)
        right = guess == answer
        solved = self.check(givens, guess) if self.check is not None else right.flatten(1).all(1)
        metrics: Any = self.metrics[stage]
        metrics["solved"].update(solved.float())
        metrics["cells"].update(right.float())
        return Scored(loss, dict(metrics.items()), len(givens), solved)  # type: ignore[arg-type]  # one reading at least

    def _segments(self, givens: Tensor) -> list[Tensor]:
        """The logits after each segment of a training step."""
        model = self.model
        if not isinstance(model, GridModel):
            return [model(givens)]
        z = self._start(model, givens)
        free = int(torch.randint(self.free_steps + 1, ()))
        if free:
            with torch.no_grad(), untracked(), solver_budget(most=free):
                z = model.equilibrium(givens, z)
        readings = []
        for _ in range(self.segments):
            with solver_budget(most=self.steps or None):
                z = model.equilibrium(givens, z.detach())
            readings.append(model.read(z, givens))
        return readings

    def _start(self, model: GridModel, givens: Tensor) -> Tensor:
        z = model.start(givens)
        if not self.random_start:
            return z
        drawn = torch.rand(len(z), *[1] * (z.dim() - 1), device=z.device) < self.random_start
        return torch.where(drawn, model.start(givens, random=True), z)
