"""Ask reasoners about puzzles: the grid, whether the solve settled, and whether the answer keeps the rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from zoo.data import DATA
from zoo.data.puzzles.base import PuzzleData
from zoo.data.puzzles.notation import format_sudoku, parse_sudoku, refuse_contradictions
from zoo.data.puzzles.rules import sudoku_agrees, sudoku_solved
from zoo.data.puzzles.search import Box
from zoo.data.puzzles.sudoku import SudokuData
from zoo.hub.answers import Answer, Solved
from zoo.hub.inputs import Inputs
from zoo.hub.trained import trained_config
from zoo.layers.grids import check_grids
from zoo.storage.guards import MiB, read_file

LARGEST = 64 * MiB  # of a file of puzzles


@dataclass(frozen=True, repr=False)
class Reasoned(Answer):
    """What a reasoner says about a puzzle. As text it is the grid.

    A small `residual` is the sign of a right answer that needs no rules: see the ROC area of ``zoo.evaluate``.

    Attributes:
        grid: (H, W) the answer, in the symbols of the givens for a Sudoku (1 to n), else in classes.
        givens: (H, W) the puzzle.
        right: whether the answer keeps the rules and agrees with the givens.
        confidence: the least probability of a cell's symbol.
        box: rows and columns of a box, of a Sudoku.
    """

    columns: ClassVar[tuple[str, ...]] = ("givens", "grid", "right", "confidence")

    grid: Tensor
    givens: Tensor
    right: bool
    confidence: float
    box: Box | None = None

    def __str__(self) -> str:
        if self.error:
            return f"not read: {self.error}"
        left = [] if self.right else ["(breaks the rules)"]
        return "\n".join([_text(self.grid, self.box), *left]) + self._told()

    def __repr__(self) -> str:
        if self.error:
            return f"Reasoned(error={self.error!r})"
        told = f"right={self.right}, converged={self.converged}, residual={self.residual:.2g}"
        return f"Reasoned({_line(self.grid)!r}, {told}, confidence={self.confidence:.4f})"

    def rows(self) -> list[dict[str, Any]]:
        if self.error:
            return [self._line({})]
        told = {"right": str(self.right).lower(), "confidence": f"{self.confidence:.6f}"}
        return [self._line({"givens": _line(self.givens), "grid": _line(self.grid), **told})]


class Puzzles(Inputs):
    """Puzzles for a reasoner.

    Args:
        given: a Sudoku as text (``"53..7....6..195..."``, row by row), a grid of numbers (H, W), several (B, H, W), a
            list of either, or a text file with a Sudoku a line.
    """

    noun = "puzzle"

    def __init__(self, model: nn.Module, given: Any, top: int) -> None:
        super().__init__(model, top)
        saved = trained_config(model)
        name = saved.name.partition(".")[2] if saved is not None else ""
        data = DATA[name]() if name in DATA and DATA.entry(name).kind == "reasoning" else None
        if not isinstance(data, PuzzleData):
            raise ValueError(f"{name or type(model).__name__!r} is no data set of puzzles: their rules are not known.")
        self.data = data
        self.items, self.sources, self.several = _puzzles(given)

    def source(self, i: int) -> str:
        return self.sources[i]

    def box(self, n: int) -> Box:
        """Rows and columns of a box in Sudokus n x n: the data's; of another size as square as can be."""
        own: Box = self.data.box  # type: ignore[attr-defined]  # of SudokuData, which asks
        rows = next(r for r in range(int(n**0.5), 0, -1) if n % r == 0)
        return own if own[0] * own[1] == n else (rows, n // rows)

    def prepare(self, i: int) -> tuple[Tensor, ...]:
        item = self.items[i]
        sudoku = isinstance(self.data, SudokuData)
        if isinstance(item, str):
            if not sudoku:
                raise ValueError(f"a puzzle of {type(self.data).__name__} is a grid of numbers (H, W); got a text.")
            givens = parse_sudoku(item)
        else:
            givens = torch.as_tensor(item)
        check_grids(givens[None], givens.shape[-1] + 1 if sudoku else self.data.symbols)
        if sudoku:
            n = givens.shape[-1]
            if givens.shape[0] != n:
                raise ValueError(f"a Sudoku is n x n; got {tuple(givens.shape)}.")
            refuse_contradictions(givens, self.box(n))
        return (givens.long()[None],)

    def ask(self, batch: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        givens = batch[0].to(self.device)
        chances = self.model(givens).float().softmax(-1)
        best, answer = chances.max(-1)
        return givens, answer, best.flatten(1).amin(1), self._right(givens, answer)

    def _right(self, givens: Tensor, answer: Tensor) -> Tensor:
        if isinstance(self.data, SudokuData):  # of any size
            return sudoku_solved(answer, self.box(givens.shape[-1])) & sudoku_agrees(givens, answer)
        return self.data.check(givens, answer)

    def answer(self, out: tuple[Tensor, ...], i: int, solved: Solved) -> Answer:
        givens, answer, confidence, right = out
        sudoku = isinstance(self.data, SudokuData)
        grid, box = (answer + 1, self.box(givens.shape[-1])) if sudoku else (answer, None)
        return Reasoned(grid, givens, bool(right), float(confidence), box, source=self.source(i), **vars(solved))

    def unread(self, i: int, error: str) -> Answer:
        none = torch.zeros(0, 0, dtype=torch.long)
        return Reasoned(none, none, False, 0.0, converged=False, source=self.source(i), error=error)

    def columns(self) -> tuple[str, ...]:
        return Reasoned.columns


def _text(grid: Tensor, box: Box | None) -> str:
    return format_sudoku(grid, box) if box else "\n".join(" ".join(map(str, row)) for row in grid.tolist())


def _line(grid: Tensor) -> str:
    """A grid in one line, a sign for each cell."""
    return "".join(format_sudoku(grid).split())


def _puzzles(given: Any) -> tuple[Sequence[Any], list[str], bool]:
    """The puzzles, where each stands, and whether several were asked about."""
    if isinstance(given, (str, Path)):
        place = Path(given) if isinstance(given, Path) or (len(given) < 1024 and "\n" not in given) else None
        if place is not None and place.is_file():
            lines = [(line, f"{place}:{k}") for k, line in enumerate(_lines(place), 1) if line.strip()]
            if not lines:
                raise ValueError(f"{place} holds no puzzles: one a line is expected.")
            return [line for line, _ in lines], [source for _, source in lines], True
        if isinstance(given, Path):
            raise FileNotFoundError(f"{given} does not exist, or is no file of puzzles.")
        return [given], [""], False
    if (
        isinstance(given, (list, tuple))
        and given
        and all(isinstance(p, str) or getattr(p, "ndim", 0) == 2 for p in given)
    ):
        return list(given), [""] * len(given), True
    grids = torch.as_tensor(given) if not isinstance(given, (list, tuple)) or given else None
    if grids is None or grids.dim() not in (2, 3) or not grids.numel():
        got = f"the shape {tuple(grids.shape)}" if grids is not None else "an empty list"
        raise ValueError(f"A puzzle is a text or a grid of numbers (H, W), several are (B, H, W) or a list; got {got}.")
    several = grids.dim() == 3
    return list(grids if several else grids[None]), [""] * (len(grids) if several else 1), several


def _lines(file: Path) -> list[str]:
    try:
        return read_file(file, LARGEST).decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is no text in UTF-8: byte {error.start} cannot be decoded.") from error
