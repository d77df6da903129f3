"""Mazes on a grid of odd side: rooms at the odd places, walls around them, one shortest way from start to goal.

All mazes of a call grow together, one room a step: depth-first search, which gives long winding ways.

Letters: ``N`` mazes, ``S`` cells a side, ``k = (S - 1) / 2`` rooms a side.
"""

from __future__ import annotations

import numpy as np

FREE, WALL, START, GOAL = range(4)
SYMBOLS = " #SG"
STEPS = np.array([(-1, 0), (0, 1), (1, 0), (0, -1)])


class MazeError(ValueError):
    """A maze that cannot be read, or has no way from start to goal."""


def carve(count: int, side: int, random: np.random.Generator) -> np.ndarray:
    """Return perfect mazes (count, S, S), bool, True for a wall: one way, and one only, between any two rooms.

    Raises:
        MazeError: a side that is even, or leaves less than two rooms a side.
    """
    k = _rooms(side)
    walls = np.ones((count, side, side), bool)
    walls[:, 1::2, 1::2] = False
    flat = walls.reshape(count, -1)
    each = np.arange(count)
    seen = np.ones((count, (k + 2) * (k + 2)), bool)  # a frame of rooms that were seen: no way leads there
    seen.reshape(count, k + 2, k + 2)[:, 1:-1, 1:-1] = False
    offsets = STEPS @ (k + 2, 1)
    way = np.zeros((count, k * k), np.int64)  # the rooms from the first to the present one
    depth = np.zeros(count, np.int64)
    first = random.integers(0, k, (2, count)) + 1
    way[:, 0] = first[0] * (k + 2) + first[1]
    seen[each, way[:, 0]] = True
    for _ in range(2 * (k * k - 1)):  # each room but the first is entered once, and left once at most
        room = way[each, depth]
        fresh = ~seen[each[:, None], room[:, None] + offsets]
        choice = (fresh * (1 - random.random(fresh.shape))).argmax(1)
        ahead = fresh.any(1)
        go = each[ahead]
        row, column = np.divmod(room[ahead], k + 2)
        step = STEPS[choice[ahead]]
        flat[go, (2 * row - 1 + step[:, 0]) * side + 2 * column - 1 + step[:, 1]] = False
        target = room[ahead] + offsets[choice[ahead]]
        seen[go, target] = True
        depth = np.maximum(np.where(ahead, depth + 1, depth - 1), 0)
        way[go, depth[ahead]] = target
    return walls


def open_walls(walls: np.ndarray, share: float, random: np.random.Generator) -> np.ndarray:
    """Return mazes with a share of the walls between neighboring rooms taken down at random, which makes loops."""
    row, column = np.indices(walls.shape[1:])
    inner = (np.minimum(row, column) > 0) & (np.maximum(row, column) < walls.shape[1] - 1)
    between = inner & ((row + column) % 2 == 1)
    return walls & ~(between & (random.random(walls.shape) < share))


