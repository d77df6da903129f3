"""The Lightning data module of every puzzle here: grids of symbols with an answer, checked by rules.

Shape letters: ``n`` samples, ``B`` samples a batch, ``H W`` rows and columns.
"""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from zoo.data.puzzles.cache import Arrays, cached
from zoo.data.tensors import Split, TensorData

SPLITS = ("test", "val", "train")  # in the order in which they are drawn
Puzzles = tuple[np.ndarray, np.ndarray, np.ndarray]  # givens and answers (n, H, W), difficulty (n,)


class PuzzleData(TensorData):
    """Puzzles that are generated once, by fixed random numbers, and kept in the user's cache folder.

    A batch is givens (B, H, W), int64 symbols, and answers (B, H, W), int64 classes. No puzzle of a split is in another
    one, nor is a relative of it that the symmetries of the puzzle lead to.

    Args:
        batch_size: puzzles a batch.
        seed: of the order and the augmentation; not of the puzzles.
        train_size, val_size, test_size: puzzles of each split.

    Raises:
        ValueError: an argument is out of range.
    """

    reads_files = False
    joint: ClassVar[bool] = True
    symbols: int  # of the givens
    num_classes: int  # of an answer's cells
    tiers: ClassVar[dict[str, tuple[int, int]]]  # difficulties of each, from and up to but without

    def __init__(self, batch_size: int, seed: int, train_size: int, val_size: int, test_size: int) -> None:
        super().__init__(None, batch_size, seed)
        self.counts = {"train": train_size, "val": val_size, "test": test_size}
        for name, count in self.counts.items():
            if count < (name != "val"):
                raise ValueError(
                    f"{type(self).__name__}: {name}_size must be at least {int(name != 'val')}; got {count}."
                )
        self._difficulty: dict[str, Tensor] = {}

    @abstractmethod
    def key(self) -> dict[str, Any]:
        """Return all that the puzzles depend on, as JSON can write it."""

    @abstractmethod
    def generate(self, advance: Callable[[int], None]) -> dict[str, Puzzles]:
        """Draw the splits, and call ``advance`` with the number of puzzles done since the last call."""

    @abstractmethod
    def check(self, givens: Tensor, answer: Tensor) -> Tensor:
        """Return which answers (B, H, W), of classes, are right by the rules and agree with the givens: bool (B,)."""

    def difficulty(self, split: str) -> Tensor:
        """Return how hard each puzzle of a split is, int64 (n,), in the unit of `tiers`."""
        self.setup()
        return self._difficulty[split]

    def model_arguments(self) -> dict[str, Any]:
        return {"symbols": self.symbols, "num_classes": self.num_classes}

    def prepare_data(self) -> None:
        self._arrays()

    def read(self) -> dict[str, Split]:
        arrays = self._arrays()
        self._difficulty = {name: torch.from_numpy(arrays[f"{name}_difficulty"]).long() for name in SPLITS}
        return {
            name: (torch.from_numpy(arrays[f"{name}_givens"]).long(), torch.from_numpy(arrays[f"{name}_answer"]).long())
            for name in SPLITS
        }

    def _arrays(self) -> Arrays:
        name = type(self).__name__.lower()
        return cached(name, {**self.key(), **self.counts}, lambda: self._generated(name))

    def _generated(self, name: str) -> Arrays:
        from tqdm import tqdm

        hidden = not sys.stderr.isatty()
        with tqdm(total=sum(self.counts.values()), desc=name, unit="puzzle", leave=False, disable=hidden) as bar:
            splits = self.generate(bar.update)
        parts = ("givens", "answer", "difficulty")
        return {f"{name}_{part}": x for name in SPLITS for part, x in zip(parts, splits[name], strict=True)}
