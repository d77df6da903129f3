"""From rows of single runs to one row a model: mean and deviation over seeds, and the tables that show them."""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zoo.compare.rows import LOADED

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
    Column("seconds_to_asked", "to the level asked for (s)", 1, 3, "until the validation was as good as --level"),
    Column("epochs", "epochs"),
)
OPTIONAL = ("peak_bytes", "seconds_to_asked")  # left out where no model has one: no GPU, or no --level
DRAWN = ("residuals", "anytime", "growth", "gradient")  # curves, see `zoo.compare.solver_curves`
SPREAD = (  # shown with +-
    "score", "nfe_forward", "nfe_backward", "seconds", "seconds_to_level", "seconds_to_asked", "residual",
)  # fmt: skip


def summarize(rows: Sequence[Row], asked: float | None = None) -> list[dict[str, Any]]:
    """One row for each model, solver, adjoint and set of options, over its seeds, in order of their first appearance.

    Args:
        rows: of single runs, as `zoo.compare.runner` writes them.
        asked: a level of the validation measure; the seconds to it stand beside those to the common level.
    """
    groups: dict[tuple[Any, ...], list[Row]] = {}
    level = common_level(rows)
    rows = timed(rows, level, "seconds_to_level")
    for row in rows if asked is None else timed(rows, asked, "seconds_to_asked"):
        options = json.dumps(row.get("options", {}), sort_keys=True)
        groups.setdefault((row["model"], row["data"], row["solver"], row["adjoint"], options), []).append(row)
    out = []
    alike = {key: [_leaves(json.loads(k[-1])) for k in groups if k[:-1] == key[:-1]] for key in groups}
    one = len({g[:-1] for g in groups}) > 1 and len({model for model, *_ in groups}) == 1  # then what differs will do
    for key, runs in groups.items():
        model, data, solver, adjoint, options = key
        chosen = [p for p in (solver, adjoint) if p]
        differs = _differences(_leaves(json.loads(options)), alike[key])
        good = [r for r in runs if r["status"] == "finished"]
        bad = [r for r in runs if r["status"] != "finished"]
        values, std, reasons = _over_seeds(good, bad)
        newest = good[0] if good else {}
        out.append(
            {
                "label": ", ".join([" ".join(chosen if one and chosen else [model, *chosen]), *differs]),
                "model": model,
                "data": data,
                "solver": solver,
                "adjoint": adjoint,
                "options": json.loads(options),
                "status": "finished" if not bad else "partly" if good else "failed",
                "error": bad[0]["error"] if bad else "",
                "note": "; ".join(dict.fromkeys(r["note"] for r in runs if r.get("note"))),
                "metric": newest.get("metric", "score"),
                "level": level,
                "asked": asked,
                "seeds": [r["seed"] for r in good],
                "failed": [r["seed"] for r in bad],
                "values": values,
                "std": std,
                "reasons": reasons,
                "scores": [r["values"].get("score") for r in good],
                "curves": newest.get("curves", {}),
                "recipe": " / ".join(dict.fromkeys(spell(r["recipe"]) for r in good if r.get("recipe"))),
                "recipes": _distinct([r["recipe"] for r in good if r.get("recipe")]),
                "environment": newest.get("environment", {}),
                "environments": _distinct([r["environment"] for r in good if r.get("environment")], ("time",)),
            }
        )
    return out


