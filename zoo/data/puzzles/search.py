"""Solve thousands of Sudokus at once, by bit masks and numpy.

A state of a search is a column of ``x``, (n^2, M): bit ``d`` of a cell says that digit ``d`` (from 0) may stand there.
One sweep over all columns takes the digits of the decided cells out of their row, column and box (naked singles), and
decides a cell that alone in a unit can hold a digit (hidden singles). Where a sweep changes nothing, the state is
copied for each candidate of the cell that has the fewest. The states of all puzzles share one stack, so that a hard
puzzle keeps the vectors long.

`search` counts solutions in this way; `nodes` counts the placements of the plain search, without sweeps, as a measure
of difficulty.

Letters: ``N`` puzzles, ``M`` states, ``n`` digits, boxes of ``r`` rows and ``c`` columns, ``n = r c``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np

Box = tuple[int, int]
Masks = np.ndarray  # uint16 up to 15 digits, else uint32
LANES = 2048  # states that advance together: with fewer, numpy's calls cost more than their work


@dataclass(frozen=True)
class Geometry:
    """The cells of a Sudoku whose boxes have ``r`` rows and ``c`` columns.

    Args:
        n: digits, and cells of a unit.
        units: int (3, n^2), the row, the column and the box of each cell.
        cells: int (3, n, n), the cells of each unit: ``cells[kind, member, unit]``.
        peers: bool (n^2, n^2), whether two different cells exclude one another.
        dtype: of a bit mask; its highest bit is free.
    """

    n: int
    units: np.ndarray
    cells: np.ndarray
    peers: np.ndarray
    dtype: np.dtype

    @property
    def full(self) -> np.unsignedinteger:
        """All digits."""
        return self.dtype.type((1 << self.n) - 1)


@cache
def geometry(box: Box) -> Geometry:
    """Return the cells of a Sudoku by the shape of its boxes, rows x columns.

    Raises:
        ValueError: no such box, or more than 25 digits.
    """
    r, c = box
    n = r * c
    if r < 1 or c < 1 or not 1 < n <= 25:
        raise ValueError(f"A box has 2 to 25 cells, rows x columns; got {r} x {c}.")
    row, column = np.divmod(np.arange(n * n), n)
    units = np.stack([row, column, row // r * r + column // c])
    cells = np.stack([np.argsort(unit, kind="stable").reshape(n, n).T for unit in units])
    peers = (units[:, :, None] == units[:, None]).any(0) & ~np.eye(n * n, dtype=bool)
    return Geometry(n, units, cells, peers, np.dtype(np.uint16 if n < 16 else np.uint32))


def candidates(grids: np.ndarray, box: Box) -> Masks:
    """Return the states (n^2, N) of grids (N, n^2): the digit of a filled cell, all digits of a blank (0) one."""
    g = geometry(box)
    one = np.array([g.full, *(1 << np.arange(g.n))], g.dtype)
    return one[grids.T]


def digits(x: Masks) -> np.ndarray:
    """Return the grids (M, n^2) of states, uint8: 1 to n where a cell has a single candidate, else 0."""
    decided = (x & (x - 1)) == 0
    return np.where(decided, np.frexp(x.astype(np.float32))[1], 0).T.astype(np.uint8)


def popcount(x: Masks) -> Masks:
    """Return the number of bits of each mask, in the masks' own type."""
    if x.dtype == np.uint32:
        return popcount((x & 0xFFFF).astype(np.uint16)) + popcount((x >> 16).astype(np.uint16))
    x = x - ((x >> 1) & 0x5555)
    x = (x & 0x3333) + ((x >> 2) & 0x3333)
    x = (x + (x >> 4)) & 0x0F0F
    return (x + (x >> 8)) & 0x1F


@dataclass(frozen=True)
class Found:
    """What `search` found of each puzzle.

    Args:
        count: int (N,), solutions, at most the limit.
        solution: uint8 (N, n^2), one of them, digits 1 to n; zeros where there is none.
        complete: bool (N,), False where the budget of states ended the search before the limit: ``count`` may be less
            than the truth.
    """

    count: np.ndarray
    solution: np.ndarray
    complete: np.ndarray


def search(x: Masks, box: Box, limit: int = 2, budget: int | None = None) -> Found:
    """Count the solutions of each state (n^2, N), at most ``limit``.

    Args:
        x: the states, see `candidates`; kept.
        box: rows and columns of a box.
        limit: solutions after which a puzzle is done.
        budget: states of one puzzle, at most; None: as many as it takes.
    """
    g = geometry(box)
    total = x.shape[1]
    count, visited = np.zeros(total, np.int64), np.zeros(total, np.int64)
    solution, complete = np.zeros((total, g.n * g.n), np.uint8), np.ones(total, bool)
    stack = [(x, np.arange(total))]
    for x, owner in _lanes(stack):
        open_ = count[owner] < limit
        within = open_ if budget is None else open_ & (visited[owner] < budget)
        complete[owner[open_ & ~within]] = False
        if not within.all():
            x, owner = x[:, within], owner[within]
        visited += np.bincount(owner, minlength=total)
        swept, alive = sweep(x, g)
        moved = (swept != x).any(0) & alive
        stack.append((swept[:, moved], owner[moved]))
        still = alive & ~moved
        x, owner = swept[:, still], owner[still]
        cell, left = fewest(popcount(x), least=2)
        solved = left == 0
        solution[owner[solved]] = digits(x[:, solved])
        count += np.bincount(owner[solved], minlength=total)
        state, digit = _branches(x, cell, ~solved, g)
        child = x[:, state]
        child[cell[state], np.arange(len(state))] = g.dtype.type(1) << digit
        stack.append((child, owner[state]))
    return Found(np.minimum(count, limit), solution, complete)


