"""Sudokus as text: what is written is read again, and a slip is named with its place."""

from __future__ import annotations

import pytest
import torch

from zoo.data.puzzles.notation import format_sudoku, parse_sudoku, refuse_contradictions

BOXES = {4: (2, 2), 6: (2, 3), 9: (3, 3), 16: (4, 4), 25: (5, 5)}


@pytest.mark.parametrize("n", BOXES)
@pytest.mark.parametrize("boxed", [True, False])
def test_a_grid_that_is_written_is_read_again(n, boxed):
    grid = torch.randint(0, n + 1, (n, n), generator=torch.Generator().manual_seed(n))
    assert torch.equal(parse_sudoku(format_sudoku(grid, BOXES[n] if boxed else None)), grid)


def test_every_sign_of_a_blank_is_one():
    assert parse_sudoku("1.0_*-234123412.").flatten().tolist() == [1, 0, 0, 0, 0, 0, 2, 3, 4, 1, 2, 3, 4, 1, 2, 0]
    assert not parse_sudoku("-" * 16).any()


def test_letters_follow_nine_in_either_case():
    text = "123456789ABCDEFG" * 16
    assert torch.equal(parse_sudoku(text.lower()), parse_sudoku(text)) and int(parse_sudoku(text)[0, -1]) == 16


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("123", "square number of cells; got 3"),
        ("1", "got 1"),
        ("." * 1369, "got 1369"),  # 37 x 37: there are no symbols for it
        ("5" + "." * 15, "Row 1, column 1 holds '5'; a Sudoku 4x4 has the symbols 1 to 4"),
        ("." * 15 + "A", "Row 4, column 4 holds 'A'"),
    ],
)
def test_a_slip_is_named(text, said):
    with pytest.raises(ValueError, match=said):
        parse_sudoku(text)


def test_a_contradiction_names_two_cells_and_their_symbol():
    refuse_contradictions(parse_sudoku("12.. .... ..3. ...4"), (2, 2))
    with pytest.raises(ValueError, match="row 1, column 1 and row 2, column 2 both hold 3. Nothing was solved"):
        refuse_contradictions(parse_sudoku("3... .3.. .... ...."), (2, 2))
    with pytest.raises(ValueError, match=r"row 1, column 1 and row 4, column 1 both hold 3 \(2 such pairs\)"):
        refuse_contradictions(parse_sudoku("3... .... .... 3..3"), (2, 2))
