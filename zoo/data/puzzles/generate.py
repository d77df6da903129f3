"""Draw Sudokus: a full grid at random, then cells are blanked as long as the solution stays the only one.

A cell may be blanked where no solution has another digit there; this is one search for a single solution, which
mostly ends after a few sweeps. All puzzles of a call advance together, see `zoo.data.puzzles.search`.
"""

from __future__ import annotations

import numpy as np

from zoo.data.puzzles.search import Box, candidates, digits, fewest, geometry, popcount, search, sweep

BUDGET = 5_000  # states that a proof of uniqueness may take; a cell whose proof takes more keeps its digit


def full_grids(count: int, box: Box, random: np.random.Generator) -> np.ndarray:
    """Return solved grids (count, n^2), uint8, digits 1 to n.

    Singles are placed, then the cell with the fewest candidates gets one of them at random; a grid that ends in a
    contradiction is dropped, and another begun in its place.
    """
    g = geometry(box)
    done = np.zeros((0, g.n * g.n), np.uint8)
    x = candidates(np.zeros((count, g.n * g.n), np.uint8), box)
    while len(done) < count:
        if not x.shape[1]:
            x = candidates(np.zeros((2 * (count - len(done)), g.n * g.n), np.uint8), box)
        swept, alive = sweep(x, g)
        still = (swept == x).all(0)
        cell, left = fewest(popcount(swept), least=2)
        solved = alive & still & (left == 0)
        done = np.concatenate([done, digits(swept[:, solved])])
        guess = np.flatnonzero(alive & still & ~solved)
        bits = (swept[cell[guess], guess][:, None] >> np.arange(g.n, dtype=g.dtype)) & 1
        digit = (bits * (1 - random.random(bits.shape))).argmax(1)
        swept[cell[guess], guess] = g.dtype.type(1) << digit.astype(g.dtype)
        x = swept[:, alive & ~solved]
    return done[:count]


def dig(grids: np.ndarray, holes: np.ndarray, box: Box, random: np.random.Generator) -> np.ndarray:
    """Return puzzles (N, n^2) with a unique solution, uint8, 0 for a blank.

    Args:
        grids: (N, n^2), solved.
        holes: int (N,), blanks wanted. A puzzle has fewer where none of its givens can be spared any more: with more
            holes than any puzzle has, all puzzles are minimal.
        box: rows and columns of a box.
        random: of the order in which cells are tried.
    """
    g = geometry(box)
    puzzles = grids.copy()
    order = np.argsort(random.random(grids.shape), 1)
    for tried in order.T:
        rows = np.flatnonzero((puzzles == 0).sum(1) < holes)
        if not len(rows):
            break
        cell = tried[rows]
        puzzles[rows, cell] = 0
        x = candidates(puzzles[rows], box)
        digit = grids[rows, cell]
        x[cell, np.arange(len(rows))] ^= g.dtype.type(1) << (digit - 1).astype(g.dtype)  # any other digit
        found = search(x, box, limit=1, budget=BUDGET)
        needed = (found.count > 0) | ~found.complete
        puzzles[rows[needed], cell[needed]] = digit[needed]
    return puzzles


def draw(count: int, box: Box, holes: tuple[int, int], random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return at most ``count`` puzzles with a unique solution, and their solutions, each (N, n^2) uint8.

    The number of blanks wanted is uniform in ``holes``, both ends included. A puzzle that has to keep more givens stays
    among them as long as it has ``holes[0]`` blanks; otherwise it is left out.
    """
    grids = full_grids(count, box, random)
    puzzles = dig(grids, random.integers(holes[0], holes[1] + 1, count), box, random)
    enough = (puzzles == 0).sum(1) >= holes[0]
    return puzzles[enough], grids[enough]
