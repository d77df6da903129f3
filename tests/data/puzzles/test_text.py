"""Sudokus as people write them, and what is said of those that are none."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo.data.puzzles.generate import full_grids
from zoo.data.puzzles.text import SudokuError, format_sudoku, parse_sudoku, solve

# the puzzle of Wikipedia's article, and its solution
PUZZLE = "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79"
SOLUTION = "534678912672195348198342567859761423426853791713924856961537284287419635345286179"


def test_a_known_puzzle_is_solved():
    found = solve(PUZZLE)
    assert found.count == 1 and format_sudoku(found.solution, line=True) == SOLUTION
    assert found.nodes >= PUZZLE.count(".") and str(found).startswith("One solution.\n534678912\n")


@pytest.mark.parametrize("blank", [".", "0", "_", " "])
@pytest.mark.parametrize("lines", [False, True])
def test_ways_to_write_it(blank, lines):
    text = PUZZLE.replace(".", blank)
    if lines:
        text = "\n".join(text[i : i + 9].rstrip() for i in range(0, 81, 9)) + "\n"
    assert (parse_sudoku(text) == parse_sudoku(PUZZLE)).all()


def test_spaces_between_symbols_are_none():
    assert (parse_sudoku(" ".join(PUZZLE)) == parse_sudoku(PUZZLE)).all()
    assert (parse_sudoku("\r\n".join(PUZZLE[i : i + 9] for i in range(0, 81, 9))) == parse_sudoku(PUZZLE)).all()


@given(st.sampled_from([(2, 2), (2, 3), (3, 3), (4, 4)]), st.integers(0, 10**6), st.booleans())
def test_what_is_written_is_read(box, seed, line):
    n = box[0] * box[1]
    rows, columns = np.indices((n, n))
    grid = (rows % box[0] * box[1] + rows // box[0] + columns) % n + 1 if n == 16 else None
    if grid is None:
        grid = full_grids(1, box, np.random.default_rng(seed)).reshape(n, n)
    grid = np.where(np.random.default_rng(seed).random((n, n)) < 0.5, grid, 0)
    assert (parse_sudoku(format_sudoku(grid, line=line)) == grid).all()


def test_letters_are_digits_above_nine():
    text = "G" + "." * 255
    assert parse_sudoku(text)[0, 0] == 16 and parse_sudoku(text.lower())[0, 0] == 16


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "16, 36, 81, 256 cells, row by row .*; got 0"),
        (" \n ", "got 0"),
        (PUZZLE[:-1], "got 80"),
        (PUZZLE + ".", "got 82"),
        ("x" + PUZZLE[1:], "9 x 9 has the digits 1 to 9, and . for a blank; got 'x' in row 1, column 1"),
        ("." * 35 + "7", "6 x 6 has the digits 1 to 6, .* got '7' in row 6, column 6"),
        ("." * 17 + "h" + "." * 238, "1 to 9 and A to G, .* got 'h' in row 2, column 2"),
        ("." * 15 + "\u0663", "got '\u0663'"),
        ("5" + PUZZLE[:1] + PUZZLE[2:], "5 in row 1, column 1 and in row 1, column 2. Correct one"),
        (PUZZLE[:80] + "6", "6 in row 7, column 2|6 in row 6, column 9 and in row 9, column 9"),
        ("1" + "." * 34 + "1" + "." * 45, None),
        ("1" + "." * 35 + "1" + "." * 44, "1 in row 1, column 1 and in row 5, column 1"),
        ("1" + "." * 9 + "1" + "." * 70, "1 in row 1, column 1 and in row 2, column 2"),
    ],
)
def test_what_is_no_sudoku_is_named_before_solving(text, message):
    if message is None:
        assert parse_sudoku(text).sum() == 2
        return
    with pytest.raises(SudokuError, match=message):
        solve(text)


def test_none_and_several_solutions_are_told():
    several = solve(PUZZLE.replace("53", "..", 1).replace("98", "..", 1))
    assert several.count == 2 and str(several).startswith("Several solutions; one of them:\n")
    none = solve("12.." + "...3" + "...4" + "....")  # row 1 needs 3 and 4 in columns 3 and 4; column 4 has both
    assert none.count == 0 and none.solution is None and str(none) == "No solution."
    assert solve("." * 16).count == 2


def test_grids_are_checked_like_texts():
    assert solve(np.zeros((6, 6), int), box=(3, 2)).count == 2
    for grid, box, message in [
        (np.full((4, 4), 5), None, "digits 1 to 4, and 0 for a blank; got 5 in row 1, column 1"),
        (np.full((4, 4), -1), None, "got -1"),
        (np.zeros((5, 5), int), None, "Name the box"),
        (np.zeros((4, 4), int), (3, 3), "has 9 x 9 cells; got shape \\(4, 4\\)"),
        (np.zeros((2, 8), int), None, "has 4 x 4 cells"),
        (np.eye(4, dtype=int), None, "1 in row 1, column 1 and in row 2, column 2"),
    ]:
        with pytest.raises(SudokuError, match=message):
            solve(grid, box)
