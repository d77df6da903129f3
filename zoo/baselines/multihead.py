"""The explicit twin of a continual learner: one network for all tasks, a head for each, only fine-tuned."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from zoo.layers.multitask import by_task, perceptron


class MultiHead(nn.Module):
    """A classifier for each task: the hidden layers are shared, the last layer is the task's own.

    Args:
        num_classes: of each task.
        features: numbers in a sample.
        tasks: how many there are.
        hidden: widths of the hidden layers.

    Raises:
        ValueError: a size below 1.
    """

    def __init__(
        self, num_classes: int = 2, features: int = 784, tasks: int = 5, hidden: Sequence[int] = (100, 100)
    ) -> None:
        super().__init__()
        if tasks < 1:
            raise ValueError(f"There must be at least one task; got {tasks}.")
        self.num_classes, self.tasks = num_classes, tasks
        nets = [perceptron(features, hidden, num_classes) for _ in range(tasks)]
        self.body = nets[0][:-1]
        self.heads = nn.ModuleList([net[-1] for net in nets])

    def forward(self, x: Tensor, task: Tensor) -> Tensor:
        """Return logits (B, num_classes) of samples (B, ...) whose tasks are ``task`` (B,)."""
        return by_task(x, task, self.tasks, self.weights, self.run)

    def weights(self, task: Tensor) -> Tensor:
        """Return all weights (n, P) that tasks of numbers (n,) run with, the shared ones first."""
        shared = nn.utils.parameters_to_vector(self.body.parameters()) if len(list(self.body.parameters())) else None
        own = torch.stack([nn.utils.parameters_to_vector(h.parameters()) for h in self.heads])[task]
        return own if shared is None else torch.cat([shared.expand(len(task), -1), own], 1)

    def run(self, weights: Tensor, x: Tensor) -> Tensor:
        """Return logits of samples, with one set of weights (P,)."""
        whole = nn.Sequential(self.body, self.heads[0])
        named = dict(whole.named_parameters())
        parts = weights.split([p.numel() for p in named.values()])
        filled = {n: part.view(p.shape) for (n, p), part in zip(named.items(), parts, strict=True)}
        return functional_call(whole, filled, (x,))
