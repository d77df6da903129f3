"""The command line of a sweep. Names are checked, and ``--help`` answered, without torch."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from zoo.hub import cards
from zoo.hub.cards import SECTIONS
from zoo.sweep.search import dimensions
from zoo.training.command import FAILURES, CommandParser, command
from zoo.training.errors import UsageError

EPILOG = """\
examples:
  python -m zoo.sweep --model mdeq --search optim.lr=log:1e-4:1e-2 solver.rtol=1e-2,1e-3 --trials 20
  python -m zoo.sweep --model odenet --data digits --search model.channels=8,16,32 --trainer.max_epochs 3

Called again, a sweep goes on where it was stopped. Several workers share one study where they share its storage:
start the same command on each, with --storage postgresql://... (or sqlite:///FILE on one machine)."""


def parser() -> CommandParser:
    """The options; torch is not imported for them."""
    out = CommandParser(
        "zoo.sweep",
        "Search the options of a training.",
        EPILOG,
        aliases={"--n-trials": "--trials", "--study-name": "--study"},
        sections=SECTIONS,
    )
    out.add_argument("--model", required=True, metavar="NAME", help="the model, as zoo.fit takes it")
    out.add_argument("--data", metavar="NAME", help="the data set (default: the model's first)")
    out.add_argument("--search", nargs="+", default=[], metavar="KEY=...", help="log:1e-4:1e-2, int:8:64, or A,B,C")
    out.add_argument("--trials", type=int, default=20, metavar="N", help="of the study, all workers together (20)")
    out.add_argument("--timeout", type=float, metavar="S", help="begin no trial after so many seconds")
    out.add_argument("--sampler", choices=("tpe", "random"), default="tpe", help="what suggests values (default tpe)")
    out.add_argument("--pruner", choices=("median", "hyperband", "none"), default="median", help="(default median)")
    out.add_argument("--seed", type=int, default=0, metavar="N", help="of the sampler and of every training")
    out.add_argument("--out", metavar="DIR", help="folder of the sweep (default runs/sweep/<model>_<data>)")
    out.add_argument("--storage", metavar="URL", help="of the study (default: SQLite in the folder)")
    out.add_argument("--study", metavar="NAME", help="its name there (default <model>_<data>)")
    words = "  ".join(f"--{s}.X" for s in SECTIONS)
    out.add_argument_group("options of every trial", f"{words} VALUE, as zoo.fit takes them")
    return out


def work(given: argparse.Namespace) -> int:
    """Check, search, and report."""
    space = dimensions(given.search)
    card = cards.card(given.model)
    data = given.data or given.model.partition(".")[2] or card.data[0]
    if given.trials < 1:
        raise UsageError(f"--trials must be at least 1; got {given.trials}")
    if find_spec("optuna") is None:
        raise ImportError("A sweep needs the package optuna: pip install 'implicit-zoo[sweep]'.")
    from zoo.sweep.report import write_report
    from zoo.sweep.study import Sweep, run

    label = f"{card.name.replace(':', '_')}_{data}"
    folder = Path(given.out) if given.out else Path("runs") / "sweep" / label
    sweep = Sweep(
        model=given.model.partition(".")[0],
        data=data,
        space=space,
        fixed={f"{s}.{k}": v for s, values in given.sections.items() for k, v in values.items()},
        folder=folder,
        name=given.study or label,
        storage=given.storage or "",
        seed=given.seed,
        sampler=given.sampler,
        pruner=given.pruner,
    )
    say = partial(print, flush=True)
    study = run(sweep, trials=given.trials, timeout=given.timeout, say=say)
    for line in write_report(study, sweep):
        print(line)
    return 0


def main(argv: Iterable[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    last = "interrupted; the trials are kept, the same command goes on."
    return command(parser(), work, argv, failures=(*FAILURES, RuntimeError), interrupted=last)
