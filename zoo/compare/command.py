"""The command line of a comparison. Names are checked, and ``--help`` answered, without torch."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

from zoo.compare.runner import jobs_of, run_all
from zoo.compare.table import summarise
from zoo.data import DATA
from zoo.hub import cards
from zoo.registry import UnknownName
from zoo.training.errors import UsageError
from zoo.training.process import prepare

PROG = "zoo.compare"
SECTIONS = ("optim", "task", "trainer", "data")

EPILOG = """\
examples:
  python -m zoo.compare --models mdeq_tiny odenet timm:resnet18 --data digits --seeds 0 1 2 --budget 60s
  python -m zoo.compare --models mdeq_tiny --solvers anderson broyden picard --adjoints implicit phantom jfb
  python -m zoo.compare --theory --out experiments/results

Each model and seed runs in a process of its own, and costs one row if it fails. Called again, a comparison goes on
where it was stopped, and tries again what failed."""


def parser() -> argparse.ArgumentParser:
    """The options; torch is not imported for them."""
    names = [n for n in cards.all_cards() if not n.startswith("test_")]
    out = argparse.ArgumentParser(
        prog=f"python -m {PROG}",
        description="Train and measure models side by side, or measure the theory behind them.",
        epilog=f"{EPILOG}\n\nmodels: {', '.join(names)}, timm:NAME\ndata sets: {', '.join(DATA.names())}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    out.add_argument(
        "--models", nargs="+", metavar="NAME", default=[], help="names, name.data (loads its weights), timm:NAME"
    )
    out.add_argument("--data", metavar="NAME", help="the data set (default: that of the first model)")
    out.add_argument("--seeds", nargs="+", type=int, default=[0], metavar="N", help="train once for each (default 0)")
    out.add_argument(
        "--budget", nargs="+", metavar="B", help="of training: 60s, 5m, 2h, or 3 epochs (default: the recipe's)"
    )
    out.add_argument("--solvers", nargs="+", default=[], metavar="NAME", help="each implicit model with each of these")
    out.add_argument("--adjoints", nargs="+", default=[], metavar="NAME", help="each implicit model with each of these")
    out.add_argument(
        "--level", type=float, metavar="X", help="also tell the seconds until the validation was this good (0.95)"
    )
    out.add_argument("--out", metavar="DIR", help="folder of the results (default runs/compare/<data>)")
    out.add_argument("--name", metavar="NAME", default="compare", help="name of the files in it (default compare)")
    out.add_argument("--timeout", type=float, metavar="S", help="seconds that one process may take")
    out.add_argument("--theory", action="store_true", help="measure the theory instead of models; a few minutes")
    out.add_argument("--quick", action="store_true", help="with --theory: see that it runs; its numbers say nothing")
    for section in SECTIONS:
        out.add_argument(
            f"--{section}-options", nargs="+", default=[], metavar="KEY=VALUE", help=f"of {section}, for every run"
        )
    return out


def main(argv: Iterable[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 1 some row failed, 2 not understood, 130 interrupted."""
    given = parser().parse_args(None if argv is None else list(argv))
    prepare()  # before torch is loaded
    try:
        return theory(given) if given.theory else models(given)
    except (UsageError, UnknownName, cards.CardError, OSError) as error:
        print(f"{PROG}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\n{PROG}: interrupted; what was measured is kept, the same command goes on.", file=sys.stderr)
        return 130


def theory(given: argparse.Namespace) -> int:
    """Measure the theory, print its table, and write it where ``--out`` says."""
    from zoo.compare.theory.report import run_theory, show
    from zoo.compare.theory.scale import QUICK

    if given.models:
        raise UsageError("--theory measures small problems of its own; leave --models out")
    out = Path(given.out) if given.out else Path("runs") / "theory"
    results = run_theory(out, scale=QUICK if given.quick else None, say=lambda line: print(line, flush=True))
    show(results)
    print(f"written to {out}: theory.md, theory.html, theory.json, figures/")
    return 0


def models(given: argparse.Namespace) -> int:
    """Compare models, print the table, and write it."""
    if not given.models:
        raise UsageError("name the models: --models mdeq_tiny timm:resnet18, or ask for --theory")
    options = {s: dict(_pair(word) for word in getattr(given, f"{s}_options")) for s in SECTIONS}
    budget = " ".join(given.budget) if given.budget else None
    jobs = jobs_of(
        given.models,
        given.data,
        given.seeds,
        budget,
        given.solvers,
        given.adjoints,
        {k: v for k, v in options.items() if v},
    )
    folder = Path(given.out) if given.out else Path("runs") / "compare" / jobs[0].data
    found = run_all(jobs, folder, timeout=given.timeout, say=lambda line: print(line, flush=True))
    rows = summarise(found, given.level)
    from zoo.compare.report import show, write_report

    show(rows)
    files = write_report(rows, folder, given.name)
    print(f"written to {folder}: {', '.join(f.name for f in files)}, figures/")
    return 1 if any(row["failed"] for row in rows) else 0


def _pair(word: str) -> tuple[str, str]:
    key, equals, value = word.partition("=")
    if not equals:
        raise UsageError(f"options are given as KEY=VALUE; got {word!r}")
    return key, value
