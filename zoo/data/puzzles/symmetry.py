"""What leaves a Sudoku a Sudoku: new names for the digits, other orders of rows and columns, transposition.

With boxes of ``r`` rows and ``c`` columns, the ``n = r c`` rows lie in ``c`` bands of ``r`` rows. The bands may change
places, and so may the rows of a band; columns likewise, in ``r`` stacks of ``c``. Where ``r = c`` rows and columns may
change roles. A 9x9 Sudoku has 2 * 6^8 * 9! = 1.2e12 such relatives.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from zoo.data.puzzles.search import Box, geometry


@dataclass(frozen=True)
class SudokuSymmetry:
    """Turns each puzzle of a batch, and its answer along, into one of its relatives at random.

    Args:
        box: rows and columns of a box.
        relabel: new names for the digits.
        permute: other orders of bands, stacks, rows and columns, and, where boxes are square, transposition.
    """

    box: Box
    relabel: bool = True
    permute: bool = True

    def __call__(self, givens: Tensor, answer: Tensor, random: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Return relatives of givens (B, n, n), 0 for a blank, and answers (B, n, n), classes 0 to n - 1; without
        ``random``, they are as they were."""
        if random is None:
            return givens, answer
        r, c = self.box
        count = len(givens)
        if self.permute:
            rows, columns = _order(count, c, r, random), _order(count, r, c, random)
            each = torch.arange(count)[:, None, None]
            givens, answer = (x[each, rows[:, :, None], columns[:, None]] for x in (givens, answer))
            if r == c:
                turned = (torch.rand(count, generator=random) < 0.5)[:, None, None]
                givens, answer = (torch.where(turned, x.transpose(1, 2), x) for x in (givens, answer))
        if self.relabel:
            names = torch.rand(count, r * c, generator=random).argsort(1)
            blank_first = torch.cat([torch.zeros(count, 1, dtype=names.dtype), names + 1], 1)
            givens = blank_first.gather(1, givens.flatten(1)).view_as(givens)
            answer = names.gather(1, answer.flatten(1)).view_as(answer)
        return givens, answer


def _order(count: int, groups: int, size: int, random: torch.Generator) -> Tensor:
    """Return permutations (count, groups * size) that move whole groups, and members within their group."""
    group = torch.rand(count, groups, generator=random).argsort(1)
    member = torch.rand(count, groups, size, generator=random).argsort(2)
    return (group[:, :, None] * size + member).flatten(1)


def invariant(puzzles: np.ndarray, box: Box, rounds: int = 4) -> np.ndarray:
    """Return a number a puzzle, uint64 (N,), that all its relatives share: other numbers prove other puzzles.

    Colors of cells are refined by those of their row, column and box, and of the givens of the same digit (the test of
    Weisfeiler and Leman). Two puzzles that are no relatives have the same number only if this test or a hash of 64 bits
    fails to tell them apart.

    Args:
        puzzles: (N, n^2), digits 1 to n, 0 for a blank.
        box: rows and columns of a box.
        rounds: of refinement.
    """
    g = geometry(box)
    digit = puzzles.T.astype(np.int64)
    each = np.arange(digit.shape[1])
    color = _mix(np.where(digit > 0, np.uint64(1), np.uint64(2)))
    for _ in range(rounds):
        around = [color[cells].sum(0, dtype=np.uint64)[unit] for cells, unit in zip(g.cells, g.units, strict=True)]
        lines, blocks = [_mix(x) for x in around[:2]], _mix(around[2] + np.uint64(17))
        both = lines[0] + lines[1] if box[0] == box[1] else lines[0] + _mix(lines[1])  # transposed, they change places
        alike = np.zeros((g.n + 1, digit.shape[1]), np.uint64)
        np.add.at(alike, (digit, each[None]), color)
        names = np.where(digit > 0, _mix(alike[digit, each[None]] + np.uint64(29)), np.uint64(0))
        color = _mix(_mix(color) + both + blocks + names)
    return _mix(color.sum(0, dtype=np.uint64))


def _mix(x: np.ndarray) -> np.ndarray:
    """Return a hash of each uint64 (the finalizer of splitmix64)."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
