"""The figures of a comparison: what it costs to be right, what a step costs, and what the solves do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo.compare.table import label, validated
from zoo.reporting.plots import Picture, bars, legend, panels, style, write
from zoo.tasks.metrics import metric_info

Row = Mapping[str, Any]


def draw(rows: Sequence[Row], folder: Path, name: str) -> list[Picture]:
    """The figures for which there are numbers."""
    good = [r for r in rows if r["seeds"]]
    if not good:
        return []
    made: list[Callable[[], Picture | None]] = [
        lambda: _pareto(good, folder, name),
        lambda: _costs(good, folder, name),
        lambda: _solves(good, folder, name),
        lambda: _growth(good, folder, name),
        lambda: _gradient(good, folder, name),
        lambda: _training(good, folder, name),
    ]
    return [picture for make in made if (picture := make()) is not None]


def _pareto(rows: Sequence[Row], folder: Path, name: str) -> Picture | None:
    rows = [r for r in rows if "score" in r["values"]]
    if not rows:
        return None
    metric = rows[0]["metric"]
    unit = metric_info(metric).scale
    costs = (
        ("flops_forward", 1e6, "MFLOP a sample, forward"),
        ("seconds", 1.0, "training time (s)"),
        ("parameters", 1e3, "parameters (thousands)"),
    )
    places = [p for p in costs if any(p[0] in r["values"] for r in rows)]  # loaded weights have no training time
    if not places:
        return None
    figure, axes = panels(1, len(places), width=4.3, height=4.3)
    for axis, (key, scale, title) in zip(axes[0], places, strict=True):
        for i, row in enumerate(rows):
            if key not in row["values"]:
                continue
            look = {k: v for k, v in style(i).items() if k in ("color", "marker")}
            spread = unit * row["std"].get("score", 0.0)
            axis.errorbar(
                row["values"][key] / scale, unit * row["values"]["score"], yerr=spread or None, ms=8, capsize=3,
                linestyle="none", label=label(row), **look,
            )  # fmt: skip
        values = [r["values"][key] for r in rows if key in r["values"]]
        wide = bool(values) and max(values) > 8 * min(values) > 0
        axis.set(xscale="log" if wide else "linear", xlabel=title)
        axis.margins(x=0.15, y=0.15)
    axes[0, 0].set_ylabel(f"test {metric_info(metric).name}")
    handles, labels = axes[0, -1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(rows)), frameon=False, fontsize=8)
    wins = "Up" if metric_info(metric).larger else "Down"
    caption = (
        f"Test {metric} against what it costs; bars are one standard deviation over seeds. {wins} and to the left wins."
    )
    return write(figure, folder, f"{name}_pareto", caption)


def _costs(rows: Sequence[Row], folder: Path, name: str) -> Picture:
    figure, axes = panels(2, 2, width=5.6, height=1.2 + 0.36 * len(rows))
    labels = [label(r) for r in rows]
    measures = (
        ("step_ms", 1, "training step, median (ms)"),
        ("latency_ms", 1, "inference of one sample, median (ms)"),
        ("held_bytes", 1024, "kept for the backward pass (KiB a sample)"),
        ("flops_step", 1e6, "training step (MFLOP a sample)"),
    )
    for axis, (key, unit, title) in zip(axes.flat, measures, strict=True):
        values = [r["values"][key] / unit if key in r["values"] else None for r in rows]
        bars(axis, labels, values, title)
    return write(figure, folder, f"{name}_costs", "What a training step and an inference cost, mean over seeds.")


def _solves(rows: Sequence[Row], folder: Path, name: str) -> Picture | None:
    traced, anytime = _having(rows, "residuals"), _having(rows, "anytime")
    if not traced and not anytime:
        return None
    figure, axes = panels(1, 2, height=4.1)
    order = _places(rows)
    for row in traced:
        trace = _numbers(row["curves"]["residuals"])
        axes[0, 0].plot(range(1, len(trace) + 1), trace, label=label(row), **style(order[label(row)]))
    axes[0, 0].set(yscale="log", xlabel="evaluations of the map", ylabel="relative residual, median")
    for row in anytime:
        curve = row["curves"]["anytime"]
        score = [100 * v for v in _numbers(curve["score"])]
        axes[0, 1].plot(curve["budget"], score, label=label(row), **style(order[label(row)]))
    axes[0, 1].set(xlabel="steps that the solver may take", ylabel="test accuracy (%)")
    low, high = axes[0, 1].get_ylim()
    low = min(low, high - 5)  # a few samples more or less are no feature
    axes[0, 1].set_ylim(low, high + 0.05 * (high - low))  # room for the markers at the top
    for axis, found in zip(axes[0], (traced, anytime), strict=True):
        if found:
            legend(axis, 2)
    caption = (
        "Left: residual after each evaluation, median over a test batch. Right: accuracy by the solver's budget, the "
        f"anytime curve of the trained model (first seed). {_missing(rows, 'residuals', 'anytime')}"
    )
    return write(figure, folder, f"{name}_solves", caption.strip())


def _growth(rows: Sequence[Row], folder: Path, name: str) -> Picture | None:
    found = _having(rows, "growth")
    if not found:
        return None
    figure, axes = panels(1, 1, width=7.0, height=5.4)
    axis, order, failed, ticks = axes[0, 0], _places(rows), [], set()
    for row in found:
        for way in row["curves"]["growth"]["ways"]:
            if "why" in way:
                failed.append(f"{label(row)} by {way['adjoint']} ({way['why']})")
                continue
            look = {k: v for k, v in style(order[label(row)]).items() if k in ("color", "marker", "lw")}
            look |= {"ls": "-", "ms": 6} if way["own"] else {"ls": "--", "ms": 9, "fillstyle": "none", "mew": 1.2}
            text = f"{label(row)}, {way['adjoint']}{' (its own)' if way['own'] else ''}"
            axis.plot(way["evaluations"], [v / 1024 for v in _numbers(way["bytes"])], label=text, **look)
            ticks |= set(way["evaluations"])
    axis.set(xscale="log", yscale="log", xlabel="evaluations of the map in the forward solve")
    axis.set_ylabel("kept for the backward pass (KiB a sample)")
    whole = [2**k for k in range(12) if min(ticks) / 2 < 2**k < 2 * max(ticks)]
    axis.set_xticks(whole, [str(t) for t in whole])
    axis.minorticks_off()
    _decades(axis)
    legend(axis, 2)
    missing = _missing(rows, "growth", more=failed)
    caption = (
        "Memory between forward and backward pass against the length of the solve, of a few training samples, by "
        "adjoint. Solid: the model's own; dashed: another one. Adjoints that solve an equation of their own keep one "
        f"state, those that unroll keep every evaluation. {missing}"
    )
    return write(figure, folder, f"{name}_growth", caption.strip())


def _gradient(rows: Sequence[Row], folder: Path, name: str) -> Picture | None:
    found = _having(rows, "gradient")
    if not found:
        return None
    figure, axes = panels(1, 2, height=4.1)
    order = _places(rows)
    for row in found:
        curve = row["curves"]["gradient"]
        look = {**style(order[label(row)]), "label": f"{label(row)}, {curve['adjoint']}"}
        axes[0, 0].plot(curve["tolerance"], _numbers(curve["error"]), **look)
        axes[0, 1].plot(curve["tolerance"], [max(1 - c, 1e-16) for c in _numbers(curve["cosine"])], **look)
    for axis, title in zip(axes[0], ("relative error of the gradient", "1 - cosine of the gradient"), strict=True):
        axis.set(xscale="log", yscale="log", xlabel="tolerance of the solver", ylabel=title)
        axis.invert_xaxis()
        _decades(axis)
        legend(axis, 2)
    kinds = " or ".join(sorted({r["curves"]["gradient"]["reference"] for r in found}, reverse=True))
    caption = (
        "Gradient of the loss by the tolerance of forward and backward solve, with the adjoint that the model trains "
        f"with, against a tight solve in {kinds}, on a few training samples: an exact adjoint falls to the right, the "
        f"bias of any other stays. {_missing(rows, 'gradient')}"
    )
    return write(figure, folder, f"{name}_gradient", caption.strip())


def _training(rows: Sequence[Row], folder: Path, name: str) -> Picture | None:
    found = [r for r in rows if r["curves"].get("nfe")]
    scored = [r for r in rows if validated(r)]
    if not found and not scored:
        return None
    figure, axes = panels(1, 2 if found else 1, width=5.6, height=4.3)
    order = _places(rows)
    axis = axes[0, -1]
    shown = metric_info(rows[0]["metric"])
    for row in scored:
        points = validated(row)
        look = {**style(order[label(row)]), "markevery": max(1, len(points) // 8)}
        axis.plot([s for s, _ in points], [shown.scale * v for _, v in points], label=label(row), **look)
    level, asked = rows[0]["level"], rows[0]["asked"]
    for height, dash in ((level, ":"), (asked, "--")):
        if height is not None:
            axis.axhline(shown.scale * height, color="0.6", lw=0.9, ls=dash)
    axis.set(xlabel="seconds of training", ylabel=f"validation {shown.name}")
    if scored:
        legend(axis, 2)
    if found:
        _evaluations(axes[0, 0], found, order)
    where = "Left: evaluations of the map over the training. Right: v" if found else "V"
    lines = "dotted, the level that every run reached"
    lines += "; dashed, the level that was asked for" if asked is not None else ""
    caption = f"{where}alidation {shown.name} over the wall time; {lines} (first seed)."
    return write(figure, folder, f"{name}_training", caption)


def _evaluations(axis: Any, rows: Sequence[Row], order: Mapping[str, int]) -> None:
    for row in rows:
        curve = row["curves"]["nfe"]
        look = {**style(order[label(row)]), "markevery": max(1, len(curve["step"]) // 8)}
        axis.plot(curve["step"], curve["nfe"], label=label(row), **look)
    axis.set(xlabel="training step", ylabel="evaluations a forward pass", ylim=(0, None))
    legend(axis, 2)


def _places(rows: Sequence[Row]) -> dict[str, int]:
    """By label, which series a model is: the same in every figure."""
    return {label(r): i for i, r in enumerate(rows)}


def _having(rows: Sequence[Row], curve: str) -> list[Row]:
    return [r for r in rows if r["curves"].get(curve)]


def _missing(rows: Sequence[Row], *curves: str, more: Sequence[str] = ()) -> str:
    """Which models have no line, and why: a sentence for the caption; empty where every model has one."""
    by_reason: dict[str, list[str]] = {}
    for curve in curves:
        for row in rows:
            if row["curves"].get(curve):
                continue
            near = (curve, "nfe_forward", "residual" if curve == "residuals" else "")  # older rows say less
            why = next((row["reasons"][k] for k in near if k in row["reasons"]), "not measured")
            names = by_reason.setdefault(why, [])
            names += [label(row)] if label(row) not in names else []
    reasons = [f"{', '.join(names)} ({why.rstrip('.')})" for why, names in by_reason.items()] + list(more)
    return f"Without a line: {'; '.join(reasons)}." if reasons else ""


def _numbers(values: Sequence[float | None]) -> list[float]:
    """What JSON could not hold, as the NaN that it was: a gap in the line."""
    return [float("nan") if v is None else v for v in values]


def _decades(axis: Any) -> None:
    """Room for a power of ten at least: on a log axis, ticks without a number say nothing."""
    low, high = axis.get_ylim()
    if high < 10 * low:
        middle = (low * high) ** 0.5
        axis.set_ylim(middle / 10**0.6, middle * 10**0.6)
