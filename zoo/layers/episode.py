"""The shape of a batch of few-shot episodes, checked in one place."""

from __future__ import annotations

from torch import Tensor


def check_episode(support_x: Tensor, support_y: Tensor, query_x: Tensor, in_chans: int) -> int:
    """The number of ways of a batch of episodes.

    Raises:
        ValueError: the shapes are not those of a batch of episodes.
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
    return int(support_y.max()) + 1
