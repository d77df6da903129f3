"""Whether an answer is right by the rules of its puzzle, whatever the reference answer is.

Shape letters: ``B`` puzzles, ``H W`` rows and columns.
"""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.data.puzzles.maze import GOAL, START, WALL, distances
from zoo.data.puzzles.search import Box, geometry


def sudoku_solved(answer: Tensor, box: Box) -> Tensor:
    """Return whether every row, column and box holds every digit: bool (B,).

    Args:
        answer: int (B, n, n), classes 0 to n - 1 (the digit less one).
        box: rows and columns of a box.

    Example:
        >>> grid = torch.tensor([[[0, 1, 2, 3], [2, 3, 0, 1], [1, 0, 3, 2], [3, 2, 1, 0]]])
        >>> sudoku_solved(grid, (2, 2)).item(), sudoku_solved(grid * 0, (2, 2)).item()
        (True, False)
    """
    g = geometry(box)
    cells = torch.from_numpy(g.cells).to(answer.device)  # (3, member, unit)
    members = answer.flatten(1)[:, cells]
    return (members.sort(2).values == torch.arange(g.n, device=answer.device)[:, None]).flatten(1).all(1)


def sudoku_agrees(givens: Tensor, answer: Tensor) -> Tensor:
    """Return whether an answer (B, n, n), of classes, has every given (digits 1 to n, 0 for a blank): bool (B,)."""
    return ((givens == 0) | (givens == answer + 1)).flatten(1).all(1)


def sudoku_contradictions(givens: Tensor, box: Box) -> Tensor:
    """Return the pairs of equal givens that see one another, int (K, 3): the puzzle and its two cells ``row n + col``.

    Args:
        givens: int (B, n, n), digits 1 to n, 0 for a blank.
        box: rows and columns of a box.
    """
    peers = torch.from_numpy(geometry(box).peers).to(givens.device).triu()
    flat = givens.flatten(1)
    return ((flat[:, :, None] == flat[:, None]) & (flat[:, :, None] > 0) & peers).nonzero()


def maze_solved(givens: Tensor, answer: Tensor) -> Tensor:
    """Return whether an answer marks a shortest way from start to goal, and nothing else: bool (B,).

    Args:
        givens: int (B, H, W), 0 free, 1 wall, 2 start, 3 goal.
        answer: int (B, H, W), 1 on the way, both ends included, else 0.

    Example:
        >>> maze = torch.tensor([[[2, 0, 0], [0, 1, 0], [0, 0, 3]]])
        >>> one, both = torch.tensor([[[1, 1, 1], [0, 0, 1], [0, 0, 1]]]), (maze != 1).long()
        >>> maze_solved(maze, one).item(), maze_solved(maze, both).item()
        (True, False)
    """
    maze, marked = givens.cpu().numpy(), (answer == 1).cpu().numpy()
    start, goal = maze == START, (maze == GOAL)
    least, marked_way = (distances(passable, start)[goal] for passable in (maze != WALL, marked & (maze != WALL)))
    # as many cells as a shortest way has, and a way among them: they are that way
    right = (marked_way >= 0) & (marked.sum((1, 2)) == least + 1) & (marked & start).any((1, 2))
    return torch.from_numpy(right).to(answer.device)
