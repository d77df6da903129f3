"""Sudokus as people write them: read, solve, write."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from zoo.data.puzzles.rules import sudoku_contradictions
from zoo.data.puzzles.search import Box, candidates, geometry, nodes, search

SYMBOLS = ".123456789ABCDEFG"  # by value
BLANKS = ".0_"
BOXES: dict[int, Box] = {16: (2, 2), 36: (2, 3), 81: (3, 3), 256: (4, 4)}  # by the number of cells


class SudokuError(ValueError):
    """A text or grid that is no Sudoku, or whose givens contradict one another."""


@dataclass(frozen=True)
class Solved:
    """What the solver says of a Sudoku.

    Args:
        count: 0, 1, or 2 for several solutions.
        solution: int (n, n), digits 1 to n: the solution, or one of several; None where there is none.
        nodes: placements that a plain search tries, see `zoo.data.puzzles.search.nodes`.
    """

    count: int
    solution: np.ndarray | None
    nodes: int

    def __str__(self) -> str:
        says = ("No solution.", "One solution.", "Several solutions; one of them:")[self.count]
        return says if self.solution is None else f"{says}\n{format_sudoku(self.solution)}"


def parse_sudoku(text: str) -> np.ndarray:
    """Return a Sudoku (n, n), int64: digits 1 to n, 0 for a blank.

    Row by row; ``.``, ``0`` and ``_`` are blanks, and so are spaces where there are as many symbols with them as a Sudoku
    has cells; otherwise spaces separate, and line breaks always do. The letters A to G are the digits 10 to 16. Boxes
    are 2x2, 2x3 (rows x columns), 3x3 or 4x4, by the number of cells.

    Raises:
        SudokuError: another number of cells, a symbol out of range, or two givens that contradict one another.

    Example:
        >>> parse_sudoku("1.3. ..2. .... 4...")[0].tolist()
        [1, 0, 3, 0]
        >>> parse_sudoku("11.. .... .... ....")
        Traceback (most recent call last):
        zoo.data.puzzles.text.SudokuError: Two givens contradict one another: 1 in row 1, column 1 and in row 1, column 2. Correct one of them.
    """  # noqa: E501 - the message is one line
    symbols = "".join(text.split())
    if len(symbols) not in BOXES:
        lines = text.strip("\r\n").splitlines()
        spaced = "".join(line.ljust(max(map(len, lines))) for line in lines).replace(" ", ".") if lines else ""
        if len(spaced) not in BOXES:
            raise SudokuError(
                f"A Sudoku has {', '.join(map(str, BOXES))} cells, row by row with . for a blank; got {len(symbols)}."
            )
        symbols = spaced
    box = BOXES[len(symbols)]
    n = box[0] * box[1]
    values = []
    for cell, symbol in enumerate(symbols.upper()):
        value = 0 if symbol in BLANKS else SYMBOLS.find(symbol)
        if not 0 <= value <= n:
            known = f"1 to {n}" if n < 10 else f"1 to 9 and A to {SYMBOLS[n]}"
            raise SudokuError(
                f"A Sudoku of {n} x {n} has the digits {known}, and . for a blank; got {symbols[cell]!r} in "
                f"{_place(cell, n)}."
            )
        values.append(value)
    grid = np.array(values).reshape(n, n)
    check_sudoku(grid, box)
    return grid


def check_sudoku(grid: np.ndarray, box: Box) -> None:
    """Raise SudokuError where a grid (n, n) has another shape, a digit out of range, or givens that contradict."""
    n = geometry(box).n
    if grid.shape != (n, n):
        raise SudokuError(f"A Sudoku with boxes of {box[0]} x {box[1]} has {n} x {n} cells; got shape {grid.shape}.")
    wrong = np.flatnonzero((grid < 0) | (grid > n))
    if len(wrong):
        raise SudokuError(
            f"A Sudoku of {n} x {n} has the digits 1 to {n}, and 0 for a blank; got {grid.flat[wrong[0]]} in "
            f"{_place(int(wrong[0]), n)}."
        )
    pairs = sudoku_contradictions(torch.from_numpy(grid.astype(np.int64))[None], box)
    if len(pairs):
        _, a, b = pairs[0].tolist()
        raise SudokuError(
            f"Two givens contradict one another: {grid.flat[a]} in {_place(a, n)} and in {_place(b, n)}. Correct one "
            "of them."
        )


def solve(puzzle: str | np.ndarray, box: Box | None = None) -> Solved:
    """Return the solution of a Sudoku, and whether it is the only one.

    Args:
        puzzle: a text, see `parse_sudoku`, or digits (n, n), 0 for a blank.
        box: rows and columns of a box; None: by the number of cells.

    Raises:
        SudokuError: it is no Sudoku, or its givens contradict one another.

    Example:
        >>> found = solve("1... ..3. .4.. ...2")
        >>> found.count, format_sudoku(found.solution, line=True)
        (1, '1324423124133142')
    """
    grid = parse_sudoku(puzzle) if isinstance(puzzle, str) else np.asarray(puzzle)
    if box is None and grid.size not in BOXES:
        raise SudokuError(f"Name the box: rows and columns of one, for a grid of shape {grid.shape}.")
    box = box or BOXES[grid.size]
    check_sudoku(grid, box)
    flat = grid.reshape(1, -1).astype(np.uint8)
    found = search(candidates(flat, box), box)
    count = int(found.count[0])
    solution = found.solution[0].reshape(grid.shape).astype(np.int64) if count else None
    return Solved(count, solution, int(nodes(flat, box)[0]))


def format_sudoku(grid: np.ndarray, line: bool = False) -> str:
    """Return a grid (n, n) of digits, 0 for a blank, as n lines, or as one ``line``; digits above 9 are letters."""
    rows = ["".join(SYMBOLS[int(value)] for value in row) for row in grid]
    return ("" if line else "\n").join(rows)


def _place(cell: int, n: int) -> str:
    return f"row {cell // n + 1}, column {cell % n + 1}"
