"""What models of several tasks share: the network that each task runs, and samples of several tasks in one batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


def perceptron(features: int, hidden: Sequence[int], num_classes: int) -> nn.Sequential:
    """Return a network: flatten, hidden layers with ReLU, and a linear layer to the logits.

    Raises:
        ValueError: a width below 1.
    """
    widths = [features, *hidden, num_classes]
    if min(widths) < 1:
        raise ValueError(f"Every width of a network must be at least 1; got {widths}.")
    layers: list[nn.Module] = [nn.Flatten()]
    for i, (a, b) in enumerate(pairwise(widths)):
        layers += [nn.ReLU()] * bool(i) + [nn.Linear(a, b)]
    return nn.Sequential(*layers)


def by_task(
    x: Tensor, task: Tensor, tasks: int, weights: Callable[[Tensor], Tensor], run: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Answer every sample with the weights of its task.

    Args:
        x: samples (B, ...).
        task: whose they are, (B,) from 0.
        tasks: how many tasks there are.
        weights: task numbers (n,) to weights (n, P).
        run: weights (P,) and samples (b, ...) to answers (b, ...).

    Raises:
        ValueError: a task that does not exist, or not one for each sample.
    """
    if task.shape != x.shape[:1]:
        raise ValueError(f"Give a task number for each of {len(x)} samples; got the shape {tuple(task.shape)}.")
    kinds = task.unique()
    if int(kinds[0]) < 0 or int(kinds[-1]) >= tasks:
        raise ValueError(f"Tasks are numbered 0 to {tasks - 1}; got {kinds.tolist()}.")
    each = weights(kinds)
    if len(kinds) == 1:
        return run(each[0], x)
    rows = [torch.nonzero(task == k)[:, 0] for k in kinds]
    parts = [run(w, x[r]) for w, r in zip(each, rows, strict=True)]
    return torch.cat(parts)[torch.cat(rows).argsort()]
