"""Prefix sums, and the published Sudokus from files that the tests write."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from zoo.data import DATA
from zoo.data.files import DataError
from zoo.data.puzzles.generate import draw
from zoo.data.puzzles.symmetry import SudokuSymmetry, invariant
from zoo.data.puzzles.text import format_sudoku

SIZES = {"train_size": 6, "val_size": 3, "test_size": 5}


def write(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Write both files; the first three rows to train on are relatives of the first three to test on."""
    puzzles, grids = draw(24, (3, 3), (46, 54), np.random.default_rng(0))
    x, y = (torch.from_numpy(part[:3].astype(np.int64)).view(-1, 9, 9) for part in (puzzles, grids))
    x, y = SudokuSymmetry((3, 3))(x, y - 1, torch.Generator().manual_seed(0))
    first = [(a.numpy(), b.numpy() + 1) for a, b in zip(x, y, strict=True)]
    pairs = [(a.reshape(9, 9), b.reshape(9, 9)) for a, b in zip(puzzles, grids, strict=True)]
    (folder / "sudoku-extreme").mkdir()
    for name, rows in (("test", pairs[:5]), ("train", first + pairs[5:14])):
        lines = [
            f"made,{format_sudoku(a, line=True)},{format_sudoku(b, line=True)},{i}" for i, (a, b) in enumerate(rows)
        ]
        (folder / "sudoku-extreme" / f"{name}.csv").write_text("\n".join(["source,question,answer,rating", *lines, ""]))
    return puzzles, grids


def test_published_puzzles_are_read_and_kept_apart(tmp_path):
    write(tmp_path)
    data = DATA["sudoku_extreme"](root=str(tmp_path), **SIZES)
    assert data.sizes == {"train": 6, "val": 3, "test": 5}
    marks = []
    for split in ("train", "val", "test"):
        x, y = data.split(split)
        assert data.check(x, y).all()
        marks += invariant(x.flatten(1).numpy(), (3, 3)).tolist()
    assert len(set(marks)) == 14
    assert sorted(data.difficulty("test").tolist()) == [0, 1, 2, 3, 4]
    for x, y in data.train_dataloader():
        assert data.check(x, y).all()
    assert data.model_arguments() == {"symbols": 10, "num_classes": 9, "box": (3, 3), "grid": (9, 9)}
    with pytest.raises(DataError, match=r"train.csv .* 9 puzzles that are no relatives of one another; 10 are wanted"):
        DATA["sudoku_extreme"](root=str(tmp_path), **{**SIZES, "train_size": 7}).setup()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("question", "puzzle", 1), "first line is not source,question,answer,rating"),
        (
            lambda text: text.replace("made,", "made,,", 1),
            "line 2 does not hold a source, two grids of 81 and a rating",
        ),
        (lambda text: text.replace(".", "", 1), "line 2 does not hold"),
        (lambda text: text.replace(".", "x", 1), "line 2 does not hold"),
        (lambda text: text[: text.index("\n") + 1], "holds 0 puzzles"),
        (lambda text: text[:-40], "line 6 does not hold"),
        (lambda text: text.replace(answer := text.split(",")[5], answer[1::-1] + answer[2:]), "line 2 does not solve"),
    ],
)
def test_files_that_are_broken_are_named(tmp_path, change, message):
    write(tmp_path)
    file = tmp_path / "sudoku-extreme" / "test.csv"
    file.write_text(change(file.read_text()))
    with pytest.raises(DataError, match=f"test.csv .*{message}"):
        DATA["sudoku_extreme"](root=str(tmp_path), **SIZES).setup()


def test_prefix_sums_are_parities():
    data = DATA["prefix_sums"](train_size=20, val_size=5, test_size=5)
    x, y = data.split("test")
    assert x.shape == (5, 1, 64) and data.check(x, y).all()
    assert y[0, 0].tolist() == [int(x[0, 0, : i + 1].sum()) % 2 for i in range(64)]
    y[:, 0, 7] ^= 1
    assert not data.check(x, y).any()
    batch = next(iter(data.train_dataloader()))
    assert batch[0].shape == (20, 1, 16) and data.check(*batch).all()
    with pytest.raises(ValueError, match="at least 1; got 0 and 64"):
        DATA["prefix_sums"](length=0)
    with pytest.raises(ValueError, match="8 puzzles|longer strings"):
        DATA["prefix_sums"](length=3).setup()
