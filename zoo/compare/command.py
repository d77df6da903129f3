"""The command line of a comparison. Names are checked, and ``--help`` answered, without torch."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from zoo.compare.comparison import compare_jobs, default_folder
from zoo.compare.jobs import jobs_of
from zoo.data import DATA
from zoo.hub import cards
from zoo.hub.cards import SECTIONS
from zoo.training.command import CommandParser, command, wrapped
from zoo.training.errors import UsageError

EPILOG = """\
examples:
  python -m zoo.compare --models mdeq_tiny odenet timm:resnet18 --data digits --seeds 0 1 2 --budget 60s
  python -m zoo.compare --models mdeq_tiny --solvers anderson broyden picard --adjoints implicit phantom jfb
  python -m zoo.compare --models mdeq_tiny resnet_tiny --optim.lr 1e-3 --data.batch_size 32
  python -m zoo.compare --theory --out experiments/results

Each model and seed runs in a process of its own, and costs one row if it fails. Called again, a comparison goes on
where it was stopped, and tries again what failed; with other models they stand beside those that are there."""


def parser() -> CommandParser:
    """The options; torch is not imported for them."""
    names = [*cards.list_models(), "timm:NAME"]
    out = CommandParser(
        "zoo.compare",
        "Train and measure models side by side, or measure their theory.",
        f"{EPILOG}\n\n{wrapped('models', names)}\n{wrapped('data sets', DATA.names())}",
        aliases={
            "--model": "--models",
            "--seed": "--seeds",
            "--solver": "--solvers",
            "--adjoint": "--adjoints",
            **{f"--{s}_options": f"--{s}-options" for s in SECTIONS},
        },
        sections=SECTIONS,
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
    out.add_argument_group(
        "options of every run", f"{'  '.join(f'--{s}.X' for s in SECTIONS)} VALUE, as zoo.fit takes them"
    )
    for section in SECTIONS:
        out.add_argument(f"--{section}-options", nargs="+", default=[], help=argparse.SUPPRESS)
    return out


def main(argv: Iterable[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 1 some row failed, 2 not understood, 130 interrupted."""
    last = "interrupted; what was measured is kept, the same command goes on."
    return command(parser(), lambda given: theory(given) if given.theory else models(given), argv, interrupted=last)


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
    options = {s: {**options[s], **given.sections.get(s, {})} for s in SECTIONS}
    budget = " ".join(given.budget) if given.budget else None
    jobs = jobs_of(given.models, given.data, given.seeds, budget, given.solvers, given.adjoints, options)
    folder = Path(given.out) if given.out else default_folder(jobs)
    say = partial(print, flush=True)
    done = compare_jobs(jobs, folder, name=given.name, timeout=given.timeout, level=given.level, say=say)
    from zoo.compare.report import show

    show(done.rows)
    print(f"written to {folder}: {', '.join(f.name for f in done.files)}, figures/")
    return 1 if any(row["failed"] for row in done.asked) else 0


def _pair(word: str) -> tuple[str, str]:
    key, equals, value = word.partition("=")
    if not equals:
        raise UsageError(f"options are given as KEY=VALUE; got {word!r}")
    return key, value
