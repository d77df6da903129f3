"""Asking a reasoner about puzzles: texts, grids and files, what is refused before a solve, and what an answer says."""

from __future__ import annotations

import csv
import importlib
import warnings

import numpy as np
import pytest
import torch
import yaml
from torch import nn

import zoo
from zoo.data.puzzles.maze import shortest_paths
from zoo.data.puzzles.search import candidates, search
from zoo.data.puzzles.text import parse_sudoku
from zoo.deq.reasoner.base import Reasoner
from zoo.hub import cards
from zoo.hub.reason import Reasoned, SudokuForm
from zoo.hub.trained import set_trained_config
from zoo.layers.equivariant import EquivariantCell
from zoo.layers.grids import GridCell, GridHead
from zoo.storage.model_folder import Config

PUZZLE = "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79"
ANSWER = "534678912672195348198342567859761423426853791713924856961537284287419635345286179"
SMALL = "1..4 ..1. .1.. 4..1"


class Known(GridCell):
    """A map that goes to the answer that a search has found; of a puzzle without one it walks on for ever."""

    def inject(self, givens):
        n = givens.shape[-1]
        box = EquivariantCell(1).box_of(n)
        found = search(candidates(givens.flatten(1).numpy().astype(np.uint8), box), box)
        solution = torch.from_numpy(found.solution).long()
        return nn.functional.one_hot(solution, n + 1)[..., 1:].float() * (solution > 0)[..., None]

    def state_shape(self, givens):
        n = givens.shape[-1]
        return n * n, n

    def forward(self, z, e):
        step = torch.where((e == 0).flatten(1).all(1)[:, None, None], 1.0, 0.0)
        return 0.1 * z + 0.9 * e + step * (1 + 0.9 * z)

    def head(self):
        return Times()


class Times(GridHead):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(9.0))

    def forward(self, z, givens):
        return (self.scale * z).view(*givens.shape, -1)


class KnownReasoner(Reasoner):
    def __init__(self):
        super().__init__(Known())


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.setattr(cards, "_cards", dict(cards.all_cards()))
    card = {
        "family": "known", "class": f"{__name__}:KnownReasoner", "task": "zoo.tasks.reasoning:Reasoning",
        "summary": "for these tests", "data": ["sudoku9", "sudoku6", "sudoku4"], "variants": {"test_known": {}},
        "solver": {"name": "picard"}, "adjoint": {"name": "unroll"},
    }  # fmt: skip
    (tmp_path / "known.yaml").write_text(yaml.safe_dump(card))
    cards.register_card(tmp_path / "known.yaml")
    return named(KnownReasoner().eval())


def named(model, data="sudoku9"):
    set_trained_config(model, Config(name=f"test_known.{data}", model={}, weights={"sha256": ""}))
    return model


def test_a_sudoku_is_answered_by_its_grid(model):
    found = zoo.predict(model, PUZZLE)
    assert "".join(str(1 + v) for v in found.grid.flatten().tolist()) == ANSWER
    assert found.right and found.converged and found.residual < 1e-4 and found.confidence > 0.99
    lines = str(found).splitlines()
    assert lines[0] == "5 3 4 | 6 7 8 | 9 1 2" and lines[3] == "------+-------+------" and len(lines) == 11
    assert repr(found).startswith(f"Reasoned('{ANSWER}', right=True, converged=True, residual=")


@pytest.mark.parametrize(
    "written",
    [
        "\n".join(PUZZLE[i : i + 9] for i in range(0, 81, 9)),
        PUZZLE.replace(".", "0"),
        str(parse_sudoku(PUZZLE).tolist()).translate(str.maketrans("", "", "[], ")),
        torch.from_numpy(parse_sudoku(PUZZLE)),
        parse_sudoku(PUZZLE).astype("uint8"),
        parse_sudoku(PUZZLE).tolist(),
    ],
    ids=["lines", "zeros", "digits", "tensor", "array", "list"],
)
def test_a_puzzle_may_be_written_in_many_ways(model, written):
    assert str(zoo.predict(model, written)) == str(zoo.predict(model, PUZZLE))


def test_what_was_printed_can_be_asked_again(model):
    answer = str(zoo.predict(model, PUZZLE))
    assert str(zoo.predict(model, answer)) == answer


def test_several_puzzles_of_several_sizes_are_a_list(model):
    found = zoo.predict(model, [PUZZLE, SMALL, PUZZLE])
    assert [f.grid.shape[0] for f in found] == [9, 4, 9] and all(f.right for f in found)
    grids = zoo.predict(model, np.stack([parse_sudoku(PUZZLE)] * 3))
    assert len(grids) == 3 and str(grids[1]) == str(found[0])


