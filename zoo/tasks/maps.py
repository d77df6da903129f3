"""What a training may do to its fixed-point solves: noise in maps and starts, and the size of their last update."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from zoo.implicit import moved_starts, watched_maps

Map = Callable[..., Any]


@contextmanager
def map_noise(std: float) -> Iterator[None]:
    """Scope in which modules solve ``z = f(z) + std n`` in place of ``z = f(z)``; ODEs are left alone.

    ``n`` is normal and drawn once a solve, at its first evaluation: the map stays a map, so that solvers, adjoints and
    residuals mean what they always mean, and a state that is to survive the noise lies in a wide basin.

    Args:
        std: of the noise; 0: none.

    Reference: "Equilibrium reasoners", ICML 2026, https://arxiv.org/abs/2605.21488, whose noise is drawn anew at each
    evaluation.
    """

    def noisy(f: Map, place: int) -> Map:
        drawn: Any = None

        def call(z: Any, *args: Any) -> Any:
            nonlocal drawn
            out = f(z, *args)
            if drawn is None:
                drawn = tree_map(torch.randn_like, out)
            return tree_map(lambda a, n: a + std * n, out, drawn)

        return f if place else call

    if not std:
        yield
        return
    with watched_maps(noisy):
        yield


@contextmanager
def start_noise(std: float) -> Iterator[None]:
    """Scope in which modules begin their fixed-point solves at ``z0 + std n``, ``n`` normal, in place of ``z0``."""
    if not std:
        yield
        return
    with moved_starts(lambda z0: tree_map(lambda z: z + std * torch.randn_like(z), z0)):
        yield


@contextmanager
def last_updates() -> Iterator[list[tuple[Any, Any]]]:
    """Scope that lists, for each solve of a module that a gradient may cross, its last recorded ``(z, f(z))``.

    Of unrolled steps, and of a phantom gradient's, that is the last step. Of an implicit gradient it is the evaluation
    at the fixed point, and of reversible steps the measurement of their end.
    """
    found: list[tuple[Any, Any]] = []

    def watch(f: Map, place: int) -> Map:
        mine: int | None = None

        def call(z: Any, *args: Any) -> Any:
            nonlocal mine
            out = f(z, *args)
            if torch.is_grad_enabled() and any(t.requires_grad for t in tree_leaves(out)):
                if mine is None:
                    mine = len(found)
                    found.append((z, out))
                found[mine] = z, out
            return out

        return f if place else call

    with watched_maps(watch):
        yield found


def update_size(updates: list[tuple[Any, Any]]) -> Tensor:
    """Return the mean over solves of the mean square of ``f(z) - z``, ().

    Raises:
        ValueError: there are none.

    Reference: "Think shallow, solve deep", 2026, https://arxiv.org/abs/2608.18222
    """
    if not updates:
        raise ValueError(
            "task.update_penalty weighs the last step of solves, but no gradient crosses any solve of this model: its "
            "map has no trainable parameter. Leave the penalty out."
        )
    sizes = []
    for z, fz in updates:
        steps = [b - a for a, b in zip(tree_leaves(z), tree_leaves(fz), strict=True)]
        sizes.append(sum(s.abs().square().sum() for s in steps) / sum(s.numel() for s in steps))
    return sum(sizes) / len(sizes)  # type: ignore[return-value]  # there is one at least
