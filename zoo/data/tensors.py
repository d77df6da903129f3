"""Pairs of tensors in memory: for data sets that are no images.

Shape letters: ``n`` samples, ``B`` samples a batch.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from zoo.data.base import InMemoryDataModule, digest
from zoo.data.loader import ResumableLoader

Split = tuple[Tensor, Tensor]


def unchanged(x: Tensor, random: torch.Generator | None) -> Tensor:
    """Return what is given: the transform that does nothing."""
    return x


class TensorData(InMemoryDataModule[Split]):
    """Pairs ``(x, y)`` of tensors, samples first, split into ``train``, ``val`` and ``test``."""

    joint: ClassVar[bool] = False  # whether the transform takes the targets along

    @abstractmethod
    def read(self) -> dict[str, Split]:
        """Return the splits; raises DataError where a file is missing, or is not what was published."""

    def load(self) -> tuple[dict[str, Split], str]:
        splits = {name: (x.contiguous(), y.contiguous()) for name, (x, y) in self.read().items()}
        return splits, digest(tensor for name in ("train", "val", "test") for tensor in splits[name])

    @property
    def transform(self) -> Any:
        """From the samples in memory to what the model gets, see `ResumableLoader`."""
        return unchanged

    def loader(self, name: str) -> ResumableLoader:
        x, y = self.split(name)
        train = name == "train"
        return ResumableLoader(
            x,
            y,
            self.transform,
            batch_size=self.batch_size,
            shuffle=train,
            seed=self.seed,
            where=self.position if train else None,
            ranks=self.ranks,
            joint=self.joint,
        )
