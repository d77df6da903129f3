"""How every figure of a comparison looks: told apart in gray too, by shade, dash and marker; written as PNG and SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COLORS = ("#111111", "#1f4e9c", "#c2571a", "#2b8a5a", "#8a4fa3", "#7a7a7a", "#b8992a", "#5aa9c9", "#a33b52")
DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (7, 3)), "-")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<")


@dataclass(frozen=True)
class Picture:
    """A figure that was written: its name without ending, what it shows, and where it lies."""

    name: str
    caption: str
    png: Path
    svg: Path


def style(i: int) -> dict[str, Any]:
    """Color, dash and marker of the i-th series."""
    return {"color": COLORS[i % 9], "linestyle": DASHES[i % 9], "marker": MARKERS[i % 9], "ms": 4.2, "lw": 1.5}


def panels(rows: int, columns: int, *, width: float = 5.2, height: float = 3.7) -> tuple[Any, Any]:
    """A figure without a screen, and its axes as an array (rows, columns)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height * rows), dpi=130, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.grid(True, color="0.9", lw=0.6)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def legend(axis: Any, columns: int = 1, title: str | None = None) -> None:
    """Below the panel, where it cannot cover what is drawn."""
    axis.legend(
        loc="upper center", bbox_to_anchor=(0.5, -0.19), ncols=columns, frameon=False, fontsize=8, title=title,
        title_fontsize=8, handlelength=3.2,
    )  # fmt: skip


def bars(axis: Any, labels: Sequence[str], values: Sequence[float | None], unit: str) -> None:
    """Horizontal bars with their numbers; what was not measured is named, not drawn as 0."""
    for i, value in enumerate(values):
        if value is None:
            axis.text(
                0.01, i, "not measured", va="center", fontsize=8, color="0.4", transform=axis.get_yaxis_transform()
            )
            continue
        axis.barh(i, value, color="0.72", edgecolor="0.25", lw=0.8, height=0.62)
        axis.text(value, i, f" {value:.3g}", va="center", fontsize=8)
    axis.set_yticks(range(len(labels)), labels, fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel(unit)
    axis.margins(x=0.18)
    axis.grid(False, axis="y")


def write(figure: Any, folder: Path, name: str, caption: str) -> Picture:
    """Write ``name.png`` and ``name.svg``; the SVG's text stays text, and its bytes are the same every time."""
    import matplotlib

    folder.mkdir(parents=True, exist_ok=True)
    png, svg = folder / f"{name}.png", folder / f"{name}.svg"
    figure.savefig(png)
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(svg, metadata={"Date": None})
    return Picture(name, caption, png, svg)