@pytest.mark.parametrize(
    ("puzzle", "said"),
    [
        ("55" + PUZZLE[2:], "contradict one another: 5 in row 1, column 1 and in row 1, column 2"),
        (PUZZLE[:-1], "A Sudoku has 16, 36, 81, 256 cells.*got 80"),
        ("x" + PUZZLE[1:], "has the digits 1 to 9, and . for a blank; got 'x' in row 1, column 1"),
        (torch.full((9, 9), 10), "has the digits 1 to 9, and 0 for a blank; got 10 in row 1"),
        (torch.zeros(9, 6, dtype=torch.long), "a Sudoku has 16, 36, 81, 256 cells; got 54"),
        (torch.zeros(9, 9), "Givens are whole numbers"),
        ([], "got an empty list"),
        ("", "got 0"),
    ],
)
def test_a_bad_puzzle_is_refused_before_a_solve(model, puzzle, said):
    with pytest.raises(ValueError, match=said):
        zoo.predict(model, puzzle)
    assert model.last is None


def test_a_bad_puzzle_of_several_costs_its_own_answer(model):
    found = zoo.predict(model, [PUZZLE, "11" + "." * 14, SMALL], on_error="keep")
    assert [f.right for f in found] == [True, False, True]
    assert "puzzle 1: Two givens contradict" in found[1].error and str(found[1]).startswith("not read: ")


def test_a_puzzle_without_a_solution_is_not_converged(model):
    impossible = "123." + "...4" + "...." + "...."  # the blank of the first row can hold nothing
    assert not search(candidates(parse_sudoku(impossible).reshape(1, -1).astype(np.uint8), (2, 2)), (2, 2)).count[0]
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = zoo.predict(model, impossible)
    assert not found.converged and not found.right and found.residual > 1e-3
    assert "did not converge on 1 of 1 puzzles" in str(told[-1].message)
    assert str(found).endswith("(breaks the rules) (not converged)")


def test_the_command_writes_a_line_a_puzzle(model, tmp_path, monkeypatch, capsys):
    (tmp_path / "puzzles.txt").write_text(f"{PUZZLE}\n\n{SMALL}\n55{PUZZLE[2:]}\n")
    monkeypatch.setattr("zoo.hub.pretrained.load", lambda name, **options: model)
    door, out = importlib.import_module("zoo.predict"), tmp_path / "answers.csv"
    assert (
        door.main(["--model", "test_known.sudoku9", "--input", str(tmp_path / "puzzles.txt"), "--out", str(out)]) == 1
    )
    rows = list(csv.DictReader(out.open()))
    assert [r["right"] for r in rows] == ["true", "true", ""] and rows[0]["grid"] == ANSWER
    assert rows[0]["givens"] == PUZZLE and "contradict one another: 5" in rows[2]["error"]
    assert rows[2]["source"].endswith("puzzles.txt:4") and "1 not read" in capsys.readouterr().out


def test_the_rules_of_unknown_data_are_not_known(model):
    with pytest.raises(ValueError, match="'digits' are of no kind that is read and checked here"):
        zoo.predict(named(model, "digits"), PUZZLE)


class Way(GridCell):
    """A map that goes to the shortest way of a maze."""

    def inject(self, givens):
        way = torch.from_numpy(shortest_paths(givens.numpy().astype(np.uint8))[0]).long()
        return nn.functional.one_hot(way, 2).flatten(1, 2).float()

    def state_shape(self, givens):
        return givens[0].numel(), 2

    def forward(self, z, e):
        return 0.1 * z + 0.9 * e

    def head(self):
        return Times()


MAZE = """
#######
#S#   #
# # # #
#   #G#
#######
"""


def test_a_maze_is_answered_by_its_way(model):
    walker = named(Reasoner(Way()).eval(), "mazes")
    found = zoo.predict(walker, MAZE)
    assert str(found).splitlines()[1:4] == ["#S#***#", "#*#*#*#", "#***#G#"]
    assert found.right and found.converged and int(found.grid.sum()) == 11
    line = found.rows()[0]["givens"]
    assert "/" in line and zoo.predict(walker, line).text == found.text
    assert zoo.predict(walker, [found.givens, MAZE])[0].right


@pytest.mark.parametrize(
    ("maze", "said"),
    [
        (MAZE.replace("S", " "), "A maze has one start, S; got 0"),
        (MAZE.replace("#   #G#", "### #G#").replace("# # # #", "###*# #"), "got '[*]'"),
        (MAZE.replace("#   #G#", "#  ##G#"), "No way leads from the start to the goal"),
        (torch.full((5, 5), 7), "Givens are 0 to 3 here; got 7"),
    ],
)
def test_a_maze_without_a_way_is_refused(model, maze, said):
    with pytest.raises(ValueError, match=said):
        zoo.predict(named(Reasoner(Way()).eval(), "mazes"), maze)


def test_an_answer_that_breaks_the_rules_says_so():
    grid = torch.zeros(4, 4, dtype=torch.long)
    form = SudokuForm((2, 2))
    found = Reasoned(grid, grid, form.write(grid, grid), form.write(grid), False, 0.25, residual=0.5, converged=False)
    assert str(found).splitlines()[-1] == "(breaks the rules) (not converged)"
    assert found.rows()[0]["givens"] == "." * 16 and found.rows()[0]["grid"] == "1" * 16
