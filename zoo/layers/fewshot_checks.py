"""A batch of few-shot episodes, checked in one place."""

from __future__ import annotations

import torch
from torch import Tensor


def check_episode(support_x: Tensor, support_y: Tensor, query_x: Tensor, in_chans: int) -> int:
    """Return the number of ways of a batch of episodes, ``max(labels) + 1``.

    It waits for the device once; but a class without support has no mean, and its task would be answered with NaN.

    Raises:
        ValueError: the shapes are not those of a batch of episodes; the support is empty; or its labels are not int64
            from 0, each of them in every task.
    """
    if support_x.dim() != 5 or query_x.dim() != 5 or support_x.shape[2] != in_chans or query_x.shape[2] != in_chans:
        raise ValueError(
            f"Support and query must be (tasks, images, {in_chans}, H, W); got {tuple(support_x.shape)} and "
            f"{tuple(query_x.shape)}."
        )
    if support_y.shape != support_x.shape[:2] or len(query_x) != len(support_x):
        raise ValueError(
            f"Support labels must be {tuple(support_x.shape[:2])} and the query of as many tasks; got "
            f"{tuple(support_y.shape)} and {len(query_x)}."
        )
    if support_y.numel() == 0:
        raise ValueError(
            f"The support is empty, {tuple(support_y.shape)}: give at least one task, and an image of each class."
        )
    if support_y.dtype != torch.int64:
        raise ValueError(f"Support labels must be torch.int64; got {support_y.dtype}. Take support_y.long().")
    ordered = support_y.sort(1).values
    kinds = 1 + (ordered[:, 1:] != ordered[:, :-1]).sum(1)  # (M,), how many labels occur in each task
    low, high, fewest = torch.stack([ordered[:, 0].amin(), ordered[:, -1].amax(), kinds.amin()]).tolist()
    if low < 0:
        raise ValueError(f"Support labels count from 0; got {low}. Number the classes of each task anew.")
    if fewest <= high:  # some task has fewer labels than 0 to high
        task = int(kinds.argmin())
        lacking = sorted(set(range(high + 1)) - set(support_y[task].tolist()))
        raise ValueError(
            f"Every class from 0 to {high} needs an image in the support of every task; task {task} has none of "
            f"{', '.join(map(str, lacking))}. Number the classes of each task anew, and batch tasks of as many classes."
        )
    return high + 1