def _leaves(options: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Every value of nested options, by its dotted name."""
    out: dict[str, Any] = {}
    for key, value in options.items():
        out |= _leaves(value, f"{above}{key}.") if isinstance(value, Mapping) else {f"{above}{key}": value}
    return out


def _differences(own: Mapping[str, Any], all_of: Sequence[Mapping[str, Any]]) -> list[str]:
    """The options that tell rows of one model apart, in words."""
    keys = [k for k, v in own.items() if any(other.get(k) != v for other in all_of) and v != -1]
    return [_clock(own[k]) if k == "trainer.max_time" else f"{k.rpartition('.')[2]} {own[k]}" for k in keys]


def _over_seeds(good: Sequence[Row], bad: Sequence[Row]) -> tuple[dict[str, float], dict[str, float], dict[str, str]]:
    """Means, deviations, and why a value or a curve is missing."""
    values: dict[str, float] = {}
    std: dict[str, float] = {}
    reasons: dict[str, str] = {}
    loaded = any(r["reasons"].get("seconds") == LOADED for r in good)  # the same weights for every seed: no spread
    for column in COLUMNS:
        found = [r["values"][column.key] for r in good if column.key in r["values"]]
        finite = [v for v in found if _finite(v)]
        if finite:
            values[column.key] = statistics.mean(finite)
            if len(finite) > 1 and not loaded:
                std[column.key] = statistics.stdev(finite)
            continue
        why = [r["reasons"][column.key] for r in good if column.key in r["reasons"]]
        why += ["not a finite number"] if found else [r["error"] for r in bad]
        reasons[column.key] = why[0] if why else "not measured"
    if good:
        missing = [name for name in DRAWN if name not in good[0]["curves"]]
        reasons |= {name: good[0]["reasons"][name] for name in missing if name in good[0]["reasons"]}
    return values, std, reasons


def validated(row: Row) -> list[tuple[float, float]]:
    """Seconds and measure of each validation of a run that gave a finite number."""
    curve = row["curves"].get("score") or {"seconds": [], "value": []}
    points = zip(curve["seconds"], curve["value"], strict=True)
    return [(s, v) for s, v in points if _finite(s) and _finite(v)]


def common_level(rows: Sequence[Row]) -> float | None:
    """The validation measure that every trained run reached at its best; None where no run was trained.

    A run whose validation was never a finite number has no best, and is left out.
    """
    found = [([v for _, v in validated(r)], r.get("maximise", True)) for r in rows]
    curves = [(values, up) for values, up in found if values]
    if not curves or len({up for _, up in curves}) != 1:
        return None
    return min(max(v) for v, _ in curves) if curves[0][1] else max(min(v) for v, _ in curves)


def timed(rows: Sequence[Row], level: float | None, key: str) -> list[Row]:
    """The rows, each with the seconds of training after which its validation was as good as ``level``, as ``key``."""
    out: list[Row] = []
    for row in rows:
        points, sign = validated(row), 1 if row.get("maximise", True) else -1
        first = None if level is None else next((s for s, v in points if sign * (v - level) >= 0), None)
        if first is not None:
            row = {**row, "values": {**row["values"], key: first}}
        elif row["status"] == "finished":
            if not row["curves"].get("score"):
                why = "no validation was kept of its training"
            elif not points:
                why = "its validation was never a finite number"
            elif level is None:
                why = "for some models more is better, for others less: they have no level in common"
            else:
                best = sign * max(sign * v for _, v in points)
                why = f"its validation came to {best:.4g} at best, not to {level:.4g}"
            row = {**row, "reasons": {**row["reasons"], key: why}}
        out.append(row)
    return out


def spell(recipe: Mapping[str, Any]) -> str:
    """A recipe in words: ``adamw, lr 0.003, batches of 128, 15 min``."""
    parts = [str(recipe["optimiser"])] if "optimiser" in recipe else []
    parts += [f"lr {recipe['lr']:g}"] if "lr" in recipe else []
    parts += [f"batches of {recipe['batch_size']}"] if "batch_size" in recipe else []
    if "max_time" in recipe:
        parts.append(_clock(recipe["max_time"]))
    parts += [f"{recipe['max_steps']} steps"] if "max_steps" in recipe else []
    epochs = recipe.get("max_epochs")
    parts += [f"{epochs} epoch{'s' if epochs != 1 else ''}"] if epochs is not None else []
    return ", ".join(parts)


def _clock(text: Any) -> str:
    """The Trainer's ``days:hours:minutes:seconds`` as a person says it."""
    numbers = str(text).split(":")
    if len(numbers) != 4 or not all(n.isdigit() for n in numbers):
        return str(text)
    units = zip(numbers, ("d", "h", "min", "s"), strict=True)
    return " ".join(f"{int(n)} {unit}" for n, unit in units if int(n))


def label(row: Row) -> str:
    """What a row is called: the model, and the solver and adjoint where they were asked for."""
    return str(row["label"])


def cells(rows: Sequence[Row]) -> tuple[list[str], list[list[str]], list[list[str]]]:
    """Head, text and reasons of the table: a line for each measure, a column for each model."""
    head = ["", *(label(r) for r in rows)]
    text, why = [], []
    metrics = {r["metric"] for r in rows if r["seeds"]}
    for column in COLUMNS:
        if not _shown(rows, column):
            continue
        name = f"test {next(iter(metrics))}" if column.key == "score" and len(metrics) == 1 else column.name
        if column.key == "seconds_to_asked":
            name = f"to {next(iter(metrics)) if len(metrics) == 1 else 'the level'} {rows[0]['asked']:g} (s)"
        line, reasons = [name], [""]
        for row in rows:
            line.append(_number(row, column))
            reasons.append("" if line[-1] else row["reasons"].get(column.key, "not measured"))
        text.append(line)
        why.append(reasons)
    seeds = ["seeds", *(", ".join(str(s) for s in r["seeds"]) for r in rows)]
    text.append(seeds)
    why.append(["", *("" if r["seeds"] else r["error"] for r in rows)])
    text.append(["recipe", *(r["recipe"] for r in rows)])
    why.append(["", *("" if r["recipe"] else r["error"] or "not kept when it was measured" for r in rows)])
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


def meanings(rows: Sequence[Row]) -> str:
    """The measures that are shown, explained in one sentence."""
    return "; ".join(f"{c.name}: {c.meaning}" for c in COLUMNS if c.meaning and _shown(rows, c)) + "."


def _shown(rows: Sequence[Row], column: Column) -> bool:
    asked = column.key == "seconds_to_asked" and any(r["asked"] is not None for r in rows)
    return asked or column.key not in OPTIONAL or any(column.key in r["values"] for r in rows)


def to_csv(rows: Sequence[Row]) -> str:
    """A line for each model, plain numbers in base units, with deviations, and an empty field where none was had."""
    keys = [c.key for c in COLUMNS]
    names = ["model", "data", "solver", "adjoint", "status", "error", "seeds", "recipe", "hardware", "commit", "asked"]
    several = len({json.dumps(row.get("options", {}), sort_keys=True) for row in rows}) > 1
    names += ["options"] if several else []
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*names, *(n for k in keys for n in (k, f"{k}_std")), "missing"])
    for row in rows:
        plain = [row["model"], row["data"], row["solver"] or "", row["adjoint"] or "", row["status"], row["error"]]
        numbers = [v for k in keys for v in (row["values"].get(k, ""), row["std"].get(k, ""))]
        missing = "; ".join(f"{k}: {v}" for k, v in row["reasons"].items())
        plain += [" ".join(str(s) for s in row["seeds"]), row["recipe"]]
        plain += [" / ".join(dict.fromkeys(of(e) for e in row["environments"])) for of in (hardware, commit)]
        plain.append("" if row["asked"] is None else row["asked"])
        plain += [json.dumps(row["options"], sort_keys=True)] if several else []
        writer.writerow([*plain, *numbers, missing])
    return stream.getvalue()


