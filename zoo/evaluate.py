"""Measure a trained model again: ``python -m zoo.evaluate --model mdeq_tiny.digits``.

Says whether the number in the model's card holds, within the card's tolerance. The exit code is 0 where it holds,
1 where it does not or could not be measured, 2 where the command was not understood.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.data import DATA
from zoo.hub import cards
from zoo.registry import UnknownName, option_names, unknown
from zoo.solvers import SOLVERS
from zoo.storage.model_folder import WeightsError
from zoo.training.process import prepare
from zoo.training.request import DERIVED

if TYPE_CHECKING:
    from torch import nn

PROG = "zoo.evaluate"
TOLERANCE = 0.002  # where neither the card nor the folder says one


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


def evaluate(
    name: str,
    *,
    data: str | None = None,
    root: str | Path | None = None,
    batch_size: int = 256,
    solver: str | Mapping[str, Any] | None = None,
    limit: int | None = None,
) -> dict[str, Any]:
    """Measure a trained model on a test split, and compare with what its card, or else its folder, says.

    Args:
        name: what `zoo.load` takes.
        data: name of the data set; None: the one it was trained on.
        root: folder of the data sets.
        batch_size: samples a batch. A converged sample does not depend on it.
        solver: another solver than the model was trained with.
        limit: only so many batches.

    Returns:
        ``name``, ``data``, ``metric``, ``measured``, ``card`` and ``tolerance`` (None where there is no number to
        compare with), ``holds`` (True, False, or None), ``samples``, ``seconds``, ``parameters``, ``test`` (all numbers
        of the test) and ``source`` of the number compared with.
    """
    from zoo.hub.pretrained import load

    model = load(name, solver=solver)
    saved = model.pretrained
    variant, _, trained_on = saved.name.partition(".")  # type: ignore[union-attr]
    c = cards.card(variant)
    test, seconds, samples, metric = measure(
        model,
        c,
        data or trained_on,
        root=root,
        batch_size=batch_size,
        limit=limit,
        settings=saved.training.get("recipe", {}).get("data") if data in (None, trained_on) else None,
    )
    promised: Mapping[str, Any] = saved.metrics  # type: ignore[union-attr,assignment]
    source = "config.json"
    shipped = cards.card(name.partition(".")[0]).name == variant if _is_name(name) else False
    if shipped and trained_on in c.measured:
        promised, source = c.measured[trained_on], Path(c.source).name
    number = promised.get(metric) if data in (None, trained_on) and limit is None else None
    tolerance = float(promised.get("tolerance", TOLERANCE)) if number is not None else None
    return {
        "name": saved.name,  # type: ignore[union-attr]
        "data": data or trained_on,
        "metric": metric,
        "measured": test[metric],
        "card": number,
        "tolerance": tolerance,
        "holds": None if number is None else bool(abs(test[metric] - number) <= tolerance),  # type: ignore[operator]
        "source": source if number is not None else None,
        "samples": samples,
        "seconds": round(seconds, 2),
        "parameters": sum(p.numel() for p in model.parameters()),
        "test": test,
    }


def measure(
    model: nn.Module,
    card: cards.ModelCard,
    data: str,
    *,
    root: str | Path | None = None,
    batch_size: int = 256,
    limit: int | None = None,
    settings: Mapping[str, Any] | None = None,
) -> tuple[dict[str, float], float, int, str]:
    """Run the card's task over a test split.

    Args:
        settings: options of the data set that the model was trained with, which say what its samples are.

    Returns:
        the numbers, the seconds, the number of samples, and the name of the metric that models are chosen by.
    """
    from lightning import Trainer

    from zoo.callbacks.telemetry import SolverTelemetry
    from zoo.training.console import quiet

    if data not in DATA:
        raise UnknownName(unknown("data set", data, DATA.names()))
    wanted = {"root": None if root is None else str(root), "batch_size": batch_size}
    known = option_names(DATA[data])
    kept = {k: v for k, v in (settings or {}).items() if k not in wanted and k in known}
    module = DATA[data](**kept, **wanted)
    for key in DERIVED:
        if hasattr(module, key) and hasattr(model, key) and getattr(model, key) != getattr(module, key):
            raise WeightsError(
                f"The model has {key} {getattr(model, key, None)}, {data} has {getattr(module, key)}: they cannot be "
                "measured together."
            )
    kind = card.load_task()
    with quiet(PROG):
        trainer = Trainer(
            accelerator="auto",
            devices=1,
            logger=False,
            callbacks=[SolverTelemetry()],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            limit_test_batches=limit,
        )
        task = kind(model)
        start = time.perf_counter()
        found = trainer.test(task, datamodule=module, verbose=False)[0]
        seconds = time.perf_counter() - start
    test = {k.removeprefix("test/"): float(v) for k, v in found.items()}
    total = module.sizes["test"] if hasattr(module, "sizes") else 0
    samples = min(total, limit * batch_size) if limit else total
    return test, seconds, samples, task.monitor.partition("/")[2]


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
        if given.model and _is_name(given.model):
            cards.weights_of(cards.card(given.model), given.model.partition(".")[2])
    except (UnknownName, cards.CardError) as error:
        print(f"{PROG}: error: {error}", file=sys.stderr)
        return 2
    prepare()  # before torch is loaded
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
    from zoo.training.environment import environment

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


def _is_name(text: str) -> bool:
    """Whether a model is meant by the name of a card, not by a place."""
    return bool(text) and ":" not in text and "/" not in text and not Path(text).exists()


if __name__ == "__main__":
    raise SystemExit(main())
