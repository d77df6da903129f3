"""Mazes: trees without loops, shortest ways, their check by the rules, texts, splits."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zoo.data import DATA
from zoo.data.puzzles.maze import (
    GOAL,
    START,
    WALL,
    MazeError,
    carve,
    distances,
    format_maze,
    open_walls,
    parse_maze,
    place_ends,
    shortest_paths,
)
from zoo.data.puzzles.mazes import MazeSymmetry, same_mazes
from zoo.data.puzzles.rules import maze_solved

SIZES = {"train_size": 30, "val_size": 10, "test_size": 10}
SIDES = st.integers(2, 8).map(lambda k: 2 * k + 1)
SMALL = """
#####
#S  #
# # #
#  G#
#####
"""


def steps(maze: np.ndarray) -> int:
    """Return the steps of a shortest way, by a queue; -1 where there is none."""
    start, goal = (tuple(int(i[0]) for i in np.nonzero(maze == symbol)) for symbol in (START, GOAL))
    queue, far = deque([start]), {start: 0}
    while queue:
        row, column = queue.popleft()
        for r, c in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
            inside = 0 <= r < maze.shape[0] and 0 <= c < maze.shape[1]
            if inside and (r, c) not in far and maze[r, c] != WALL:
                far[r, c] = far[row, column] + 1
                queue.append((r, c))
    return far.get(goal, -1)


def drawn(count: int, side: int, seed: int, loops: float = 0.0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return place_ends(open_walls(carve(count, side, random), loops, random), random)


@given(SIDES, st.integers(0, 10**6))
def test_carved_mazes_are_trees(side, seed):
    walls = carve(5, side, np.random.default_rng(seed))
    assert walls[:, [0, -1]].all() and walls[:, :, [0, -1]].all() and not walls[:, 1::2, 1::2].any()
    rooms = ((side - 1) // 2) ** 2
    assert ((~walls).sum((1, 2)) == 2 * rooms - 1).all()  # rooms and one door fewer: with all connected, a tree
    origin = np.zeros_like(walls)
    origin[:, 1, 1] = True
    assert ((distances(~walls, origin) >= 0) == ~walls).all()


@given(SIDES, st.integers(0, 10**6), st.sampled_from([0.0, 0.3, 1.0]))
def test_answers_are_shortest_ways(side, seed, loops):
    mazes = drawn(4, side, seed, loops)
    answer, length = shortest_paths(mazes)
    assert ((mazes == START).sum((1, 2)) == 1).all() and ((mazes == GOAL).sum((1, 2)) == 1).all()
    assert length.tolist() == [steps(maze) for maze in mazes]
    givens, marked = torch.from_numpy(mazes).long(), torch.from_numpy(answer).long()
    assert maze_solved(givens, marked).all()
    cells = marked.flatten(1)
    for cell in {0, side + 1, side * side // 2, 7 * seed % (side * side)}:  # one cell more or less is wrong
        other = cells.clone()
        other[2, cell] ^= 1
        assert maze_solved(givens, other.view_as(marked)).tolist() == [True, True, False, True]


def test_every_shortest_way_is_right_and_no_longer_one():
    maze = torch.from_numpy(parse_maze(SMALL)).long()[None]
    ways = {"right": [(1, 1), (1, 2), (1, 3), (2, 3), (3, 3)], "down": [(1, 1), (2, 1), (3, 1), (3, 2), (3, 3)]}
    for cells in ways.values():
        answer = torch.zeros_like(maze)
        for row, column in cells:
            answer[0, row, column] = 1
        assert maze_solved(maze, answer).item()
        answer[0, 1, 1] = 0
        assert not maze_solved(maze, answer).item()
    assert not maze_solved(maze, torch.zeros_like(maze)).item()
    assert not maze_solved(maze, torch.ones_like(maze)).item()
    through = torch.zeros_like(maze)
    through[0, [1, 2, 3, 3, 1], [1, 2, 3, 2, 2]] = 1  # as many cells, through the wall in the middle
    assert not maze_solved(maze, through).item()


def test_a_maze_without_a_way_has_no_answer():
    maze = np.array([[[START, WALL, GOAL]]], np.uint8)
    answer, length = shortest_paths(maze)
    assert length.tolist() == [-1] and not answer.any()
    assert not maze_solved(torch.from_numpy(maze), torch.tensor([[[1, 0, 1]]])).item()


def test_texts_are_read_and_written():
    maze = parse_maze(SMALL)
    assert maze.shape == (5, 5) and (parse_maze(format_maze(maze)) == maze).all()
    assert (parse_maze(SMALL.replace(" ", ".")) == maze).all()
    (answer,), _ = shortest_paths(maze[None])
    assert format_maze(maze, answer).count("*") == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("###\n#S \n#G#\n###", "odd number of rows and of columns; got 4 x 3"),
        ("###\n#x#\n###", "got 'x' in row 2, column 2"),
        ("#####\n#S  #\n#####", "one goal, G; got 0"),
        ("#####\n#SGS#\n#####", "one start, S; got 2"),
        ("#####\n#S#G#\n#####", "No way leads .* 1 of 2 free cells can be reached. Open a wall"),
        ("#S#\n\u00e4", "got '\u00e4'"),
    ],
)
def test_what_is_no_maze_is_named(text, message):
    with pytest.raises(MazeError, match=message):
        parse_maze(text)


@pytest.mark.parametrize(("side", "take"), [(10, 11), (4, 5), (3, 5), (0, 5), (-1, 5)])
def test_a_side_that_no_maze_has_is_refused(side, take):
    with pytest.raises(MazeError, match=f"at least 5; got {side}. Take {take}"):
        carve(1, side, np.random.default_rng(0))
    for name in ("side", "test_side"):
        with pytest.raises(ValueError, match=f"{name} must be odd and at least 5; got {side}"):
            DATA["mazes"](**{name: side})


@given(st.integers(0, 10**6))
def test_relatives_keep_their_way(seed):
    mazes = drawn(6, 9, seed)
    answer, length = shortest_paths(mazes)
    x, y = MazeSymmetry()(torch.from_numpy(mazes), torch.from_numpy(answer), torch.Generator().manual_seed(seed))
    assert maze_solved(x, y).all() and (shortest_paths(x.numpy())[1] == length).all()
    assert same_mazes(x.numpy()) == same_mazes(mazes)
    swapped = np.where(mazes == START, GOAL, np.where(mazes == GOAL, START, mazes)).astype(np.uint8)
    assert same_mazes(swapped) == same_mazes(mazes)


def test_splits_share_no_maze_and_have_their_own_side():
    data = DATA["mazes"](**SIZES, test_side=11)
    marks = []
    for split in ("train", "val", "test"):
        x, y = data.split(split)
        assert data.check(x, y).all() and (data.difficulty(split) == y.sum((1, 2)) - 1).all()
        marks += same_mazes(x.numpy().astype(np.uint8))
    assert len(set(marks)) == 50
    data = DATA["mazes"](**SIZES, side=7, test_side=13, test_loops=0.5)
    assert data.split("train")[0].shape == (30, 7, 7) and data.split("test")[0].shape == (10, 13, 13)
    assert data.check(*data.split("test")).all()


def test_more_mazes_than_there_are_is_an_error():
    with pytest.raises(ValueError, match=r"Mazes: found only \d+ puzzles .* 2756 are wanted.* for a larger side"):
        DATA["mazes"](side=5, test_side=5).setup()


def test_batches_are_drawn_by_seed_epoch_and_number():
    data = DATA["mazes"](**SIZES, batch_size=10)
    loader, late = data.train_dataloader(), DATA["mazes"](**SIZES, batch_size=10).train_dataloader()
    epochs = [list(loader) for _ in range(2)]
    late.set_epoch(1)
    assert all(torch.equal(x, a) and torch.equal(y, b) for (x, y), (a, b) in zip(epochs[1], late, strict=True))
    assert not torch.equal(epochs[0][0][0], epochs[1][0][0])
