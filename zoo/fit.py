"""Train a model: ``python -m zoo.fit --model mdeq``.

This is the first of two stages and imports no torch. It reads the names (model, data set, solver, adjoint) out of the
command line and the configuration files, overlays the card's recipe with them, and answers ``--help`` and wrong names
at once. The second stage, `zoo.training.run`, checks every option against the named classes, and trains.

Precedence: the card's recipe < ``-c`` files, in order < flags. Flags may stand in any order.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from dataclasses import replace

from zoo import __version__
from zoo.adjoints import ADJOINTS
from zoo.data import DATA
from zoo.hub import cards
from zoo.registry import UnknownName
from zoo.solvers import SOLVERS
from zoo.training.errors import UsageError
from zoo.training.help_text import entry, paragraph, terminal_width
from zoo.training.process import prepare
from zoo.training.request import PROG, resolve
from zoo.training.words import split

COLUMN = 26  # where the meaning of an option or a name begins
USAGE = (
    ("-c FILE", "read options from YAML; may be repeated, later files win, flags win over files"),
    ("--SECTION.X VALUE", "set an option of the model, data, solver, adjoint, optim, task or trainer: --optim.lr 0.1"),
    ("--card FILE", "a card file of models of your own; without --model its first one is trained"),
    ("--model, --data PKG.MODULE:CLASS", "a model or a LightningDataModule of your own"),
    ("--out DIR", "where the run goes (default: runs/<model>_<data>/<time>)"),
    ("--pretrained [SOURCE]", "start from trained weights: those of --model NAME.DATA, or a name, run or folder"),
    (
        "--resume last|auto|PATH",
        "continue a run: the newest one, that in --out or else start it, a folder, a checkpoint",
    ),
    ("--seed N", "seed of everything random (default 0)"),
    ("--trainer.logger WORD", "csv, tensorboard, wandb or mlflow, beside the run's own metrics.csv and TensorBoard"),
    ("--print_config", "print the resolved configuration and stop; `-c` reads it back"),
    (
        "--compile",
        "compile the implicit layers' cell or field; the first steps take minutes (docs/scaling.md)",
    ),
    ("--profile", "trace a few training steps, the phases of the solves named, to profile.json in the run"),
    ("--allow-import PKG", "let options name any class of this package, with any values"),
    ("--help, --help-all", "with --model NAME: its options; all of Lightning's Trainer as well"),
    ("--version", "the version of the zoo"),
)


def help_text() -> str:
    """Return the usage and the names that can be given, each with what it is."""
    width = terminal_width()
    usage = "usage: python -m zoo.fit --model NAME [--data NAME] [--solver NAME] [--adjoint NAME] [options]"
    lines = [*paragraph(usage, width), ""]
    for left, text in USAGE:
        lines += entry(f"  {left}", text, COLUMN, width)
    lines += ["", "models:"]
    for name in cards.list_models():
        c = cards.card(name)
        also = "".join(f" (= {a})" for a in c.aliases)
        lines += entry(f"  {name}{also}", f"{c.summary}  [{', '.join(c.data)}]", COLUMN, width)
    for title, table, kinds in (
        ("data sets", DATA, None),
        ("solvers", SOLVERS, ("fixed_point", "ode")),
        ("adjoints (how gradients cross the solve)", ADJOINTS, None),
    ):
        lines += ["", f"{title}:"]
        entries = [e for e in table.entries() if kinds is None or e.kind in kinds]
        for e in entries:
            if ":" not in e.name:
                lines += entry(f"  {e.name}", e.summary, COLUMN, width)
        for package in sorted({e.name.partition(":")[0] for e in entries if ":" in e.name}):
            methods = ", ".join(e.name.partition(":")[2] for e in entries if e.name.startswith(package + ":"))
            lines += entry(f"  {package}:METHOD", methods, COLUMN, width)
    lines += [
        "",
        "Start with:            python -m zoo.fit --model mdeq",
        "Options of one model:  ... --model mdeq --help",
    ]
    return "\n".join(lines)


def main(argv: Iterable[str] | None = None) -> int:
    """Run the command line; return the exit code (0 done, 1 failed, 2 not understood, 130 interrupted)."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        words = split(argv)
        if "version" in words.switches:
            print(f"zoo {__version__}")
            return 0
        asks = {"help", "help-all"} & words.switches
        if not argv or (asks and "model" not in words.names and not words.files and not words.cards):
            print(help_text(), flush=True)
            return 0
        request = resolve(argv)
        if asks:
            request = replace(request, out=None)
        prepare()
        from zoo.training import run  # torch and Lightning: only now

        return run.main(request)
    except (UsageError, UnknownName, cards.CardError) as error:
        print(f"{PROG}: error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of the help had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print(f"\n{PROG}: interrupted before training began; nothing was written.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    raise SystemExit(main())
