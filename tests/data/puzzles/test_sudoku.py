"""Sudokus: the search against a plain one, what is drawn, its symmetries, its splits, its cache."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zoo.data import DATA
from zoo.data.puzzles.generate import dig, draw, draw_minimal, full_grids
from zoo.data.puzzles.rules import sudoku_agrees, sudoku_contradictions, sudoku_solved
from zoo.data.puzzles.search import candidates, digits, geometry, nodes, popcount, search
from zoo.data.puzzles.symmetry import SudokuSymmetry, invariant

BOXES = [(2, 2), (2, 3), (3, 2), (3, 3)]
SIZES = {"train_size": 20, "val_size": 10, "test_size": 10}


def plain(grid: np.ndarray, box: tuple[int, int], limit: int) -> tuple[list[np.ndarray], int]:
    """Return solutions, and placements tried, of a search written cell by cell."""
    g = geometry(box)
    grid, found, tried = grid.astype(int).copy(), [], 0

    def free(cell: int) -> list[int]:
        seen = set(grid[g.peers[cell]].tolist())
        return [d for d in range(1, g.n + 1) if d not in seen]

    def go() -> None:
        nonlocal tried
        blanks = np.flatnonzero(grid == 0)
        if not len(blanks):
            found.append(grid.copy())
            return
        cell = min(blanks.tolist(), key=lambda c: len(free(c)))
        for digit in free(cell):
            tried += 1
            grid[cell] = digit
            go()
            grid[cell] = 0
            if len(found) >= limit:
                return

    go()
    return found, tried


@pytest.mark.parametrize("box", BOXES)
def test_all_searches_agree(box):
    random = np.random.default_rng(1)
    n = box[0] * box[1]
    grids = full_grids(12, box, random)
    puzzles = np.where(random.random(grids.shape) < 0.45 + 0.1 * random.random((12, 1)), grids, 0).astype(np.uint8)
    found, tried = search(candidates(puzzles, box), box, limit=3), nodes(puzzles, box)
    assert found.complete.all() and (found.count >= 1).all()
    for i, puzzle in enumerate(puzzles):
        solutions, placements = plain(puzzle, box, 3)
        assert found.count[i] == len(solutions)
        assert sudoku_solved(torch.from_numpy(found.solution[i].reshape(1, n, n).astype(int) - 1), box).all()
        assert ((puzzle == 0) | (puzzle == found.solution[i])).all()
        if len(solutions) == 1:
            assert (found.solution[i] == solutions[0]).all()
            assert tried[i] == placements


def test_all_grids_of_four_are_found():
    """288 solved grids 4x4, as counted by many."""
    blank = np.zeros((1, 16), np.uint8)
    assert search(candidates(blank, (2, 2)), (2, 2), limit=1000).count.tolist() == [288]


def test_there_are_36_minimal_puzzles_of_four():
    """The known number: what is drawn reaches them all, and the invariant tells them apart."""
    puzzles, _ = draw_minimal(2000, (2, 2), (0, 16), np.random.default_rng(0))
    assert len(puzzles) == 2000
    assert len(set(invariant(puzzles, (2, 2)).tolist())) == 36


def test_a_contradiction_has_no_solution():
    grid = np.zeros((3, 81), np.uint8)
    grid[0, [0, 5]] = 7  # a row
    grid[1, [0, 72]] = 7  # a column
    grid[2, [0, 10]] = 7  # a box
    assert search(candidates(grid, (3, 3)), (3, 3)).count.tolist() == [0, 0, 0]
    pairs = sudoku_contradictions(torch.from_numpy(grid).view(3, 9, 9), (3, 3))
    assert pairs.tolist() == [[0, 0, 5], [1, 0, 72], [2, 0, 10]]


def test_a_budget_ends_a_search_and_says_so():
    blank = candidates(np.zeros((2, 81), np.uint8), (3, 3))
    found = search(blank, (3, 3), limit=10**9, budget=50)
    assert not found.complete.any()


@given(st.lists(st.integers(0, 2**25 - 1), min_size=1, max_size=9))
def test_bits_are_counted(masks):
    for dtype in (np.uint32, np.uint16):
        x = np.array(masks, np.uint32).astype(dtype)
        assert popcount(x).tolist() == [bin(i).count("1") for i in x.tolist()]


@given(st.sampled_from(BOXES), st.integers(0, 10**6))
def test_what_is_drawn_has_one_solution(box, seed):
    n = box[0] * box[1]
    low, high = n * n // 3, n * n // 2
    puzzles, answers = draw(8, box, (low, high), np.random.default_rng(seed))
    blanks = (puzzles == 0).sum(1)
    assert len(puzzles) and ((blanks >= low) & (blanks <= high)).all()
    found = search(candidates(puzzles, box), box)
    assert (found.count == 1).all() and (found.solution == answers).all()
    assert (digits(candidates(answers, box)) == answers).all()
    assert (nodes(puzzles, box) >= blanks).all()


@pytest.mark.parametrize("box", BOXES)
def test_with_all_the_holes_there_are_puzzles_are_minimal(box):
    random = np.random.default_rng(3)
    grids = full_grids(4, box, random)
    puzzles = dig(grids, np.full(4, 1000), box, random)
    for puzzle in puzzles:
        givens = np.flatnonzero(puzzle)
        spared = np.repeat(puzzle[None], len(givens), 0)
        spared[np.arange(len(givens)), givens] = 0
        assert (search(candidates(spared, box), box).count == 2).all()


@given(st.sampled_from(BOXES), st.integers(0, 10**6), st.booleans(), st.booleans())
def test_relatives_are_puzzles_with_their_solution(box, seed, relabel, permute):
    n = box[0] * box[1]
    puzzles, answers = draw(6, box, (n, n * n // 2), np.random.default_rng(seed))
    x, y = (torch.from_numpy(a.astype(np.int64)).view(-1, n, n) for a in (puzzles, answers))
    a, b = SudokuSymmetry(box, relabel, permute)(x, y - 1, torch.Generator().manual_seed(seed))
    assert sudoku_solved(b, box).all() and sudoku_agrees(a, b).all()
    assert (search(candidates(a.flatten(1).numpy(), box), box).count == 1).all()
    assert (invariant(a.flatten(1).numpy(), box) == invariant(puzzles, box)).all()
    assert torch.equal((a == 0), (x == 0)) or permute
    assert relabel or torch.equal(a.flatten(1).sort(1).values, x.flatten(1).sort(1).values)


def test_the_invariant_tells_puzzles_apart():
    puzzles, _ = draw(200, (3, 3), (46, 56), np.random.default_rng(5))
    assert len(set(invariant(puzzles, (3, 3)).tolist())) == len(puzzles)
    other = puzzles.copy()
    given = (other > 0).argmax(1)
    other[np.arange(len(other)), given] = 0  # one given less
    assert not set(invariant(other, (3, 3)).tolist()) & set(invariant(puzzles, (3, 3)).tolist())


@pytest.mark.parametrize("name", ["sudoku4", "sudoku6", "sudoku9"])
def test_splits_share_no_puzzle(name):
    data = DATA[name](**SIZES)
    assert data.sizes == {"train": 20, "val": 10, "test": 10}
    marks = []
    for split in ("train", "val", "test"):
        x, y = data.split(split)
        assert x.dtype == y.dtype == torch.int64 and data.check(x, y).all()
        assert len(data.difficulty(split)) == len(x)
        marks += invariant(x.flatten(1).numpy(), data.box).tolist()
    assert len(set(marks)) == 40


def test_wrong_answers_are_refused():
    data = DATA["sudoku6"](**SIZES)
    x, y = data.split("test")
    other = y.clone()
    other[:, 0, 0] = (other[:, 0, 0] + 1) % 6
    assert not data.check(x, other).any()
    renamed = (y + 1) % 6  # a solved grid, of another puzzle
    assert sudoku_solved(renamed, data.box).all() and not data.check(x, renamed).any()


def test_the_same_puzzles_each_time_and_more_of_them(monkeypatch, tmp_path):
    first = DATA["sudoku6"](**SIZES)
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path))
    again = DATA["sudoku6"](**SIZES)
    assert again.fingerprint() == first.fingerprint()
    more = DATA["sudoku6"](**{**SIZES, "train_size": 30})
    assert torch.equal(more.split("train")[0][:20], first.split("train")[0])
    other = DATA["sudoku6"](**SIZES, seed=5)
    assert other.fingerprint() == first.fingerprint()


def test_batches_depend_on_seed_epoch_and_number_alone():
    data, again = DATA["sudoku6"](**SIZES, batch_size=5), DATA["sudoku6"](**SIZES, batch_size=5)
    loader = data.train_dataloader()
    epochs = [list(loader) for _ in range(3)]
    late = again.train_dataloader()
    late.set_epoch(2)
    for (x, y), (a, b) in zip(epochs[2], late, strict=True):
        assert torch.equal(x, a) and torch.equal(y, b) and data.check(x, y).all()
    resumed = again.train_dataloader()
    resumed.where = lambda: (1, 2)
    assert all(torch.equal(x, a) for (x, _), (a, _) in zip(epochs[1][2:], resumed, strict=True))
    assert not any(torch.equal(x, a) for (x, _), (a, _) in zip(epochs[0], epochs[1], strict=True))


def test_a_cache_that_is_broken_is_made_anew(monkeypatch, tmp_path):
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    first = DATA["sudoku4"](**SIZES).fingerprint()
    (file,) = (tmp_path / "cache").iterdir()
    whole = file.read_bytes()
    for content in (b"", b"no zip", whole[:-100], whole[:2000] + bytes(50) + whole[2050:]):
        file.write_bytes(content)
        with pytest.warns(UserWarning, match="is broken .* generated again"):
            assert DATA["sudoku4"](**SIZES).fingerprint() == first
        assert DATA["sudoku4"](**SIZES).fingerprint() == first  # without a warning


def test_without_a_place_for_the_cache_puzzles_are_drawn_all_the_same(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="ZOO_CACHE"):
        assert DATA["sudoku4"](**SIZES).sizes["train"] == 20


@pytest.mark.parametrize(("kind", "count"), [("minimal", 1), ("unsolvable", 0), ("ambiguous", 2)])
@pytest.mark.parametrize("name", ["sudoku4", "sudoku6", "sudoku9"])
def test_test_puzzles_of_other_kinds(name, kind, count):
    sizes = {"train_size": 10, "val_size": 0, "test_size": 10}
    data = DATA[name](**sizes, test_puzzles=kind)
    x, y = data.split("test")
    assert (search(candidates(x.flatten(1).numpy(), data.box), data.box).count == count).all()
    assert not len(sudoku_contradictions(x, data.box))
    assert data.check(x, y).all() == (kind != "unsolvable") and sudoku_solved(y, data.box).all()
    assert kind != "unsolvable" or not data.check(x, y).any()
    if kind == "minimal":
        blanks = (x == 0).flatten(1).sum(1)
        assert blanks.min() >= data.minimal_holes[0] and blanks.max() <= data.minimal_holes[1]
    assert data.check(*data.split("train")).all()


def test_hard_tests_are_hard():
    data = DATA["sudoku9"](train_size=5, val_size=0, test_size=5, test_puzzles="minimal", test_nodes=300)
    assert data.difficulty("test").min() >= 300 > data.difficulty("train").min()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_holes": 30, "max_holes": 20}, "min_holes <= max_holes < 36 must hold; got 30, 20"),
        ({"max_holes": 36}, "got 16, 36"),
        ({"train_size": 0}, "train_size must be at least 1; got 0"),
        ({"val_size": -1}, "val_size must be at least 0; got -1"),
        ({"test_puzzles": "hard"}, "must be one of drawn, minimal, unsolvable, ambiguous; got 'hard'"),
        ({"test_nodes": -1}, "test_nodes must not be negative; got -1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DATA["sudoku6"](**options)


def test_more_puzzles_than_there_are_is_an_error():
    data = DATA["sudoku4"](train_size=500, val_size=0, test_size=1, min_holes=1, max_holes=2)
    with pytest.raises(ValueError, match=r"Sudoku4: found only \d+ puzzles .* 501 are wanted.* wider range of holes"):
        data.setup()
