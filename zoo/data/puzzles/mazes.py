"""Mazes with the shortest way as the answer; tested on larger ones than those that are trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from zoo.data.puzzles.base import PuzzleData
from zoo.data.puzzles.maze import GOAL, START, carve, open_walls, place_ends, shortest_paths
from zoo.data.puzzles.rules import maze_solved


@dataclass(frozen=True)
class MazeSymmetry:
    """Turns and mirrors each maze of a batch, and its answer along, at random."""

    augment: bool = True

    def __call__(self, givens: Tensor, answer: Tensor, random: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Return relatives of givens (B, S, S) and answers (B, S, S); without ``random``, they are as they were."""
        if random is None or not self.augment:
            return givens, answer
        kind = torch.randint(0, 8, (len(givens),), generator=random)[:, None, None]
        for bit, change in ((1, lambda x: x.flip(1)), (2, lambda x: x.flip(2)), (4, lambda x: x.transpose(1, 2))):
            givens, answer = (torch.where((kind & bit) > 0, change(x), x) for x in (givens, answer))
        return givens, answer


def same_mazes(mazes: np.ndarray) -> list[bytes]:
    """Return bytes a maze (N, S, S) that its eight relatives share, and those with start and goal exchanged."""
    swapped = np.arange(4, dtype=np.uint8)
    swapped[[START, GOAL]] = GOAL, START
    forms = []
    for x in (mazes, swapped[mazes]):
        for y in (x, x.transpose(0, 2, 1)):
            forms += [y, y[:, ::-1], y[:, :, ::-1], y[:, ::-1, ::-1]]
    return [min(form[i].tobytes() for form in forms) for i in range(len(mazes))]


class Mazes(PuzzleData):
    """Mazes by depth-first search, with the shortest way from start to goal as the answer.

    Givens are 0 for a free cell, 1 for a wall, 2 for the start, 3 for the goal; the answer is 1 on the shortest way,
    both ends included. The difficulty is the number of its steps. Any shortest way is right.

    Args:
        batch_size: mazes a batch.
        seed: of the order and the augmentation; not of the mazes.
        train_size, val_size, test_size: mazes of each split.
        side: cells a side of the mazes to train on and to validate on, walls included; odd.
        test_side: the same for the test.
        loops: share of the walls between rooms that are taken down, in training and validation; 0: perfect mazes.
        test_loops: the same for the test.
        augment: turn and mirror the mazes to train on.

    Raises:
        ValueError: an argument is out of range; at ``setup``: there are not as many mazes as wanted.
    """

    symbols, num_classes = 4, 2
    more = "for a larger side"
    tiers: ClassVar = {"short": (0, 20), "medium": (20, 60), "long": (60, 1 << 62)}

    def __init__(
        self,
        batch_size: int = 64,
        seed: int = 0,
        train_size: int = 2000,
        val_size: int = 256,
        test_size: int = 500,
        side: int = 11,
        test_side: int = 31,
        loops: float = 0.0,
        test_loops: float = 0.0,
        augment: bool = True,
    ) -> None:
        super().__init__(None, batch_size, seed, train_size, val_size, test_size)
        for name, value in (("side", side), ("test_side", test_side)):
            if value % 2 == 0 or value < 5:
                raise ValueError(f"Mazes: {name} must be odd and at least 5; got {value}.")
        if not (0 <= loops <= 1 and 0 <= test_loops <= 1):
            raise ValueError(f"Mazes: loops and test_loops must be in [0, 1]; got {loops} and {test_loops}.")
        self.side, self.test_side, self.loops, self.test_loops = side, test_side, loops, test_loops
        self.augment = augment

    def model_arguments(self) -> dict[str, Any]:
        return {**super().model_arguments(), "grid": (self.side, self.side)}

    @property
    def transform(self) -> MazeSymmetry:
        return MazeSymmetry(self.augment)

    def check(self, givens: Tensor, answer: Tensor) -> Tensor:
        return maze_solved(givens, answer)

    def key(self) -> dict[str, Any]:
        form = ("side", "test_side", "loops", "test_loops")
        return {name: getattr(self, name) for name in form}

    def draw(self, split: str, count: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        side, loops = (self.test_side, self.test_loops) if split == "test" else (self.side, self.loops)
        mazes = place_ends(open_walls(carve(count, side, random), loops, random), random)
        return mazes, shortest_paths(mazes)[0]

    def marks(self, givens: np.ndarray) -> list[bytes]:
        return same_mazes(givens)

    def measure(self, givens: np.ndarray, answers: np.ndarray) -> np.ndarray:
        return answers.sum((1, 2), dtype=np.int64) - 1
