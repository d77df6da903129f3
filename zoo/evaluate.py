"""Measure a trained model again: ``python -m zoo.evaluate --model mdeq_tiny.digits``.

Says whether the number in the model's card holds, within the card's tolerance. The exit code is 0 where it holds,
1 where it does not or could not be measured, 2 where the command was not understood.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping
from itertools import product
from pathlib import Path
from typing import Any

from zoo.data import DATA
from zoo.hub import cards
from zoo.registry import UnknownName, unknown
from zoo.solvers import SOLVERS
from zoo.storage.model_folder import WeightsError
from zoo.training.command import CommandParser, command, wrapped
from zoo.training.errors import UsageError


def parser() -> CommandParser:
    """The options; torch is not imported for them."""
    have = cards.list_models(pretrained=True)
    out = CommandParser(
        "zoo.evaluate",
        "Measure a trained model on its test split and say whether its card's number holds.",
        wrapped("weights that come with the package", have),
        aliases={"--ckpt": "--model"},
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
    out.add_argument(
        "--depth", type=int, nargs="+", metavar="N", help="steps that a solve may take at most; one row for each"
    )
    out.add_argument(
        "--starts",
        type=int,
        nargs="+",
        metavar="N",
        help="starts of a reasoner, the least residual wins; a row for each",
    )
    out.add_argument("--limit", type=int, metavar="N", help="only the first N batches; no number is checked then")
    out.add_argument("--json", metavar="FILE", help="write the measurements there as JSON; - for the terminal")
    return out


ASKED = ("depth", "starts")  # columns of what a model may be measured at several of
MORE: Mapping[str, tuple[str, str]] = {  # columns of the table that only some rows fill: title, form
    "nfe_forward": ("nfe", "{:.1f}"),
    "converged": ("converged", "{:.0%}"),
    "residual_auroc": ("ROC area", "{:.4f}"),
    "answered_at_99": ("99 % sure", "{:.1%}"),
}


def table(rows: list[dict[str, Any]]) -> None:
    """Print the measurements, the verdict first, so that a narrow terminal shows it."""
    from rich.console import Console
    from rich.table import Table

    out = Table(box=None, pad_edge=False)
    out.add_column("model", overflow="fold", min_width=12)
    out.add_column("holds", no_wrap=True)
    asked = [key for key in ASKED if any(row.get(key) for row in rows)]
    more = {k: v for k, v in MORE.items() if any(k in row.get("test", ()) for row in rows)}
    titles = [title for title, _ in more.values()]
    for title in (*asked, "metric", "measured", "card", *titles, "samples", "seconds"):
        out.add_column(title, justify="left" if title == "metric" else "right", no_wrap=True)
    for row in rows:
        if "error" in row:
            out.add_row(row["name"], "failed")
            continue
        test = row["test"]
        out.add_row(
            row["name"] if row["name"].endswith(f".{row['data']}") else f"{row['name']} on {row['data']}",
            {True: "yes", False: "NO", None: "-"}[row["holds"]],
            *(str(row[key] or "") for key in asked),
            row["metric"],
            f"{row['measured']:.4f}",
            "" if row["card"] is None else f"{row['card']:.4f} +- {row['tolerance']:.4f}",
            *(form.format(test[k]) if k in test else "" for k, (_, form) in more.items()),
            f"{row['samples']:,}",
            f"{row['seconds']:.1f}",
        )
    Console(width=None if sys.stdout.isatty() else 140, highlight=False).print(out)


def names_of(given: argparse.Namespace) -> list[str]:
    """The models to measure; what the command line names is known to exist."""
    if bool(given.model) == bool(given.all):
        raise UsageError("say which: --model NAME, or --all for every set of weights that comes with the package")
    if given.data and given.data not in DATA:
        raise UnknownName(unknown("data set", given.data, DATA.names()))
    if given.solver and given.solver not in SOLVERS:
        raise UnknownName(unknown("solver", given.solver, SOLVERS.names()))
    if given.model and cards.is_card_name(given.model):
        cards.weights_of(cards.card(given.model), given.model.partition(".")[2])
    return cards.list_models(pretrained=True) if given.all else [given.model]


def work(given: argparse.Namespace) -> int:
    """Measure each model, and show what was found; one that cannot be measured costs its own row."""
    names = names_of(given)
    from zoo.training.environment import environment
    from zoo.training.evaluate import evaluate

    options = {"data": given.data, "root": given.root, "batch_size": given.batch_size, "solver": given.solver}
    rows = []
    for name, depth, starts in product(names, given.depth or [None], given.starts or [None]):
        try:
            rows.append(evaluate(name, **options, depth=depth, starts=starts, limit=given.limit))
        except (WeightsError, UnknownName, ValueError, OSError, RuntimeError) as error:
            named = "" if name in str(error) else f"{name}: "
            print(f"zoo.evaluate: error: {named}{error}", file=sys.stderr)
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


def main(argv: Iterable[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return command(parser(), work, argv)


if __name__ == "__main__":
    raise SystemExit(main())
