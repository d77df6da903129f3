"""The figures of reasoners: what a caption counts, what an axis shows, and files that repeat to the last byte."""

from __future__ import annotations

import numpy as np
import pytest

from zoo.reporting.puzzles import Moment, depth_figure, residual_figure, settling_figure


def drawn(folder, kind):
    """A figure of a kind, with numbers that would break a careless log axis."""
    if kind == "settling":
        givens = np.array([[1, 0, 0, 4], [0] * 4, [0] * 4, [3, 0, 0, 2]])
        answers = [np.full((4, 4), 1 + k) for k in range(3)]
        moments = [Moment(4**k, a, a != 2) for k, a in enumerate(answers)]
        return settling_figure(givens, moments, [0.0, *[10.0**-k for k in range(16)]], folder, "settling", (2, 2))
    if kind == "maze":
        givens = np.array([[1] * 5, [1, 2, 0, 0, 1], [1, 1, 1, 0, 1], [1, 3, 0, 0, 1], [1] * 5])
        way = (givens != 1).astype(int)
        moments = [Moment(1, way * 0, way == 1), Moment(4, 1 - way, way < 2), Moment(16, way, way < 0)]
        return settling_figure(givens, moments, [10.0**-k for k in range(16)], folder, "maze")
    if kind == "residual":
        residual = np.array([0.0, 1e-5, 3e-5, np.nan, 0.4])
        return residual_figure(residual, np.array([True, True, True, False, False]), folder, "residual", "Told.")
    return depth_figure({"1 start": {1: 0.0, 4: 0.5, 6: 1.0}, "8 starts": {4: 0.6}}, folder, "depth")


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("settling", "shaded: wrong cells (16 at 1, 0 at 4, 16 at 16)"),
        (
            "maze",
            "Black: walls, start and goal; blue: the answer at that iteration; shaded: wrong cells (7 at 1, 25 at 4",
        ),
        ("residual", "of 5 puzzles. Told."),
        ("depth", "against iterations at test."),
    ],
)
def test_a_figure_says_what_it_shows_and_repeats(tmp_path, kind, said):
    one, two = (drawn(tmp_path / str(i), kind) for i in range(2))
    assert said in one.caption and one.png.stat().st_size > 5000
    assert one.svg.read_bytes() == two.svg.read_bytes()


def test_texts_of_the_figures_are_theirs(tmp_path):
    assert ">iteration 16<" in drawn(tmp_path, "settling").svg.read_text()
    assert ">wrong (2)<" in drawn(tmp_path, "residual").svg.read_text()
    depth = drawn(tmp_path, "depth").svg.read_text()
    assert ">8 starts<" in depth and ">4<" in depth


def test_all_right_and_all_wrong_can_be_drawn(tmp_path):
    for i, right in enumerate((True, False)):
        assert residual_figure(np.array([1e-3, 1e-3]), np.array([right] * 2), tmp_path, str(i)).png.is_file()