def hardware(environment: Mapping[str, Any]) -> str:
    """What something was measured on, in a few words."""
    had = environment["hardware"]
    threads = f"{had['threads']} thread{'s' if had['threads'] != 1 else ''}"
    return ", ".join(had["gpus"]) or f"{had['cpu']}, {threads}"


def commit(environment: Mapping[str, Any]) -> str:
    """The commit in short, and whether files differed from it."""
    name, changed, _ = (environment["commit"] or "unknown").partition("+")
    return f"{name[:12]}{'+changes' if changed else ''}"


def _distinct(things: Sequence[Mapping[str, Any]], besides: Sequence[str] = ()) -> list[Mapping[str, Any]]:
    """The first of those that are alike in all but the keys ``besides``."""
    out: dict[str, Mapping[str, Any]] = {}
    for thing in things:
        out.setdefault(repr({k: v for k, v in thing.items() if k not in besides}), thing)
    return list(out.values())


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


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
    """A number of so many digits: ``0.984``, ``158,458``, ``11,172,810``, ``2.1e-05``.

    >>> _short(11172810, 12), _short(2.1234e-05, 2), _short(1234.5, 3), _short(0.984, 4)
    ('11,172,810', '2.1e-05', '1,234', '0.984')
    """
    if value and not 1e-3 <= abs(value) < 1e15:
        return f"{value:.{min(digits, 3) - 1}e}"
    whole = f"{value:,.{digits}g}"
    return f"{value:,.0f}" if "e" in whole else whole
