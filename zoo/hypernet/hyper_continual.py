"""Continual learning with a hypernetwork: one task after the other, without forgetting.

    theta_t = h(e_t)          e_t: a learned code of task t          logits = target(theta_t, x)

The weights of all tasks come out of one network. While a task is learned, the outputs of ``h`` at the codes of the
former tasks are held where they were (`zoo.tasks.continual`), so that what must not be forgotten is a few codes and
sets of weights, and no data. The task of a sample is known (task-incremental learning).

Reference: von Oswald, Henning, Grewe, Sacramento, "Continual learning with hypernetworks", ICLR 2020,
arXiv:1906.00695. What differs: the penalty has no look-ahead at the next step of the optimizer.

Shape letters: T tasks, P weights of the target, B samples.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from zoo.hypernet.compression import BatchSize, GeneratedWeights, GeneratesWeights
from zoo.hypernet.generators.base import Generator
from zoo.hypernet.target import HyperTarget
from zoo.layers.multitask import by_task, perceptron


class TaskHypernetwork(GeneratesWeights, nn.Module):
    """A classifier for each task, all written by one chunked hypernetwork from the code of the task.

    Args:
        num_classes: of each task.
        features: numbers in a sample.
        tasks: how many there are.
        hidden: widths of the target's hidden layers.
        code_size: length of a task's code.
        chunk: weights that are written at once.
        embedding: length of a chunk's code.
        trunk: widths of the layers between codes and weights.

    Raises:
        ValueError: a size below 1.
    """

    def __init__(
        self,
        num_classes: int = 2,
        features: int = 784,
        tasks: int = 5,
        hidden: Sequence[int] = (100, 100),
        code_size: int = 32,
        chunk: int = 1024,
        embedding: int = 32,
        trunk: Sequence[int] = (64,),
    ) -> None:
        super().__init__()
        if tasks < 1:
            raise ValueError(f"There must be at least one task; got {tasks}.")
        self.num_classes, self.tasks = num_classes, tasks
        self.target = HyperTarget(perceptron(features, hidden, num_classes))
        self.codes = nn.Parameter(torch.randn(tasks, code_size))
        kind = {"name": "chunked", "size": chunk, "embedding": embedding, "hidden": list(trunk)}
        self.generator = Generator(self.target, code_size, kind, base="none", encode="plain")

    def forward(self, x: Tensor, task: Tensor) -> Tensor:
        """Return logits (B, num_classes) of samples (B, ...) whose tasks are ``task`` (B,)."""
        return by_task(x, task, self.tasks, self.weights, self.run)

    def weights(self, task: Tensor) -> Tensor:
        """Return the target's weights (n, P) for task numbers (n,)."""
        made = self.generator(self.codes[task])
        return torch.cat([made[s.name].flatten(1) for s in self.target.spec], 1)

    def run(self, weights: Tensor, x: Tensor) -> Tensor:
        """Return logits of samples, with one set of weights (P,)."""
        parts = weights.split([s.numel for s in self.target.spec])
        named = {s.name: p.view(s.shape) for s, p in zip(self.target.spec, parts, strict=True)}
        return self.target(named, x)

    def written(self, batch: BatchSize) -> GeneratedWeights:
        """Count a network for every task, however many samples there are: the penalty on drift writes all of them."""
        return GeneratedWeights(self.target.numel, (*self.generator.parameters(), self.codes), self.tasks)
