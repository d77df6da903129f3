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


def draw_minimal(
    count: int, box: Box, holes: tuple[int, int], random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return those of ``count`` minimal puzzles whose blanks lie in ``holes``, both ends included, and their solutions.

    No given of a minimal puzzle can be spared; but one whose proof would take more than the budget stays, too.
    """
    grids = full_grids(count, box, random)
    puzzles = dig(grids, np.full(count, grids.shape[1]), box, random)
    blanks = (puzzles == 0).sum(1)
    wanted = (blanks >= holes[0]) & (blanks <= holes[1])
    return puzzles[wanted], grids[wanted]


def without_solution(
    puzzles: np.ndarray, grids: np.ndarray, box: Box, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return those of the puzzles (N, n^2) that have no solution after one given was changed, and their former grids.

    The new digit is drawn from those that none of the cell's givens in sight has: no two givens contradict one another.
    """
    g = geometry(box)
    each = np.arange(len(puzzles))
    cell = ((puzzles > 0) * (1 - random.random(puzzles.shape))).argmax(1)
    changed = puzzles.copy()
    seen = np.zeros((len(puzzles), g.n + 1), bool)
    rows, places = np.nonzero(g.peers[cell])
    seen[rows, puzzles[rows, places]] = True
    seen[each, puzzles[each, cell]] = seen[:, 0] = True
    changed[each, cell] = (~seen * (1 - random.random(seen.shape))).argmax(1)
    found = search(candidates(changed, box), box, limit=1, budget=BUDGET)
    none = (changed[each, cell] > 0) & (found.count == 0) & found.complete
    return changed[none], grids[none]


def with_several(puzzles: np.ndarray, box: Box, random: np.random.Generator) -> np.ndarray:
    """Return the puzzles (N, n^2) with as many givens less, drawn one by one, as it takes to have several solutions."""
    puzzles = puzzles.copy()
    single = np.arange(len(puzzles))
    while len(single):
        cell = ((puzzles[single] > 0) * (1 - random.random((len(single), puzzles.shape[1])))).argmax(1)
        puzzles[single, cell] = 0
        single = single[search(candidates(puzzles[single], box), box, limit=2).count < 2]
    return puzzles
