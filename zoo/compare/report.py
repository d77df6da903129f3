"""Writes a comparison: table in the terminal, Markdown, CSV, JSON, figures, and one page of HTML."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo.compare.draw import Picture, bars, legend, panels, style, write
from zoo.compare.page import Page, markdown, terminal
from zoo.compare.table import cells, label, meanings, notes, to_csv
from zoo.measures import measure
from zoo.run import write_json

Row = Mapping[str, Any]


def show(rows: Sequence[Row]) -> None:
    """Print the table, and what it cannot say."""
    head, text, why = cells(rows)
    terminal(_title(rows), head, text)
    for note in notes(rows, why):
        print(f"  {note}")


def write_report(rows: Sequence[Row], folder: Path, name: str) -> list[Path]:
    """Write ``name.json``, ``.csv``, ``.md``, ``.html`` and the figures; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    head, text, why = cells(rows)
    pictures = draw(rows, folder / "figures", name)
    title = _title(rows)
    remarks = notes(rows, why)
    write_json(folder / f"{name}.json", {"data": rows[0]["data"], "rows": list(rows)})
    (folder / f"{name}.csv").write_text(to_csv(rows), encoding="utf-8")

    lines = [f"# {title}", "", markdown(head, text), *(f"* {r}" for r in remarks), "", meanings(), "", _foot(rows), ""]
    lines += [f"![{p.caption}](figures/{p.png.name})\n\n{p.caption}\n" for p in pictures]
    (folder / f"{name}.md").write_text("\n".join(lines), encoding="utf-8")

    page = Page(title, "Every number was measured in one run; a blank cell says why where it is pointed at.")
    page.table(head, text, why)
    for remark in remarks:
        page.paragraph(remark)
    page.paragraph(meanings())
    for picture in pictures:
        page.picture(picture)
    page.write(folder / f"{name}.html", _foot(rows))
    return [folder / f"{name}.{ending}" for ending in ("md", "csv", "json", "html")]


def draw(rows: Sequence[Row], folder: Path, name: str) -> list[Picture]:
    """The figures for which there are numbers."""
    good = [r for r in rows if r["seeds"]]
    if not good:
        return []
    made: list[Callable[[], Picture | None]] = [
        lambda: _pareto(good, folder, name),
        lambda: _costs(good, folder, name),
        lambda: _solves(good, folder, name),
        lambda: _training(good, folder, name),
    ]
    return [picture for make in made if (picture := make()) is not None]


def _pareto(rows: Sequence[Row], folder: Path, name: str) -> Picture | None:
    rows = [r for r in rows if "score" in r["values"]]
    if not rows:
        return None
    metric = rows[0]["metric"]
    unit = measure(metric).scale
    places = (
        ("flops_forward", 1e6, "MFLOP a sample, forward"),
        ("seconds", 1.0, "training time (s)"),
        ("parameters", 1e3, "parameters (thousands)"),
    )
    places = tuple(p for p in places if any(p[0] in r["values"] for r in rows))  # loaded weights have no training time
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
    axes[0, 0].set_ylabel(f"test {measure(metric).name}")
    handles, labels = axes[0, -1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(rows)), frameon=False, fontsize=8)
    wins = "Up" if measure(metric).larger else "Down"
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
    traced = [r for r in rows if r["curves"].get("residuals")]
    anytime = [r for r in rows if r["curves"].get("anytime")]
    if not traced:
        return None
    figure, axes = panels(1, 2, height=4.1)
    order = {label(r): i for i, r in enumerate(rows)}
    for row in traced:
        trace = row["curves"]["residuals"]
        axes[0, 0].plot(range(1, len(trace) + 1), trace, label=label(row), **style(order[label(row)]))
    axes[0, 0].set(yscale="log", xlabel="evaluations of the map", ylabel="relative residual, median")
    for row in anytime:
        curve = row["curves"]["anytime"]
        score = [100 * v for v in curve["score"]]
        axes[0, 1].plot(curve["budget"], score, label=label(row), **style(order[label(row)]))
    axes[0, 1].set(xlabel="steps that the solver may take", ylabel="test accuracy (%)")
    low, high = axes[0, 1].get_ylim()
    axes[0, 1].set_ylim(min(low, high - 5), high)  # a few samples more or less are no feature
    for axis in axes[0]:
        legend(axis, 2)
    caption = (
        "Left: residual after each evaluation, median over a test batch. Right: accuracy by the solver's budget, the "
        "anytime curve of the trained model (first seed)."
    )
    return write(figure, folder, f"{name}_solves", caption)


def _training(rows: Sequence[Row], folder: Path, name: str) -> Picture | None:
    found = [r for r in rows if r["curves"].get("nfe")]
    scored = [r for r in rows if r["curves"].get("score")]
    if not found and not scored:
        return None
    figure, axes = panels(1, 2 if found else 1, width=5.6, height=4.3)
    order = {label(r): i for i, r in enumerate(rows)}
    axis = axes[0, -1]
    shown = measure(rows[0]["metric"])
    for row in scored:
        curve = row["curves"]["score"]
        look = {**style(order[label(row)]), "markevery": max(1, len(curve["seconds"]) // 8)}
        axis.plot(curve["seconds"], [shown.scale * v for v in curve["value"]], label=label(row), **look)
    level = rows[0].get("level")
    if level is not None:
        axis.axhline(shown.scale * level, color="0.6", lw=0.9, ls=":")
    axis.set(xlabel="seconds of training", ylabel=f"validation {shown.name}")
    if scored:
        legend(axis, 2)
    if found:
        _evaluations(axes[0, 0], found, order)
    where = "Left: evaluations of the map over the training. Right: v" if found else "V"
    caption = (
        f"{where}alidation {shown.name} over the wall time; dotted, the level that every run reached (first seed)."
    )
    return write(figure, folder, f"{name}_training", caption)


def _evaluations(axis: Any, rows: Sequence[Row], order: Mapping[str, int]) -> None:
    for row in rows:
        curve = row["curves"]["nfe"]
        look = {**style(order[label(row)]), "markevery": max(1, len(curve["step"]) // 8)}
        axis.plot(curve["step"], curve["nfe"], label=label(row), **look)
    axis.set(xlabel="training step", ylabel="evaluations a forward pass", ylim=(0, None))
    legend(axis, 2)


def _title(rows: Sequence[Row]) -> str:
    names = {r["model"] for r in rows}
    return f"{names.pop() if len(names) == 1 else 'Models'} compared on {rows[0]['data']}"


def _foot(rows: Sequence[Row]) -> str:
    env = next((r["environment"] for r in rows if r["environment"]), None)
    if env is None:
        return "Nothing was measured."
    hardware, seeds = env["hardware"], sorted({s for r in rows for s in r["seeds"]})
    where = ", ".join(hardware["gpus"]) or f"{hardware['cpu']}, {hardware['threads']} threads"
    return (
        f"Seeds {', '.join(map(str, seeds))}; {where}; torch {env['versions']['torch']}; "
        f"commit {(env['commit'] or 'unknown')[:12]}; {env['time']}."
    )
