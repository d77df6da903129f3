"""Ask reasoners about puzzles: the grid, whether the solve settled, and whether the answer keeps the rules."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from zoo.data import DATA
from zoo.data.puzzles.base import PuzzleData
from zoo.data.puzzles.maze import check_maze, format_maze, parse_maze
from zoo.data.puzzles.mazes import Mazes
from zoo.data.puzzles.rules import maze_solved, sudoku_agrees, sudoku_solved
from zoo.data.puzzles.search import Box
from zoo.data.puzzles.sudoku import SudokuData
from zoo.data.puzzles.text import BOXES, check_sudoku, format_sudoku, parse_sudoku
from zoo.hub.answers import Answer, Solved
from zoo.hub.inputs import Inputs
from zoo.hub.trained import trained_config
from zoo.layers.grids import check_grids
from zoo.storage.guards import MiB, read_file

LARGEST = 64 * MiB  # of a file of puzzles


class Form(ABC):
    """How a kind of puzzle is read, checked and written."""

    @abstractmethod
    def parse(self, text: str) -> Tensor:
        """Return the givens (H, W) of a text, or raise ValueError."""

    @abstractmethod
    def check(self, givens: Tensor) -> None:
        """Raise ValueError where givens (H, W), int64, are no puzzle or cannot have an answer."""

    @abstractmethod
    def right(self, givens: Tensor, answer: Tensor) -> Tensor:
        """Return which answers (B, H, W), of classes, keep the rules and agree with the givens: bool (B,)."""

    @abstractmethod
    def write(self, givens: Tensor, answer: Tensor | None = None) -> str:
        """Return lines of text of givens (H, W), or of their answer (H, W), of classes."""


@dataclass(frozen=True)
class SudokuForm(Form):
    """Sudokus, of other sizes than the data's too; a frame around the boxes does not count."""

    own: Box

    def box(self, cells: int) -> Box:
        if cells == (self.own[0] * self.own[1]) ** 2:
            return self.own
        if cells not in BOXES:
            raise ValueError(f"a Sudoku has {', '.join(map(str, BOXES))} cells; got {cells}.")
        return BOXES[cells]

    def parse(self, text: str) -> Tensor:
        lines = [line for line in text.splitlines() if line.strip(" -+|")]
        return torch.from_numpy(parse_sudoku("\n".join(lines).replace("|", " "))).long()

    def check(self, givens: Tensor) -> None:
        check_sudoku(givens.numpy(), self.box(givens.numel()))

    def right(self, givens: Tensor, answer: Tensor) -> Tensor:
        return sudoku_solved(answer, self.box(givens[0].numel())) & sudoku_agrees(givens, answer)

    def write(self, givens: Tensor, answer: Tensor | None = None) -> str:
        rows, columns = self.box(givens.numel())
        grid = format_sudoku((givens if answer is None else answer + 1).numpy()).splitlines()
        n = len(grid)
        lines = [" | ".join(" ".join(line[j : j + columns]) for j in range(0, n, columns)) for line in grid]
        frame = "+".join("-" * len(part) for part in lines[0].split("|"))
        return f"\n{frame}\n".join("\n".join(lines[i : i + rows]) for i in range(0, n, rows))


@dataclass(frozen=True)
class MazeForm(Form):
    """Mazes, in lines of ``#`` wall, ``S`` start, ``G`` goal; a slash ends a line too."""

    def parse(self, text: str) -> Tensor:
        return torch.from_numpy(parse_maze(text.replace("/", "\n"))).long()

    def check(self, givens: Tensor) -> None:
        check_grids(givens[None], Mazes.symbols)
        check_maze(givens.numpy())

    def right(self, givens: Tensor, answer: Tensor) -> Tensor:
        return maze_solved(givens, answer)

    def write(self, givens: Tensor, answer: Tensor | None = None) -> str:
        return format_maze(givens.numpy(), None if answer is None else answer.numpy())


def form_of(data: PuzzleData) -> Form | None:
    """Return how puzzles of a data set are written; None where nothing is known of it."""
    if isinstance(data, SudokuData):
        return SudokuForm(data.box)
    return MazeForm() if isinstance(data, Mazes) else None


