"""From rows of single runs to one row a model: mean and deviation over seeds, and the tables that show them."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Column:
    """One measure: its key, its name with unit, what it is divided by to be shown, and what it means."""

    key: str
    name: str
    unit: float = 1.0
    digits: int = 3
    meaning: str = ""


COLUMNS = (
    Column("score", "test metric", 1, 4, "of the checkpoint that was best in validation"),
    Column("parameters", "parameters", 1, 12),
    Column("checkpoint_bytes", "weights (MB)", 1e6),
    Column("flops_evaluation", "MFLOP an evaluation", 1e6, 3, "per sample, of the map; explicit: of the model"),
    Column("flops_forward", "MFLOP forward", 1e6, 3, "per sample, the whole forward pass in evaluation"),
    Column("flops_step", "MFLOP training step", 1e6, 3, "per sample, forward and backward"),
    Column("nfe_forward", "NFE forward", 1, 3, "evaluations of the map a forward pass, mean over test batches"),
    Column("nfe_forward_p95", "NFE forward, p95"),
    Column("nfe_backward", "NFE backward", 1, 3, "products of the adjoint solve, mean over training batches"),
    Column("nfe_backward_p95", "NFE backward, p95"),
    Column("converged", "converged (%)", 0.01, 4, "samples that met the solver's tolerance at the test"),
    Column("residual", "residual", 1, 2, "relative, mean at the test"),
    Column("step_ms", "training step (ms)", 1, 3, "median, forward and backward of one batch"),
    Column("step_ms_p95", "training step, p95 (ms)"),
    Column("latency_ms", "inference, 1 sample (ms)", 1, 3, "median"),
    Column("latency_ms_p95", "inference, p95 (ms)"),
    Column("throughput", "inference (samples/s)", 1, 4, "in batches of the training's size"),
    Column("held_bytes", "kept for backward (KiB)", 1024, 3, "per sample, what a training step's forward keeps alive"),
    Column("peak_bytes", "peak memory (MB)", 1e6, 3, "of the device in a training step"),
    Column("seconds", "training (s)", 1, 3, "wall time"),
    Column(
        "seconds_to_level", "to the common level (s)", 1, 3, "until the validation was as good as every run's became"
    ),
    Column("epochs", "epochs"),
)


SPREAD = ("score", "nfe_forward", "nfe_backward", "seconds", "seconds_to_level", "residual")  # shown with +-


def summarise(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One row for each model, solver and adjoint, over its seeds, in the order of their first appearance."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    level = common_level(rows)
    for row in rows if level is None else timed(rows, level):
        groups.setdefault((row["model"], row["data"], row["solver"], row["adjoint"]), []).append(row)
    out = []
    one = len(groups) > 1 and len({model for model, *_ in groups}) == 1  # then only what differs is worth its room
    for (model, data, solver, adjoint), runs in groups.items():
        chosen = [p for p in (solver, adjoint) if p]
        good = [r for r in runs if r["status"] == "finished"]
        bad = [r for r in runs if r["status"] != "finished"]
        values: dict[str, float] = {}
        std: dict[str, float] = {}
        reasons: dict[str, str] = {}
        for column in COLUMNS:
            found = [r["values"][column.key] for r in good if r["values"].get(column.key) is not None]
            if found:
                values[column.key] = statistics.mean(found)
                if len(found) > 1:
                    std[column.key] = statistics.stdev(found)
                continue
            why = [r["reasons"][column.key] for r in good if column.key in r["reasons"]] + [r["error"] for r in bad]
            reasons[column.key] = why[0] if why else "not measured"
        newest = good[0] if good else {}
        out.append(
            {
                "label": " ".join(chosen if one and chosen else [model, *chosen]),
                "model": model,
                "data": data,
                "solver": solver,
                "adjoint": adjoint,
                "status": "finished" if not bad else "partly" if good else "failed",
                "error": bad[0]["error"] if bad else "",
                "note": "; ".join(dict.fromkeys(r["note"] for r in runs if r.get("note"))),
                "metric": newest.get("metric", "score"),
                "level": level,
                "seeds": [r["seed"] for r in good],
                "failed": [r["seed"] for r in bad],
                "values": values,
                "std": std,
                "reasons": reasons,
                "scores": [r["values"].get("score") for r in good],
                "curves": newest.get("curves", {}),
                "environment": newest.get("environment", {}),
            }
        )
    return out


def common_level(rows: Sequence[Row]) -> float | None:
    """The validation measure that every trained run reached at its best; None where no run was trained."""
    curves = [(r["curves"]["score"]["value"], r.get("maximise", True)) for r in rows if r["curves"].get("score")]
    if not curves or len({up for _, up in curves}) != 1:
        return None
    return min(max(v) for v, _ in curves) if curves[0][1] else max(min(v) for v, _ in curves)


def timed(rows: Sequence[Row], level: float) -> list[Row]:
    """The rows, each with the seconds of training after which its validation was as good as ``level``."""
    out: list[Row] = []
    for row in rows:
        curve = row["curves"].get("score")
        if curve:
            sign = 1 if row.get("maximise", True) else -1
            first = next(s for s, v in zip(curve["seconds"], curve["value"], strict=True) if sign * (v - level) >= 0)
            row = {**row, "values": {**row["values"], "seconds_to_level": first}}
        elif row["status"] == "finished":
            row = {**row, "reasons": {**row["reasons"], "seconds_to_level": "no validation was kept of its training"}}
        out.append(row)
    return out


def label(row: Row) -> str:
    """What a row is called: the model, and the solver and adjoint where they were asked for."""
    return str(row["label"])


def cells(rows: Sequence[Row]) -> tuple[list[str], list[list[str]], list[list[str]]]:
    """Head, text and reasons of the table: a line for each measure, a column for each model."""
    head = ["", *(label(r) for r in rows)]
    text, why = [], []
    metrics = {r["metric"] for r in rows if r["seeds"]}
    for column in COLUMNS:
        if all(column.key not in r["values"] for r in rows) and column.key == "peak_bytes":
            continue  # of no use on a machine without a GPU
        name = f"test {metrics.pop()}" if column.key == "score" and len(metrics) == 1 else column.name
        line, reasons = [name], [""]
        for row in rows:
            line.append(_number(row, column))
            reasons.append("" if line[-1] else row["reasons"].get(column.key, "not measured"))
        text.append(line)
        why.append(reasons)
    seeds = ["seeds", *(", ".join(str(s) for s in r["seeds"]) for r in rows)]
    text.append(seeds)
    why.append(["", *("" if r["seeds"] else r["error"] for r in rows)])
    return head, text, why


def notes(rows: Sequence[Row], why: Sequence[Sequence[str]]) -> list[str]:
    """What the table cannot say in its cells: failures, and why cells are blank."""
    out = []
    for i, row in enumerate(rows, 1):
        if row["failed"]:
            which = ", ".join(str(s) for s in row["failed"])
            out.append(f"{label(row)}, seed {which}: {row['error']}")
        if row.get("note"):
            out.append(f"{label(row)}: {row['note']}")
        if row["seeds"]:
            reasons = dict.fromkeys(line[i] for line in why if line[i])
            out += [f"{label(row)}, blank: {reason}" for reason in reasons]
    return out


def meanings() -> str:
    """The measures, explained in one sentence."""
    return "; ".join(f"{c.name}: {c.meaning}" for c in COLUMNS if c.meaning) + "."


def to_csv(rows: Sequence[Row]) -> str:
    """A line for each model, plain numbers in base units, with deviations, and an empty field where none was had."""
    keys = [c.key for c in COLUMNS]
    names = ["model", "data", "solver", "adjoint", "status", "error", "seeds"]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*names, *(n for k in keys for n in (k, f"{k}_std")), "missing"])
    for row in rows:
        plain = [row["model"], row["data"], row["solver"] or "", row["adjoint"] or "", row["status"], row["error"]]
        numbers = [v for k in keys for v in (row["values"].get(k, ""), row["std"].get(k, ""))]
        missing = "; ".join(f"{k}: {v}" for k, v in row["reasons"].items())
        writer.writerow([*plain, " ".join(str(s) for s in row["seeds"]), *numbers, missing])
    return stream.getvalue()


def _number(row: Row, column: Column) -> str:
    value = row["values"].get(column.key)
    if value is None:
        return ""
    text = _short(value / column.unit, column.digits)
    spread = row["std"].get(column.key)
    if spread is not None and column.key in SPREAD:
        text += f" +- {_short(spread / column.unit, 2)}"
    return text


def _short(value: float, digits: int) -> str:
    if value and not 1e-3 <= abs(value) < 1e6:
        return f"{value:.{digits - 1}e}"
    whole = f"{value:.{digits}g}"
    return f"{value:,.0f}" if "e" in whole or abs(value) >= 10**digits else whole
