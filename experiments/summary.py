"""The tables of README, from ``experiments/results/*.json``: ``python experiments/summary.py [--write]``.

A number in README is never typed by hand: it stands between the two markers of its table, and a test compares.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "experiments" / "results"


def load() -> dict[str, dict[str, Any]]:
    return {p.stem: json.loads(p.read_text(encoding="utf-8")) for p in sorted(RESULTS.glob("*.json"))}


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [" | ".join(head), " | ".join("---" for _ in head), *(" | ".join(row) for row in rows)]
    return "\n".join(f"| {line} |" for line in lines)


def number(value: Any, form: str = "{:.1f}") -> str:
    """A number for a table; empty where it was not measured."""
    return "" if value is None else form.format(value)


def runs(records: dict[str, dict[str, Any]]) -> str:
    """Trained models: one row for each kept ``results.json``."""
    rows = []
    for name, r in records.items():
        if "test" not in r or "model" not in r:
            continue
        train, test = r.get("train", {}), r["test"]
        rows.append(
            [
                f"`{r['model']}`",
                r["data"],
                f"{r['parameters']:,}",
                number(100 * test["accuracy"], "{:.2f} %"),
                " + ".join(n for k in ("nfe_forward", "nfe_backward") if (n := number(train.get(k)))),
                number(test.get("nfe_forward")),
                f"{r['seconds'] / 60:.1f} min",
                f"[json](experiments/results/{name}.json)",
            ]
        )
    head = ["model", "data", "parameters", "test accuracy", "evaluations a training step", "at the test", "training"]
    return table([*head, "record"], rows)


def speed(records: dict[str, dict[str, Any]]) -> str:
    """Solvers and gradients beside TorchDEQ."""
    rows = []
    for r in records.get("bench_fixed_point", {}).get("rows", []):
        goal = number(r.get("goal_overhead"), "<= {:.2f}")
        if "zoo_overhead" in r:
            own, peer, form = r["zoo_overhead"], r.get("torchdeq_overhead"), "{:.2f}"
            measure = "overhead"
        elif "speedup" in r:
            own, peer, form, goal = r["zoo_ms"], r.get("torchdeq_ms"), "{:.1f}", f">= {r['goal_speedup']}x faster"
            measure = f"CPU ms ({r['speedup']:.2f}x faster)"
        else:
            continue
        rows.append(
            [r["what"], measure, goal, number(r.get("floor_overhead"), "{:.2f}"), form.format(own), number(peer, form)]
        )
    return table(["what", "measure", "goal", "floor", "zoo", "TorchDEQ 0.1.0"], rows)


def ode_speed(records: dict[str, dict[str, Any]]) -> str:
    """ODE solvers beside torchdiffeq: the goal, and what was measured."""
    rows = [
        [what, str(r.get("goal", "")), str(r.get("measured", "")), str(r.get("peer", ""))]
        for what, r in records.get("bench_ode", {}).get("rows", {}).items()
    ]
    return table(["what", "goal", "zoo", "torchdiffeq 0.2.5"], rows)


TABLES = {"runs": runs, "speed": speed, "ode": ode_speed}


def fill(text: str) -> str:
    """README's text with every table made anew between its markers."""
    records = load()
    for name, make in TABLES.items():
        start, end = f"<!-- {name}: experiments/summary.py -->", f"<!-- /{name} -->"
        before, _, rest = text.partition(start)
        _, found, after = rest.partition(end)
        if not found:
            raise ValueError(f"README.md lacks the markers {start} ... {end}")
        text = f"{before}{start}\n{make(records)}\n{end}{after}"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="put the tables into README.md")
    readme = ROOT / "README.md"
    text = fill(readme.read_text(encoding="utf-8"))
    if parser.parse_args().write:
        readme.write_text(text, encoding="utf-8")
    else:
        print("\n\n".join(make(load()) for make in TABLES.values()))


if __name__ == "__main__":
    main()