@dataclass(frozen=True, repr=False)
class Reasoned(Answer):
    """What a reasoner says about a puzzle. As text it is the grid.

    A small `residual` is the sign of a right answer that needs no rules: see the ROC area of ``zoo.evaluate``.

    Attributes:
        grid: (H, W) the answer in classes: of a Sudoku the digit less one, of a maze 1 on the way.
        givens: (H, W) the puzzle.
        text: the answer in lines, as the puzzle is written.
        puzzle: the puzzle in lines.
        right: whether the answer keeps the rules and agrees with the givens.
        confidence: the least probability of a cell's symbol.
    """

    columns: ClassVar[tuple[str, ...]] = ("givens", "grid", "right", "confidence")

    grid: Tensor
    givens: Tensor
    text: str
    puzzle: str
    right: bool
    confidence: float

    def __str__(self) -> str:
        if self.error:
            return f"not read: {self.error}"
        return self.text + ("" if self.right else "\n(breaks the rules)") + self._told()

    def __repr__(self) -> str:
        if self.error:
            return f"Reasoned(error={self.error!r})"
        told = f"right={self.right}, converged={self.converged}, residual={self.residual:.2g}"
        return f"Reasoned({_joined(self.text)!r}, {told}, confidence={self.confidence:.4f})"

    def rows(self) -> list[dict[str, Any]]:
        if self.error:
            return [self._line({})]
        told = {"right": str(self.right).lower(), "confidence": f"{self.confidence:.6f}"}
        return [self._line({"givens": _joined(self.puzzle), "grid": _joined(self.text), **told})]


class Puzzles(Inputs):
    """Puzzles for a reasoner.

    Args:
        given: a puzzle as text (a Sudoku row by row, ``"53..7....6..195..."``; a maze in lines of ``#``, ``S``, ``G``),
            a grid of numbers (H, W), several (B, H, W), a list of either, or a text file with one a line.
    """

    noun = "puzzle"

    def __init__(self, model: nn.Module, given: Any, top: int) -> None:
        super().__init__(model, top)
        saved = trained_config(model)
        name = saved.name.partition(".")[2] if saved is not None else ""
        data = DATA[name]() if name in DATA and DATA.entry(name).kind == "reasoning" else None
        form = form_of(data) if isinstance(data, PuzzleData) else None
        if form is None:
            raise ValueError(
                f"The puzzles of {name or type(model).__name__!r} are of no kind that is read and checked here "
                f"(Sudokus, mazes). Call the model on tensors as {type(model).__name__} takes them."
            )
        self.form = form
        self.items, self.sources, self.several = _puzzles(given)

    def source(self, i: int) -> str:
        return self.sources[i]

    def prepare(self, i: int) -> tuple[Tensor, ...]:
        item = self.items[i]
        givens = self.form.parse(item) if isinstance(item, str) else torch.as_tensor(item).cpu()
        check_grids(givens[None])
        self.form.check(givens.long())
        return (givens.long()[None],)

    def ask(self, batch: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        givens = batch[0].to(self.device)
        best, answer = self.model(givens).float().softmax(-1).max(-1)
        return givens, answer, best.flatten(1).amin(1), self.form.right(givens, answer)

    def answer(self, out: tuple[Tensor, ...], i: int, solved: Solved) -> Answer:
        givens, grid, confidence, right = out
        text, puzzle = self.form.write(givens, grid), self.form.write(givens)
        source = self.source(i)
        return Reasoned(grid, givens, text, puzzle, bool(right), float(confidence), source=source, **vars(solved))

    def unread(self, i: int, error: str) -> Answer:
        none = torch.zeros(0, 0, dtype=torch.long)
        return Reasoned(none, none, "", "", False, 0.0, converged=False, source=self.source(i), error=error)

    def columns(self) -> tuple[str, ...]:
        return Reasoned.columns


def _joined(text: str) -> str:
    """Lines of a puzzle as one line, which is read again: a Sudoku without spaces and frames, a maze with slashes."""
    if "#" in text:
        return text.replace("\n", "/")
    return "".join(line for line in text.split("\n") if line.strip("-+")).replace(" ", "").replace("|", "")


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
