"""The figure of a training run: loss, the measure that chose the weights, evaluations and residual."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo.tasks.metrics import MetricInfo

Rows = Sequence[Mapping[str, float]]
STYLE = {"train": ("-", "0.55", None), "val": ("-", "#1f4e9c", "o")}  # told apart in gray too: by shade and marker


def training_figure(rows: Rows, file: Path, title: str, shown: MetricInfo) -> None:
    """Draw ``training.png``: what was optimized above, what the solver did below, over the training steps.

    Args:
        rows: one mapping of metrics a step, each with its ``step``.
        file: where the picture goes.
        title: one line above the panels.
        shown: the measure that the best weights were chosen by.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6.4), dpi=120, layout="constrained")
    axes = figure.subplots(2, 2, sharex=True)
    figure.suptitle(title, fontsize=11)

    _panel(
        axes[0, 0],
        rows,
        "loss",
        [("train/loss", "training", "train"), ("val/loss", "validation", "val")],
    )
    chosen = [(f"train/{shown.key}", "training", "train"), (f"val/{shown.key}", "validation", "val")]
    _panel(axes[0, 1], rows, shown.name, chosen, scale=shown.scale, marker=True)
    measured = [("nfe_forward", "forward", "val"), ("nfe_backward", "backward", "train")]
    _panel(axes[1, 0], rows, "evaluations of f a step", measured, find=_summed)
    residuals = [("residual", "forward", "val"), ("residual_backward", "backward", "train")]
    if any(_worst(row, "residual") for row in rows) or not any(_modules(row, "accepted") for row in rows):
        _panel(axes[1, 1], rows, "relative residual", residuals, find=_worst, log=True)
    else:  # integrated in time
        steps = [("accepted", "accepted", "val"), ("rejected", "rejected", "train")]
        _panel(axes[1, 1], rows, "steps in time a solve", steps, find=_summed)
    for axis in axes[1]:
        axis.set_xlabel("training step")
    figure.savefig(file)


def _panel(
    axis: Any,
    rows: Rows,
    label: str,
    series: Sequence[tuple[str, str, str]],
    *,
    find: Callable[[Mapping[str, float], str], float | None] = lambda row, key: row.get(key),
    scale: float = 1.0,
    log: bool = False,
    marker: bool = False,
) -> None:
    drawn = False
    for key, name, style in series:
        points = [(row["step"], value * scale) for row in rows if (value := find(row, key)) is not None]
        if not points:
            continue
        line, color, mark = STYLE[style]
        sparse = len(points) <= 60
        mark = mark or ("s" if marker else None)
        axis.plot(
            *zip(*points, strict=True), line, color=color, marker=mark if sparse else None, ms=3.5, lw=1.4, label=name
        )
        drawn = True
    axis.set_ylabel(label)
    axis.grid(True, color="0.9", lw=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    if not drawn:
        axis.text(0.5, 0.5, "not measured", transform=axis.transAxes, ha="center", color="0.4")
        return
    if log:
        axis.set_yscale("log")
    elif scale == 1.0 and axis.get_ylim()[0] > 0:  # a likelihood may be negative
        axis.set_ylim(bottom=0)
    axis.legend(frameon=False, fontsize=9)


def _modules(row: Mapping[str, float], key: str) -> list[float]:
    return [v for k, v in row.items() if k.startswith("solver/") and k.endswith(f"/{key}")]


def _summed(row: Mapping[str, float], key: str) -> float | None:
    found = _modules(row, key)
    return sum(found) if found else None


def _worst(row: Mapping[str, float], key: str) -> float | None:
    found = [v for v in _modules(row, key) if v > 0]
    return max(found) if found else None
