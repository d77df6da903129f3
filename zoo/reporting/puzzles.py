"""Figures of reasoners: a puzzle that settles, the residuals of right and wrong answers, accuracy against depth.

Shape letters: ``H, W`` rows and columns of a grid, ``N`` puzzles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zoo.reporting.plots import Picture, legend, panels, style, write

LEAST = 1e-9  # a residual below it is drawn there: a log axis has no zero
GIVEN, FILLED, WRONG = "#111111", "#1f4e9c", "#f0b8a8"
WAY, LOST = "#8fb0e0", "#c2571a"  # of a maze: cells of the answer; those that do not belong to it


@dataclass(frozen=True)
class Moment:
    """The answer that a solve reads off its state after some iterations.

    Attributes:
        iteration: how many.
        answer: (H, W) symbols.
        wrong: (H, W) which cells are wrong.
    """

    iteration: int
    answer: np.ndarray
    wrong: np.ndarray


def settling_figure(
    givens: np.ndarray,
    moments: Sequence[Moment],
    residuals: Sequence[float],
    folder: Path,
    name: str,
    box: tuple[int, int] | None = None,
) -> Picture:
    """Draw a puzzle that settles: its grid at some iterations, wrong cells marked, beside the residual of each.

    Args:
        givens: (H, W) symbols: of a Sudoku 0 for a blank, of a maze 0 free, 1 wall, 2 start, 3 goal.
        moments: of the solve, in order.
        residuals: after each iteration, from the first on.
        folder, name: where the figure goes.
        box: rows and columns of a box, of a Sudoku; None: a maze, whose answers are 1 on the way.
    """
    figure, axes = panels(1, len(moments) + 1, width=3.0, height=3.3)
    for axis, moment in zip(axes[0], moments, strict=False):
        axis.set_title(f"iteration {moment.iteration}", fontsize=10)
        if box is None:
            _maze(axis, givens, moment)
        else:
            _grid(axis, givens, moment, box)
    axis = axes[0, -1]
    shown = np.maximum(np.asarray(residuals, float), LEAST)
    steps = np.arange(1, len(shown) + 1)
    axis.plot(steps, shown, color=FILLED, lw=1.5)
    marks = [m.iteration for m in moments if 0 < m.iteration <= len(shown)]
    axis.plot(marks, shown[np.array(marks, int) - 1], "o", color=GIVEN, ms=5)
    axis.set(xscale="log", yscale="log", xlabel="iteration", ylabel="relative residual")
    axis.set_xticks(marks, [str(m) for m in marks])
    axis.minorticks_off()
    left = ", ".join(f"{int(m.wrong.sum())} at {m.iteration}" for m in moments)
    caption = (
        f"A puzzle that settles. Black: {'givens' if box else 'walls, start and goal'}; blue: the answer at that "
        f"iteration; shaded: wrong cells ({left}). "
        "Right: |f(z) - z| / |z| after each iteration."
    )
    return write(figure, folder, name, caption)


def _grid(axis: Any, givens: np.ndarray, moment: Moment, box: tuple[int, int]) -> None:
    height, width = givens.shape
    axis.grid(False)
    axis.spines[["top", "right"]].set_visible(True)
    axis.set(xlim=(0, width), ylim=(height, 0), aspect="equal", xticks=[], yticks=[])
    shaded = np.ones((height, width, 3))
    shaded[moment.wrong] = _rgb(WRONG)
    axis.imshow(shaded, extent=(0, width, height, 0), zorder=0)
    size = min(13.0, 120.0 / height)
    for row in range(height):
        for column in range(width):
            given = givens[row, column] > 0
            axis.text(
                column + 0.5, row + 0.53, _symbol(moment.answer[row, column]), ha="center", va="center", fontsize=size,
                color=GIVEN if given else FILLED, fontweight="bold" if given else "normal",
            )  # fmt: skip
    for k in range(height + 1):
        axis.axhline(k, color="0.2", lw=1.4 if k % box[0] == 0 else 0.4)
    for k in range(width + 1):
        axis.axvline(k, color="0.2", lw=1.4 if k % box[1] == 0 else 0.4)


def _maze(axis: Any, givens: np.ndarray, moment: Moment) -> None:
    colors = np.ones((*givens.shape, 3))
    colors[moment.answer == 1] = _rgb(WAY)
    colors[moment.wrong] = _rgb(WRONG)
    colors[(moment.answer == 1) & moment.wrong] = _rgb(LOST)
    colors[givens == 1] = np.where(moment.wrong[givens == 1][:, None], _rgb(LOST), _rgb("#444444"))
    axis.grid(False)
    axis.set(xticks=[], yticks=[])
    axis.imshow(colors)
    for symbol, letter in ((2, "S"), (3, "G")):
        for row, column in np.argwhere(givens == symbol):
            axis.text(column, row, letter, ha="center", va="center", fontsize=120 / len(givens) + 4, fontweight="bold")


def _rgb(color: str) -> list[float]:
    return [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]


def _symbol(value: int) -> str:
    """The symbol of a number: 1 to 9, then letters; nothing for 0."""
    return "" if value == 0 else str(value) if value < 10 else chr(ord("A") + int(value) - 10)


def residual_figure(residual: np.ndarray, right: np.ndarray, folder: Path, name: str, told: str = "") -> Picture:
    """Draw the residuals (N,) of right and of wrong answers as histograms, on logarithmic axes.

    Args:
        residual, right: of each puzzle.
        folder, name: where the figure goes.
        told: a sentence for the caption.
    """
    figure, axes = panels(1, 1, width=6.2, height=3.9)
    axis = axes[0, 0]
    shown = np.where(np.isfinite(residual), np.maximum(residual, LEAST), np.nan)
    low, high = np.nanmin(shown), np.nanmax(shown)
    edges = np.logspace(np.log10(low) - 0.05, np.log10(high) + 0.05, 49)
    for mask, look in (
        (right, {"label": f"right ({int(right.sum()):,})", "color": "0.72", "edgecolor": "0.3"}),
        (
            ~right,
            {"label": f"wrong ({int((~right).sum()):,})", "facecolor": "none", "edgecolor": "#a33b52", "hatch": "////"},
        ),
    ):
        axis.hist(shown[mask], bins=edges, lw=0.7, **look)
    axis.set(xscale="log", yscale="log", xlabel="relative residual of the solve", ylabel="puzzles")
    legend(axis, 2)
    caption = (
        f"The residual of the solve, by whether the answer is right by the rules, of {len(right):,} puzzles. {told}"
    )
    return write(figure, folder, name, caption.strip())


def depth_figure(
    curves: Mapping[str, Mapping[int, float]], folder: Path, name: str, *, axis_title: str = "iterations at test",
    told: str = "",
) -> Picture:  # fmt: skip
    """Draw the share of puzzles solved against the number of iterations, a line for each label.

    Args:
        curves: by label, iterations -> share solved.
        folder, name: where the figure goes.
        axis_title: what is counted.
        told: a sentence for the caption.
    """
    figure, axes = panels(1, 1, width=6.2, height=3.9)
    axis = axes[0, 0]
    ticks: set[int] = set()
    for i, (label, curve) in enumerate(curves.items()):
        axis.plot(list(curve), [100 * v for v in curve.values()], label=label, **style(i))
        ticks |= set(curve)
    axis.set(xscale="log", xlabel=axis_title, ylabel="puzzles solved (%)", ylim=(-2, 102))
    whole = [t for t in sorted(ticks) if t & (t - 1) == 0] or sorted(ticks)
    axis.set_xticks(whole, [str(t) for t in whole])
    axis.minorticks_off()
    legend(axis, 3)
    return write(figure, folder, name, f"Puzzles solved, by the rules, against iterations at test. {told}".strip())
