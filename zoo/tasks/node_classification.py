"""Training a model that gives every node of a graph a class."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from zoo.layers.graphs import UNKNOWN
from zoo.tasks.base import Scored, Task, model_size, stage_metrics
from zoo.tasks.optim import Optim
from zoo.tasks.regularization import StabilityConfig


class NodeClassification(Task):
    """Cross entropy over the labeled nodes of batches (nodes (B, N, F), adjacency (B, N, N), labels (B, N)).

    A label of -1 is one that is not known: the node takes part, but does not count. ``accuracy`` is the share of right
    answers among the nodes that do.

    Args:
        model: called as ``model(nodes, adjacency)``; says ``num_classes``.
        optim: optimizer and schedule; None: `Optim`'s defaults.
        stability: what keeps the solves stable, see `StabilityConfig`; None: nothing.
    """

    monitor = "val/accuracy"
    maximise = True

    def __init__(self, model: nn.Module, optim: Optim | None = None, stability: StabilityConfig | None = None) -> None:
        super().__init__(model, optim, stability)
        classes = model_size(model, "num_classes")
        self.accuracy = stage_metrics(lambda: MulticlassAccuracy(classes, average="micro", ignore_index=UNKNOWN))

    def answer(self, batch: Any) -> Tensor:
        return self.model(batch[0], batch[1])

    def score(self, batch: Any, stage: str) -> Scored:
        labels = batch[2].flatten()
        logits = self.answer(batch).flatten(0, 1)
        known = int((labels != UNKNOWN).sum())
        loss = F.cross_entropy(logits, labels, ignore_index=UNKNOWN, reduction="sum") / max(1, known)
        accuracy = self.accuracy[stage]
        accuracy(logits.detach(), labels)
        return Scored(loss, {"accuracy": accuracy}, max(1, known))
