"""Sudokus as text: read one as people write it, and write one as people read it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from zoo.data.puzzles.rules import sudoku_contradictions
from zoo.data.puzzles.search import Box

BLANKS = ".0_*-"
SYMBOLS = "123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def parse_sudoku(text: str) -> Tensor:
    """Return the givens (n, n), 0 for a blank, of a Sudoku that is written row by row.

        >>> parse_sudoku("1..4 ..1. .1.. 4..1")[0].tolist()
        [1, 0, 0, 4]

    A blank is one of ``. 0 _ * -``; above 9 the symbols are A, B, ... White space and lines between boxes do not count.

    Raises:
        ValueError: a symbol that is none of n, or a number of cells that is no square of 4 or more.
    """
    lines = [line for line in text.splitlines() if line.strip(" -+=|")] or [text]
    cells = [c.upper() for line in lines for c in line if not c.isspace() and c not in "|"]
    n = math.isqrt(len(cells))
    if n * n != len(cells) or not 4 <= n <= len(SYMBOLS):
        raise ValueError(
            f"A Sudoku has 16, 36, 81 or another square number of cells; got {len(cells)} in {text[:100]!r}. Write "
            "it row by row, with a dot for each blank."
        )
    for i, c in enumerate(cells):
        if c not in BLANKS and c not in SYMBOLS[:n]:
            raise ValueError(
                f"Row {i // n + 1}, column {i % n + 1} holds {c!r}; a Sudoku {n}x{n} has the symbols 1 to "
                f"{SYMBOLS[n - 1]}, and a dot for a blank."
            )
    values = [0 if c in BLANKS else SYMBOLS.index(c) + 1 for c in cells]
    return torch.tensor(values).view(n, n)


def format_sudoku(grid: Tensor, box: Box | None = None) -> str:
    """Return a grid (n, n), 0 for a blank, as lines of text; with ``box`` its boxes stand apart.

    >>> print(format_sudoku(parse_sudoku("1..4..1..1..4..1"), (2, 2)))
    1 . | . 4
    . . | 1 .
    ----+----
    . 1 | . .
    4 . | . 1
    """
    n = grid.shape[-1]
    rows, columns = box or (n, n)
    signs = [["." if v == 0 else SYMBOLS[v - 1] for v in row] for row in grid.tolist()]
    lines = [" | ".join(" ".join(row[j : j + columns]) for j in range(0, n, columns)) for row in signs]
    first, *rest = [len(line) for line in lines[0].split("|")]
    between = "+".join("-" * width for width in (first, *rest))
    bands = [lines[i : i + rows] for i in range(0, n, rows)]
    return f"\n{between}\n".join("\n".join(band) for band in bands)


def refuse_contradictions(givens: Tensor, box: Box) -> None:
    """Raise ValueError where givens (n, n) hold a symbol twice in a row, a column or a box: there is no solution."""
    n = givens.shape[-1]
    found = sudoku_contradictions(givens[None], box)[:, 1:].tolist()
    if found:
        a, b = found[0]
        more = f" ({len(found)} such pairs)" if len(found) > 1 else ""
        raise ValueError(
            f"The givens contradict one another: row {a // n + 1}, column {a % n + 1} and row {b // n + 1}, column "
            f"{b % n + 1} both hold {SYMBOLS[int(givens.flatten()[a]) - 1]}{more}. Nothing was solved; check the "
            "puzzle."
        )
