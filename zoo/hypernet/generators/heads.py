"""What the generators share: the base that they add to, and the sizes of what they write.

A generator is ``delta(features (..., C), base) -> {name: (..., *shape)}``. Where a head belongs to one slot, its rows
carry the slot's initial size (hyperfan); where slots share it, it writes numbers of variance 1 that a fixed factor
brings to the size of each slot. P: numbers that are generated; H: width of the features before the head.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from zoo.hypernet.target import Slot

Base = Mapping[str, Tensor | None]


@dataclass(frozen=True, kw_only=True)
class Writing:
    """What a generator is to write.

    Attributes:
        slots: of the target.
        std: standard deviation that each slot's values start with, by name.
        scale: multiplies it.
        code_size: numbers that are read; 0 for none.
    """

    slots: tuple[Slot, ...]
    std: Mapping[str, float]
    scale: float
    code_size: int

    def size(self, slot: Slot) -> float:
        """Return the standard deviation that a slot starts with."""
        return self.scale * self.std[slot.name]


class Delta(nn.Module, ABC):
    """A way from a code to changes of a base, one of `zoo.hypernet.GENERATORS`; options are keywords of a subclass.

    Args:
        writing: what to write.

    Raises:
        ValueError: a code is read and there is none.
    """

    allows_no_base: ClassVar[bool] = True
    needs_code: ClassVar[bool] = False
    shares_heads: ClassVar[bool] = True  # then it writes numbers of variance 1, for `factors` to bring to size
    factors: Tensor

    def __init__(self, writing: Writing) -> None:
        super().__init__()
        if self.needs_code and writing.code_size < 1:
            raise ValueError(
                f"A {type(self).__name__} generator reads a code: give code_size of at least 1, or take 'chunked', "
                "'layers' or 'tiles', which have embeddings of their own."
            )
        self.slots = writing.slots
        if self.shares_heads:  # a buffer, as it was read off the target's own values
            self.register_buffer("factors", torch.tensor([writing.size(s) for s in writing.slots]))

    @abstractmethod
    def forward(self, features: Tensor, base: Base) -> dict[str, Tensor]:
        """Return weights by name, each (..., *slot.shape), from features (..., C) and the base of each slot."""


def on_base(base: Tensor | None, delta: Tensor, factor: Tensor) -> Tensor:
    """Return ``base + factor * delta``, in one pass."""
    return delta * factor if base is None else torch.addcmul(base, delta, factor)
