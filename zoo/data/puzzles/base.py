"""The Lightning data module of every puzzle here: grids of symbols with an answer, checked by rules.

Shape letters: ``n`` samples, ``B`` samples a batch, ``H W`` rows and columns.
"""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import Callable, Hashable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from zoo.data.puzzles.cache import Arrays, cached
from zoo.data.tensors import Split, TensorData

SPLITS = ("test", "val", "train")  # in the order in which they are drawn
FIRST, CHUNK = 32, 1024  # puzzles that are drawn together, by a random state of their own: twice as many each time
FRUITLESS = 20  # chunks without a new puzzle after which there are taken to be no more
PARTS = ("givens", "answer", "difficulty")
Puzzles = tuple[np.ndarray, np.ndarray, np.ndarray]  # givens and answers (n, H, W), difficulty (n,)


class GridData(TensorData):
    """Puzzles as grids: a batch is givens (B, H, W), int64 symbols, and answers (B, H, W), int64 classes.

    Args:
        root: the folder of the data sets, for those that are read from files.
        batch_size: puzzles a batch.
        seed: of the order and the augmentation; not of the puzzles.
        train_size, val_size, test_size: puzzles of each split.

    Raises:
        ValueError: an argument is out of range.
    """

    joint: ClassVar[bool] = True
    symbols: int  # of the givens
    num_classes: int  # of an answer's cells
    tiers: ClassVar[dict[str, tuple[int, int]]]  # difficulties of each, from and up to but without

    def __init__(
        self, root: str | None, batch_size: int, seed: int, train_size: int, val_size: int, test_size: int
    ) -> None:
        super().__init__(root, batch_size, seed)
        self.counts = {"train": train_size, "val": val_size, "test": test_size}
        for name, count in self.counts.items():
            least = 0 if name == "val" else 1
            if count < least:
                raise ValueError(f"{type(self).__name__}: {name}_size must be at least {least}; got {count}.")
        self._difficulty: dict[str, Tensor] = {}

    @abstractmethod
    def check(self, givens: Tensor, answer: Tensor) -> Tensor:
        """Return which answers (B, H, W), of classes, are right by the rules and agree with the givens: bool (B,)."""

    @abstractmethod
    def puzzles(self) -> dict[str, Puzzles]:
        """Return the splits, from where they are kept."""

    def difficulty(self, split: str) -> Tensor:
        """Return how hard each puzzle of a split is, int64 (n,), in the unit of `tiers`."""
        self.setup()
        return self._difficulty[split]

    def model_arguments(self) -> dict[str, Any]:
        return {"symbols": self.symbols, "num_classes": self.num_classes}

    def prepare_data(self) -> None:
        self.puzzles()

    def read(self) -> dict[str, Split]:
        splits = self.puzzles()
        self._difficulty = {name: torch.from_numpy(found[2]).long() for name, found in splits.items()}
        return {name: (torch.from_numpy(x).long(), torch.from_numpy(y).long()) for name, (x, y, _) in splits.items()}


class PuzzleData(GridData):
    """Puzzles that are generated once, by fixed random numbers, and kept in the user's cache folder.

    No puzzle of a split is in another one, nor is a relative of it that the symmetries of the puzzle lead to.
    """

    reads_files = False
    revision: ClassVar[int] = 1  # of what is drawn: raise it where the same options give other puzzles
    more: ClassVar[str]  # what else to ask for, where there are too few puzzles

    @abstractmethod
    def key(self) -> dict[str, Any]:
        """Return all that the puzzles depend on, as JSON can write it; sizes of the splits aside."""

    @abstractmethod
    def draw(self, split: str, count: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return givens and answers of new puzzles (n, H, W), uint8; ``n`` is near ``count``."""

    @abstractmethod
    def marks(self, givens: np.ndarray) -> Sequence[Hashable]:
        """Return a mark a puzzle: those that are relatives have the same one."""

    @abstractmethod
    def measure(self, givens: np.ndarray, answers: np.ndarray) -> np.ndarray:
        """Return the difficulty of each puzzle, int (n,)."""

    def puzzles(self) -> dict[str, Puzzles]:
        name = type(self).__name__.lower()
        key = {"revision": self.revision, **self.key(), **self.counts}
        arrays = cached(name, key, lambda: self._generated(name))
        return {split: tuple(arrays[f"{split}_{part}"] for part in PARTS) for split in SPLITS}  # type: ignore[misc]

    def _generated(self, name: str) -> Arrays:
        from tqdm import tqdm

        hidden = not sys.stderr.isatty()
        with tqdm(total=sum(self.counts.values()), desc=name, unit="puzzle", leave=False, disable=hidden) as bar:
            taken: set[Hashable] = set()
            splits = {name: self._drawn(name, taken, bar.update) for name in SPLITS}
        return {f"{name}_{part}": x for name in SPLITS for part, x in zip(PARTS, splits[name], strict=True)}

    def _drawn(self, split: str, taken: set[Hashable], advance: Callable[[int], Any]) -> Puzzles:
        """Draw a split of puzzles whose relatives are not among ``taken``, which gets their marks.

        A split with more puzzles begins with those of one with fewer.
        """
        count, found, chunk, fruitless = self.counts[split], 0, 0, 0
        parts: list[Puzzles] = []
        while found < count or not parts:
            random = np.random.default_rng([self.revision, SPLITS.index(split), chunk])
            givens, answers = self.draw(split, min(FIRST << chunk, CHUNK), random)
            fresh: list[int] = []
            for i, mark in enumerate(self.marks(givens)):
                if mark not in taken and found + len(fresh) < count:
                    taken.add(mark)
                    fresh.append(i)
            givens, answers = givens[fresh], answers[fresh]
            parts.append((givens, answers, self.measure(givens, answers)))
            advance(len(fresh))
            found, chunk, fruitless = found + len(fresh), chunk + 1, 0 if fresh else fruitless + 1
            if fruitless == FRUITLESS:
                raise ValueError(
                    f"{type(self).__name__}: found only {len(taken)} puzzles that are no relatives of one another; "
                    f"{sum(self.counts.values())} are wanted. Ask for smaller splits, or {self.more}."
                )
        givens, answers, difficulty = (np.concatenate(part) for part in zip(*parts, strict=True))
        return givens, answers, difficulty
