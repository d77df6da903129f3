"""The tables of README and docs/measurements.md, from experiments/results: ``experiments/summary.py [--write]``.

A number there is never typed by hand: it stands between the two markers of its table, and a test compares.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zoo.measures import headline

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
        train, test, shown = r.get("train", {}), r["test"], headline(r)
        rows.append(
            [
                f"`{r['model']}`",
                r["data"],
                f"{r['parameters']:,}",
                f"{shown.short} {shown.write(test[shown.key])}",
                " + ".join(n for k in ("nfe_forward", "nfe_backward") if (n := number(train.get(k)))),
                number(test.get("nfe_forward")),
                f"{r['seconds'] / 60:.1f} min",
                f"[json](experiments/results/{name}.json)",
            ]
        )
    head = ["model", "data", "parameters", "test", "evaluations a training step", "at the test", "training"]
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


def hyper_speed(records: dict[str, dict[str, Any]]) -> str:
    """A batch of generated weights through `HyperTarget`, over the same written by hand."""
    found = records.get("bench_hypernet", {}).get("rows", [])
    names = dict.fromkeys(r["problem"] for r in found)
    by = {(r["problem"], r["threads"]): r for r in found}
    threads = sorted({r["threads"] for r in found})
    rows = [[n, f"<= {found[0]['goal']}", *(number(by[n, t]["ratio"], "{:.2f}") for t in threads)] for n in names]
    return table(["training step", "goal", *(f"zoo / by hand, {t} thread{'s' * (t > 1)}" for t in threads)], rows)


def goals(records: dict[str, dict[str, Any]]) -> str:
    """What experiments were to reach, and what they did."""
    rows = [
        [what, goal, got, f"[json](../experiments/results/{name}.json)"]
        for name, read in GOALS.items()
        if name in records
        for what, goal, got in read(records[name])
    ]
    return table(["what", "goal", "measured", "record"], rows)


Goal = tuple[str, str, str]  # what, the goal, what was measured


def _reached(what: str, goal: str) -> Callable[[dict[str, Any]], list[Goal]]:
    """The measure of a kept run."""

    def read(r: dict[str, Any]) -> list[Goal]:
        shown = headline(r)
        return [(what, goal, f"{shown.write(r['test'][shown.key])}")]

    return read


def _memory(r: dict[str, Any]) -> list[Goal]:
    return [
        (
            f"bytes kept for the backward pass, `{name}`, at {', '.join(map(str, m['iterations']))} iterations",
            "equal within 5 %",
            f"{m['implicit'][0]:,}, differing by {m['spread']:.2%}; unrolled {m['unrolled'][0]:,} to "
            f"{m['unrolled'][-1]:,}",
        )
        for name, m in r["models"].items()
    ]


def _forgetting(r: dict[str, Any]) -> list[Goal]:
    got = f"{r['test']['accuracy']:.2%}, forgetting {r['test']['forgetting']:.2%}"
    goal = ">= 99.0 %, forgetting < 0.5 %" if r["model"] == "continual" else "(plain fine-tuning, beside it)"
    return [(f"split MNIST, mean over five tasks, `{r['model']}`", goal, got)]


GOALS: dict[str, Callable[[dict[str, Any]], list[Goal]]] = {
    "odenet_mnist_mnist": _reached("ODE-Net on mnist", ">= 99.3 %"),
    "hyper_cnn_mnist": _reached("hyper-CNN on mnist (99.24 % published)", ">= 99.1 %"),
    "cnn_mnist": _reached("its plain twin (99.28 % published)", ""),
    "hyper_fewshot_omniglot": _reached("Omniglot 5-way 1-shot, hypernetwork", ">= 97 %"),
    "imaml_head_omniglot": _reached("Omniglot 5-way 1-shot, iMAML (99.5 % published)", ">= 97 %"),
    "continual_split_mnist": _forgetting,
    "multihead_split_mnist": _forgetting,
    "memory": _memory,
}

README = {"runs": runs}
MEASUREMENTS = {"goals": goals, "speed": speed, "ode": ode_speed, "hypernet": hyper_speed}
FILES = {ROOT / "README.md": README, ROOT / "docs" / "measurements.md": MEASUREMENTS}


def fill(file: Path) -> str:
    """A file's text with every table made anew between its markers."""
    records, text = load(), file.read_text(encoding="utf-8")
    for name, make in FILES[file].items():
        start, end = f"<!-- {name}: experiments/summary.py -->", f"<!-- /{name} -->"
        before, _, rest = text.partition(start)
        _, found, after = rest.partition(end)
        if not found:
            raise ValueError(f"{file.name} lacks the markers {start} ... {end}")
        text = f"{before}{start}\n{make(records)}\n{end}{after}"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="put the tables into the files")
    write = parser.parse_args().write
    for file in FILES:
        text = fill(file)
        if write:
            file.write_text(text, encoding="utf-8")
        else:
            print("\n\n".join(make(load()) for make in FILES[file].values()))


if __name__ == "__main__":
    main()
