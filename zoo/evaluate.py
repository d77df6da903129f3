"""Measure a trained model again: ``python -m zoo.evaluate --model mdeq_tiny.digits``.

Says whether the number in the model's card holds, within the card's tolerance. The exit code is 0 where it holds,
1 where it does not or could not be measured, 2 where the command was not understood.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from zoo.data import DATA
from zoo.hub import cards
from zoo.registry import UnknownName, unknown
from zoo.solvers import SOLVERS
from zoo.storage.model_folder import WeightsError
from zoo.training.process import prepare

PROG = "zoo.evaluate"


def parser() -> argparse.ArgumentParser:
    """The options; torch is not imported for them."""
    have = cards.list_models(pretrained=True)
    out = argparse.ArgumentParser(
        prog=f"python -m {PROG}",
        description="Measure a trained model on its test split and say whether its card's number holds.",
        epilog=f"weights that come with the package: {', '.join(have) or 'none yet'}",
        allow_abbrev=False,
    )
    out.add_argument(
        "--model", metavar="NAME", help="mdeq_tiny.digits, a model folder, a run folder, or hf-hub:org/name"
    )
    out.add_argument("--all", action="store_true", help="every set of weights that comes with the package")
    out.add_argument(
        "--data", metavar="NAME", help="another data set than it was trained on; no number is checked then"
    )
    out.add_argument(
        "--data.root", dest="root", metavar="DIR", help="folder of the data sets (default $ZOO_DATA, ./data)"
    )
    out.add_argument("--data.batch_size", dest="batch_size", type=int, default=256, metavar="N")
    out.add_argument("--solver", metavar="NAME", help="another solver than it was trained with")
    out.add_argument("--limit", type=int, metavar="N", help="only the first N batches; no number is checked then")
    out.add_argument("--json", metavar="FILE", help="write the measurements there as JSON; - for the terminal")
    return out


def table(rows: list[dict[str, Any]]) -> None:
    """Print the measurements, the verdict first, so that a narrow terminal shows it."""
    from rich.console import Console
    from rich.table import Table

    out = Table(box=None, pad_edge=False)
    out.add_column("model", overflow="fold", min_width=12)
    out.add_column("holds", no_wrap=True)
    for title in ("metric", "measured", "card", "nfe", "converged", "samples", "seconds"):
        out.add_column(title, justify="left" if title == "metric" else "right", no_wrap=True)
    for row in rows:
        if "error" in row:
            out.add_row(row["name"], "failed")
            continue
        test = row["test"]
        out.add_row(
            row["name"] if row["name"].endswith(f".{row['data']}") else f"{row['name']} on {row['data']}",
            {True: "yes", False: "NO", None: "-"}[row["holds"]],
            row["metric"],
            f"{row['measured']:.4f}",
            "" if row["card"] is None else f"{row['card']:.4f} +- {row['tolerance']:.4f}",
            f"{test['nfe_forward']:.1f}" if "nfe_forward" in test else "",
            f"{test['converged']:.0%}" if "converged" in test else "",
            f"{row['samples']:,}",
            f"{row['seconds']:.1f}",
        )
    Console(width=None if sys.stdout.isatty() else 140, highlight=False).print(out)


def main(argv: Iterable[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    given = parser().parse_args(None if argv is None else list(argv))
    try:
        if bool(given.model) == bool(given.all):
            raise UnknownName("say which: --model NAME, or --all for every set of weights that comes with the package")
        names = cards.list_models(pretrained=True) if given.all else [given.model]
        if given.data and given.data not in DATA:
            raise UnknownName(unknown("data set", given.data, DATA.names()))
        if given.solver and given.solver not in SOLVERS:
            raise UnknownName(unknown("solver", given.solver, SOLVERS.names()))
        if given.model and cards.is_card_name(given.model):
            cards.weights_of(cards.card(given.model), given.model.partition(".")[2])
    except (UnknownName, cards.CardError) as error:
        print(f"{PROG}: error: {error}", file=sys.stderr)
        return 2
    prepare()  # before torch is loaded
    from zoo.training.environment import environment
    from zoo.training.evaluate import evaluate

    rows = []
    for name in names:
        try:
            rows.append(
                evaluate(name, data=given.data, root=given.root, batch_size=given.batch_size, solver=given.solver,
                         limit=given.limit)
            )  # fmt: skip
        except (WeightsError, UnknownName, ValueError, OSError, RuntimeError) as error:
            print(f"{PROG}: error: {name}: {error}", file=sys.stderr)
            rows.append({"name": name, "error": str(error), "holds": False})
    report = {"rows": rows, "environment": environment()}
    if given.json == "-":
        print(json.dumps(report, indent=2))
    else:
        table(rows)
        if given.json:
            Path(given.json).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        for row in rows:
            if row["holds"] is False and "error" not in row:
                print(
                    f"{row['name']}: the {row['metric']} is {row['measured']:.4f}; {row['source']} says "
                    f"{row['card']:.4f} +- {row['tolerance']:.4f}.",
                    file=sys.stderr,
                )
    return 1 if any(row["holds"] is False for row in rows) else 0


if __name__ == "__main__":
    raise SystemExit(main())
