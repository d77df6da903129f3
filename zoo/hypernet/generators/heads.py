"""What the generators share: the base that they add to, and the sizes of what they write.

A generator is ``delta(features (..., C), base) -> {name: (..., *shape)}``. Where a head belongs to one slot, its rows
carry the slot's initial size (hyperfan); where slots share it, it writes numbers of variance 1 that a fixed factor
brings to the size of each slot. P: numbers that are generated; H: width of the features in front of the head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from zoo.hypernet.target import Slot

Base = Mapping[str, Tensor | None]


def on_base(base: Tensor | None, delta: Tensor, factor: Tensor) -> Tensor:
    """``base + factor * delta``, in one pass."""
    return delta * factor if base is None else torch.addcmul(base, delta, factor)


def factors(slots: Sequence[Slot], std: Mapping[str, float], scale: float) -> Tensor:
    """What brings numbers of variance 1 to each slot's size: a buffer, as it was read off the target's own values."""
    return torch.tensor([scale * std[s.name] for s in slots])


def need_code(kind: str, code_size: int) -> None:
    """Raise where a generator has nothing to read."""
    if code_size < 1:
        raise ValueError(
            f"A {kind} generator reads a code: give code_size of at least 1, or take 'chunked', 'layers' or 'tiles', "
            "which have embeddings of their own."
        )
