"""Sudoku-Extreme: the published hard Sudokus, read from their CSV files."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from zoo.data.files import corrupt, missing, read_bytes
from zoo.data.puzzles.base import GridData, Puzzles
from zoo.data.puzzles.rules import sudoku_agrees, sudoku_solved
from zoo.data.puzzles.symmetry import SudokuSymmetry, invariant
from zoo.storage.guards import GiB, is_file

COLUMNS = "source,question,answer,rating"
BOX = (3, 3)


class SudokuExtreme(GridData):
    """Sudokus 9x9 from sudoku-extreme/train.csv and test.csv of the root, with the columns source, question, answer, rating.

    Rows are drawn from the files by fixed random numbers. Training and validation have rows of train.csv alone, and
    none that is a relative of a test puzzle or of one another. The difficulty is the published rating.

    Args:
        root: the folder of the data sets; None: ZOO_DATA, else ./data.
        batch_size: puzzles a batch.
        seed: of the order and the augmentation; not of the choice of rows.
        train_size, val_size, test_size: puzzles of each split.
        augment: replace each puzzle of a batch to train on by a relative at random, see `SudokuSymmetry`.

    Raises:
        DataError: at ``setup``: a file is missing, is not what was published, or has fewer puzzles than wanted.

    Reference: Wang et al., "Hierarchical reasoning model", 2025, arXiv:2506.21734.
    """  # noqa: E501 - the first line names the columns

    symbols, num_classes, box = 10, 9, BOX
    tiers: ClassVar = {"easy": (0, 1), "medium": (1, 20), "hard": (20, 1 << 62)}

    def __init__(
        self,
        root: str | None = None,
        batch_size: int = 32,
        seed: int = 0,
        train_size: int = 1000,
        val_size: int = 500,
        test_size: int = 10_000,
        augment: bool = True,
    ) -> None:
        super().__init__(root, batch_size, seed, train_size, val_size, test_size)
        self.augment = augment

    def model_arguments(self) -> dict[str, Any]:
        return {**super().model_arguments(), "box": self.box, "grid": (9, 9)}

    @property
    def transform(self) -> SudokuSymmetry:
        return SudokuSymmetry(self.box, self.augment, self.augment)

    def check(self, givens: Tensor, answer: Tensor) -> Tensor:
        return sudoku_solved(answer, self.box) & sudoku_agrees(givens, answer)

    def puzzles(self) -> dict[str, Puzzles]:
        taken: set[int] = set()
        held, count = self.counts["val"], self.counts["train"]
        test = _rows(self.file("test"), self.counts["test"], taken)
        seen = _rows(self.file("train"), held + count, taken)
        val, train = (tuple(part[rows] for part in seen) for rows in (slice(held), slice(held, None)))
        return {"train": train, "val": val, "test": test}  # type: ignore[dict-item]

    def file(self, split: str) -> Path:
        """Return the file of a split; raises DataError where it is missing."""
        file = self.root / "sudoku-extreme" / f"{split}.csv"
        if not is_file(file):
            raise missing(
                "SudokuExtreme",
                [file],
                "sudoku-extreme/",
                "It is not downloaded: see sapientinc/sudoku-extreme on the Hugging Face Hub.",
            )
        return file


def _rows(file: Path, count: int, taken: set[int]) -> Puzzles:
    """Return ``count`` puzzles of a file whose invariants are none of ``taken``, which gets them."""
    content = read_bytes(file, GiB)
    buffer = np.frombuffer(content, np.uint8)
    ends = np.flatnonzero(buffer == ord("\n"))
    if buffer[-1] != ord("\n"):
        ends = np.append(ends, len(buffer))
    if content[: ends[0] if len(ends) else 0].decode("utf-8", "replace").strip("\ufeff\r") != COLUMNS:
        raise corrupt(file, f"its first line is not {COLUMNS}")
    order = np.random.default_rng(0).permutation(len(ends) - 1)
    parts: list[Puzzles] = []
    found = 0
    for start in range(0, len(order), 4096):
        rows = order[start : start + 4096]
        lines = [content[ends[row] + 1 : ends[row + 1]].decode("utf-8", "replace") for row in rows]
        givens, answers, ratings = _parsed(file, lines, rows + 2)
        fresh: list[int] = []
        for i, mark in enumerate(invariant(givens, BOX).tolist()):
            if mark not in taken and found + len(fresh) < count:
                taken.add(mark)
                fresh.append(i)
        grid = (-1, 9, 9)
        parts.append((givens[fresh].reshape(grid), answers[fresh].reshape(grid) - 1, ratings[fresh]))
        found += len(fresh)
        if found >= count:
            break
    if found < count or not parts:
        raise corrupt(file, f"it holds {found:,} puzzles that are no relatives of one another; {count:,} are wanted")
    givens, answers, ratings = (np.concatenate(part) for part in zip(*parts, strict=True))
    return givens, answers, ratings


def _parsed(file: Path, lines: list[str], numbers: np.ndarray) -> Puzzles:
    """Return givens and answers (n, 81) as digits, and ratings; raises DataError with the number of a wrong line."""
    puzzles, ratings = np.zeros((len(lines), 2, 81), np.uint8), np.zeros(len(lines), np.int64)
    for i, line in enumerate(lines):
        try:
            _, question, answer, rating = next(csv.reader([line]))
            for part, text in enumerate((question.replace(".", "0"), answer)):
                if len(text) != 81 or not (text.isascii() and text.isdigit()):
                    raise ValueError
                puzzles[i, part] = np.frombuffer(text.encode(), np.uint8) - ord("0")
            ratings[i] = int(rating)
        except (ValueError, StopIteration, csv.Error, OverflowError):
            raise corrupt(file, f"its line {numbers[i]} does not hold a source, two grids of 81 and a rating") from None
    givens, answers = torch.from_numpy(puzzles.astype(np.int64)).unflatten(2, (9, 9)).unbind(1)
    right = sudoku_solved(answers - 1, BOX) & sudoku_agrees(givens, answers - 1)
    if not right.all():
        raise corrupt(file, f"the answer in its line {numbers[int(right.long().argmin())]} does not solve the puzzle")
    return puzzles[:, 0], puzzles[:, 1], ratings
