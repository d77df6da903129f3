"""Sudokus of three sizes, drawn, each with a single solution."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, get_args

import numpy as np
from torch import Tensor

from zoo.data.puzzles.base import PuzzleData
from zoo.data.puzzles.generate import draw, draw_minimal, with_several, without_solution
from zoo.data.puzzles.rules import sudoku_agrees, sudoku_solved
from zoo.data.puzzles.search import Box, nodes
from zoo.data.puzzles.symmetry import SudokuSymmetry, invariant

TestPuzzles = Literal["drawn", "minimal", "unsolvable", "ambiguous"]


class SudokuData(PuzzleData):
    """Sudokus with a single solution and their solutions; see the classes below for each size.

    Givens are 0 for a blank and digits 1 to n; answers are digits less one. The difficulty is the number of placements
    that a plain search tries, see `zoo.data.puzzles.search.nodes`. Answers of different splits may be relatives of one
    another, as there are few grids of the small sizes; puzzles are not.

    Args:
        batch_size: puzzles a batch.
        seed: of the order and the augmentation; not of the puzzles.
        train_size, val_size, test_size: puzzles of each split.
        min_holes, max_holes: blanks of a puzzle. The number wanted is drawn evenly; a puzzle that has no given to
            spare any more keeps more of them, but not more than ``min_holes`` allows.
        test_puzzles: what the test is made of. ``drawn``: as the others; ``minimal``: no given can be spared, and the
            holes lie in the class's `minimal_holes`; ``unsolvable``: one given is changed, so that no solution is left,
            without a contradiction between two givens (no answer is right); ``ambiguous``: with several solutions (each
            of them is right).
        test_nodes: least difficulty of a test puzzle.
        augment: replace each puzzle of a batch to train on by a relative at random, see `SudokuSymmetry`.

    Raises:
        ValueError: an argument is out of range; at ``setup``: there are not as many puzzles as wanted.
    """

    box: ClassVar[Box]  # rows and columns
    minimal_holes: ClassVar[tuple[int, int]]
    more = "for a wider range of holes or less difficulty"

    def __init__(
        self,
        batch_size: int,
        seed: int,
        train_size: int,
        val_size: int,
        test_size: int,
        min_holes: int,
        max_holes: int,
        test_puzzles: TestPuzzles,
        test_nodes: int,
        augment: bool,
    ) -> None:
        super().__init__(None, batch_size, seed, train_size, val_size, test_size)
        cells = self.num_classes**2
        if not 1 <= min_holes <= max_holes < cells:
            raise ValueError(
                f"{type(self).__name__}: 1 <= min_holes <= max_holes < {cells} must hold; got {min_holes}, {max_holes}."
            )
        if test_puzzles not in get_args(TestPuzzles):
            raise ValueError(
                f"{type(self).__name__}: test_puzzles must be one of {', '.join(get_args(TestPuzzles))}; got "
                f"{test_puzzles!r}."
            )
        if test_nodes < 0:
            raise ValueError(f"{type(self).__name__}: test_nodes must not be negative; got {test_nodes}.")
        self.min_holes, self.max_holes, self.augment = min_holes, max_holes, augment
        self.test_puzzles, self.test_nodes = test_puzzles, test_nodes

    @property
    def num_classes(self) -> int:  # type: ignore[override]
        return self.box[0] * self.box[1]

    @property
    def symbols(self) -> int:  # type: ignore[override]
        return self.num_classes + 1

    def model_arguments(self) -> dict[str, Any]:
        return {**super().model_arguments(), "box": self.box, "grid": (self.num_classes, self.num_classes)}

    @property
    def transform(self) -> SudokuSymmetry:
        return SudokuSymmetry(self.box, self.augment, self.augment)

    def check(self, givens: Tensor, answer: Tensor) -> Tensor:
        return sudoku_solved(answer, self.box) & sudoku_agrees(givens, answer)

    def key(self) -> dict[str, Any]:
        key: dict[str, Any] = {"box": self.box, "holes": [self.min_holes, self.max_holes]}
        test = {"test_puzzles": self.test_puzzles, "test_nodes": self.test_nodes}
        return key if (self.test_puzzles, self.test_nodes) == ("drawn", 0) else key | test

    def draw(self, split: str, count: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        n, kind = self.num_classes, self.test_puzzles if split == "test" else "drawn"
        holes = (self.min_holes, self.max_holes)
        puzzles, grids = (
            draw_minimal(count, self.box, self.minimal_holes, random)
            if kind == "minimal"
            else draw(count, self.box, holes, random)
        )
        if kind == "unsolvable":
            puzzles, grids = without_solution(puzzles, grids, self.box, random)
        if kind == "ambiguous":
            puzzles = with_several(puzzles, self.box, random)
        if split == "test" and self.test_nodes:
            hard = nodes(puzzles, self.box) >= self.test_nodes
            puzzles, grids = puzzles[hard], grids[hard]
        return puzzles.reshape(-1, n, n), grids.reshape(-1, n, n) - 1

    def marks(self, givens: np.ndarray) -> list[int]:
        return invariant(givens.reshape(len(givens), self.num_classes**2), self.box).tolist()

    def measure(self, givens: np.ndarray, answers: np.ndarray) -> np.ndarray:
        return nodes(givens.reshape(len(givens), self.num_classes**2), self.box)


class Sudoku4(SudokuData):
    """Sudokus 4x4 with boxes 2x2: for tests. Their 288 grids are relatives of two."""

    box = (2, 2)
    minimal_holes = (10, 12)
    tiers: ClassVar = {"easy": (0, 12), "hard": (12, 1 << 62)}

    def __init__(
        self,
        batch_size: int = 32,
        seed: int = 0,
        train_size: int = 128,
        val_size: int = 32,
        test_size: int = 64,
        min_holes: int = 6,
        max_holes: int = 12,
        test_puzzles: TestPuzzles = "drawn",
        test_nodes: int = 0,
        augment: bool = True,
    ) -> None:
        super().__init__(
            batch_size, seed, train_size, val_size, test_size, min_holes, max_holes, test_puzzles, test_nodes, augment
        )


class Sudoku6(SudokuData):
    """Sudokus 6x6 with boxes of 2 rows and 3 columns."""

    box = (2, 3)
    minimal_holes = (25, 28)
    tiers: ClassVar = {"easy": (0, 22), "medium": (22, 27), "hard": (27, 1 << 62)}

    def __init__(
        self,
        batch_size: int = 32,
        seed: int = 0,
        train_size: int = 1000,
        val_size: int = 500,
        test_size: int = 1000,
        min_holes: int = 16,
        max_holes: int = 26,
        test_puzzles: TestPuzzles = "drawn",
        test_nodes: int = 0,
        augment: bool = True,
    ) -> None:
        super().__init__(
            batch_size, seed, train_size, val_size, test_size, min_holes, max_holes, test_puzzles, test_nodes, augment
        )


class Sudoku9(SudokuData):
    """Sudokus 9x9 with boxes 3x3."""

    box = (3, 3)
    minimal_holes = (56, 59)
    tiers: ClassVar = {"easy": (0, 60), "medium": (60, 200), "hard": (200, 1000), "extreme": (1000, 1 << 62)}

    def __init__(
        self,
        batch_size: int = 32,
        seed: int = 0,
        train_size: int = 2000,
        val_size: int = 500,
        test_size: int = 1000,
        min_holes: int = 46,
        max_holes: int = 60,
        test_puzzles: TestPuzzles = "drawn",
        test_nodes: int = 0,
        augment: bool = True,
    ) -> None:
        super().__init__(
            batch_size, seed, train_size, val_size, test_size, min_holes, max_holes, test_puzzles, test_nodes, augment
        )