def place_ends(walls: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return mazes (N, S, S), uint8 symbols, with start and goal in two different rooms drawn evenly."""
    count, side = len(walls), walls.shape[1]
    k = _rooms(side)
    start = random.integers(0, k * k, count)
    goal = (start + random.integers(1, k * k, count)) % (k * k)
    mazes = np.where(walls, WALL, FREE).astype(np.uint8)
    for room, symbol in ((start, START), (goal, GOAL)):
        mazes[np.arange(count), 2 * (room // k) + 1, 2 * (room % k) + 1] = symbol
    return mazes


def distances(passable: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """Return the steps from the origins to each cell, int (N, H, W); -1 where no way leads.

    Args:
        passable: bool (N, H, W).
        origin: bool (N, H, W).
    """
    found = np.where(origin, 0, -1)
    front, step = np.pad(origin, ((0, 0), (1, 1), (1, 1))), 0
    left = np.pad(passable & ~origin, ((0, 0), (1, 1), (1, 1)))
    while front.any():
        step += 1
        near = np.zeros_like(front)
        near[:, 1:] |= front[:, :-1]
        near[:, :-1] |= front[:, 1:]
        near[:, :, 1:] |= front[:, :, :-1]
        near[:, :, :-1] |= front[:, :, 1:]
        front = near & left
        left &= ~front
        found[front[:, 1:-1, 1:-1]] = step
    return found


def shortest_paths(mazes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the cells of a shortest way from start to goal, uint8 (N, H, W), and its steps, int (N,); -1 for no way.

    Start and goal belong to the way. Of several shortest ways the one is taken that, from the goal, goes up rather than
    right, right rather than down, and down rather than left.
    """
    away = distances(mazes != WALL, mazes == START)
    each = np.arange(len(mazes))
    row, column = np.divmod((mazes == GOAL).reshape(len(mazes), -1).argmax(1), mazes.shape[2])
    steps = away[each, row, column]
    padded = np.pad(away, ((0, 0), (1, 1), (1, 1)), constant_values=-1)
    answer = np.zeros_like(mazes)
    left = steps.copy()
    while len(each):
        going = left[each] >= 0
        each, row, column = each[going], row[going], column[going]
        answer[each, row, column] = 1
        left[each] -= 1
        around = padded[each[:, None], row[:, None] + 1 + STEPS[:, 0], column[:, None] + 1 + STEPS[:, 1]]
        choice = (around == left[each][:, None]).argmax(1)
        row, column = row + STEPS[choice, 0], column + STEPS[choice, 1]
    return answer, steps


def parse_maze(text: str) -> np.ndarray:
    """Return a maze (H, W), uint8 symbols, from lines of ``#`` wall, ``S`` start, ``G`` goal, blank or ``.`` free.

    Raises:
        MazeError: an unknown symbol, lines of unequal length, an even side, not one start and one goal, no way.

    Example:
        >>> parse_maze("#####\\n#S #G\\n#   #\\n#####")
        Traceback (most recent call last):
        zoo.data.puzzles.maze.MazeError: A maze has an odd number of rows and of columns; got 4 x 5.
    """
    lines = [line.rstrip("\r").replace(".", " ") for line in text.strip("\n").split("\n")]
    width = max(map(len, lines))
    lines = [line.ljust(width) for line in lines]
    for row, line in enumerate(lines):
        for column, symbol in enumerate(line):
            if symbol not in SYMBOLS:
                raise MazeError(
                    f"A maze has the symbols '#', 'S', 'G' and blank or '.'; got {symbol!r} in row {row + 1}, column "
                    f"{column + 1}."
                )
    maze = np.array([[SYMBOLS.index(symbol) for symbol in line] for line in lines], np.uint8).reshape(-1, width)
    check_maze(maze)
    return maze


def format_maze(maze: np.ndarray, answer: np.ndarray | None = None) -> str:
    """Return a maze (H, W) as lines, with ``*`` on the cells that an answer (H, W) marks."""
    symbols = np.array(list(SYMBOLS))[maze]
    if answer is not None:
        symbols = np.where((maze == FREE) & (answer == 1), "*", symbols)
    return "\n".join("".join(line).rstrip() for line in symbols)


def check_maze(maze: np.ndarray) -> None:
    """Raise MazeError, with what to do next, where a maze (H, W) of symbols is none, or has no way to its goal."""
    height, width = maze.shape
    if height % 2 == 0 or width % 2 == 0:
        raise MazeError(f"A maze has an odd number of rows and of columns; got {height} x {width}.")
    for symbol, name in ((START, "start, S"), (GOAL, "goal, G")):
        if (many := int((maze == symbol).sum())) != 1:
            raise MazeError(f"A maze has one {name}; got {many}.")
    away = distances((maze != WALL)[None], (maze == START)[None])
    if away[0][maze == GOAL] < 0:
        raise MazeError(
            f"No way leads from the start to the goal: {int((away >= 0).sum())} of {int((maze != WALL).sum())} free "
            "cells can be reached. Open a wall."
        )


def _rooms(side: int) -> int:
    if side % 2 == 0 or side < 5:
        raise MazeError(
            f"A maze has an odd number of cells a side, at least 5; got {side}. Take {max(5, side + 1 - side % 2)}."
        )
    return (side - 1) // 2