def sweep(x: Masks, g: Geometry) -> tuple[Masks, np.ndarray]:
    """Return the states (n^2, M) after one pass of naked and hidden singles, and which of them may have a solution."""
    decided = np.where((x & (x - 1)) == 0, x, 0)
    taken, alone = np.zeros_like(x), np.zeros_like(x)
    alive = np.ones(x.shape[1], bool)
    for cells, unit in zip(g.cells, g.units, strict=True):
        members = decided[cells]
        once = np.bitwise_or.reduce(members, 0)
        alive &= (np.add.reduce(members, 0, dtype=g.dtype) == once).all(0)  # a digit twice: their sum has a carry
        taken |= once[unit]
    x = np.where(decided != 0, x, x & ~taken)
    for cells, unit in zip(g.cells, g.units, strict=True):
        once, twice = np.zeros_like(x[: g.n]), np.zeros_like(x[: g.n])
        for member in cells:
            mask = x[member]
            twice |= once & mask
            once |= mask
        alive &= (once == g.full).all(0)
        alone |= (once & ~twice)[unit]
    alone &= x
    alive &= (x != 0).all(0)
    return np.where(alone != 0, alone, x), alive


def nodes(grids: np.ndarray, box: Box, limit: int = 2) -> np.ndarray:
    """Return the placements, int (N,), that a plain search of all solutions tries: the difficulty of a puzzle.

    The search places digits alone: it takes the first of the cells with the fewest candidates left, by row, column and
    box, and tries each of them; a forced digit is a placement too. A puzzle with ``b`` blanks has at least ``b``.

    Args:
        grids: (N, n^2), digits 1 to n, 0 for a blank; givens that contradict one another are not looked for.
        box: rows and columns of a box.
        limit: solutions after which a puzzle is done; with as many or more, the number depends on the order.
    """
    g = geometry(box)
    filled = g.dtype.type(1 << (8 * g.dtype.itemsize - 1))
    clears = np.where(g.peers, g.dtype.type(np.iinfo(g.dtype).max), g.dtype.type(0))
    x = candidates(grids, box)
    given = grids.T > 0
    taken = np.zeros_like(x)
    for cells, unit in zip(g.cells, g.units, strict=True):
        taken |= np.bitwise_or.reduce(np.where(given, x, 0)[cells], 0)[unit]
    x = np.where(given, x | filled, x & ~taken)
    tried, count = np.zeros(len(grids), np.int64), np.zeros(len(grids), np.int64)
    stack = [(x, np.arange(len(grids)))]
    for x, owner in _lanes(stack):
        within = count[owner] < limit
        if not within.all():
            x, owner = x[:, within], owner[within]
        cell, left = fewest(np.where(x < filled, popcount(x & g.full), 31), least=0)
        solved = left == 31
        count += np.bincount(owner[solved], minlength=len(grids))
        state, digit = _branches(x, cell, ~solved, g)
        bit = g.dtype.type(1) << digit
        child = x[:, state]
        child &= ~(clears[:, cell[state]] & bit)
        child[cell[state], np.arange(len(state))] = bit | filled
        tried += np.bincount(owner[state], minlength=len(grids))
        stack.append((child, owner[state]))
    return tried


def _lanes(stack: list[tuple[Masks, np.ndarray]]) -> Iterator[tuple[Masks, np.ndarray]]:
    """Yield the states on top of a stack with their owners, `LANES` of them where there are so many."""
    while stack:
        parts = [stack.pop()]
        while stack and sum(len(owner) for _, owner in parts) < LANES:
            parts.append(stack.pop())
        x, owner = np.concatenate([p[0] for p in parts], 1), np.concatenate([p[1] for p in parts])
        if len(owner) > LANES:
            stack.append((x[:, LANES:], owner[LANES:]))
            x, owner = x[:, :LANES], owner[:LANES]
        if len(owner):
            yield x, owner


def fewest(left: np.ndarray, least: int) -> tuple[np.ndarray, np.ndarray]:
    """Return for each state the first cell with the fewest candidates of those with at least ``least``, and how many;
    0 where there is no such cell."""
    places = len(left).bit_length()
    kind = np.dtype(np.uint16 if places + 5 <= 16 else np.uint32)
    key: np.ndarray = left.astype(kind) << kind.type(places)
    key |= np.arange(len(left), dtype=key.dtype)[:, None]
    if least:
        key[left < least] = np.iinfo(key.dtype).max
    best = key.min(0)
    cell = (best & ((1 << places) - 1)).astype(np.int64)
    none = best == np.iinfo(key.dtype).max
    return np.where(none, 0, cell), np.where(none, 0, best >> places)


def _branches(x: Masks, cell: np.ndarray, wanted: np.ndarray, g: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """Return state and digit of each candidate of the chosen cells."""
    mask = np.where(wanted, x[cell, np.arange(len(cell))], 0) & g.full
    state, digit = np.nonzero((mask[:, None] >> np.arange(g.n, dtype=g.dtype)) & 1)
    return state, digit.astype(g.dtype)
