"""Train a model: ``python -m zoo.fit --model mdeq``.

This is the first of two stages and imports no torch. It reads the names (model, data set, solver, adjoint) out of the
command line and the configuration files, overlays the card's recipe with them, and answers ``--help`` and wrong names
at once. The second stage, `zoo.training.run`, checks every option against the named classes, and trains.

Precedence: the card's recipe < ``-c`` files, in order < flags. Flags may stand in any order.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import replace

from zoo.adjoints import ADJOINTS
from zoo.data import DATA
from zoo.hub import cards
from zoo.registry import UnknownName
from zoo.solvers import SOLVERS
from zoo.training.errors import UsageError
from zoo.training.process import prepare
from zoo.training.request import PROG, resolve
from zoo.training.words import split

USAGE = """\
usage: python -m zoo.fit --model NAME [--data NAME] [--solver NAME] [--adjoint NAME] [options]

  -c FILE                 read options from YAML; may be repeated, later files win, flags win over files
  --model.X  --data.X  --solver.X  --adjoint.X  --optim.X  --task.X  --trainer.X    set one option
  --out DIR               where the run goes (default: runs/<model>_<data>/<time>)
  --pretrained [SOURCE]   start from trained weights: those of --model NAME.DATA, or a name, run or folder
  --resume last|auto|PATH continue a run: the newest one, that in --out or else start it, a folder, a checkpoint
  --seed N                seed of everything random (default 0)
  --print_config          print the resolved configuration and stop; `-c` reads it back
  --compile               compile the implicit layers' cell or field; the first steps take minutes (docs/scaling.md)
  --profile               trace a few training steps, the phases of the solves named, to profile.json in the run
  --allow-import PKG      let YAML name classes of this package too
  --help, --help-all      with --model NAME: its options; all of Lightning's Trainer as well
"""


def help_text() -> str:
    """The names that can be given, with one line each."""
    lines = [USAGE, "models:"]
    short = cards.aliases()
    for c in cards.all_cards().values():
        if c.name.startswith("test_"):
            continue
        also = "".join(f" (= {a})" for a, target in short.items() if target == c.name)
        lines.append(f"  {c.name + also:<24}{c.summary}  [{', '.join(c.data)}]")
    for title, table, kinds in (
        ("data sets", DATA, None),
        ("solvers", SOLVERS, ("fixed_point", "ode")),
        ("adjoints (how gradients cross the solve)", ADJOINTS, None),
    ):
        lines += ["", f"{title}:"]
        entries = [e for e in table.entries() if kinds is None or e.kind in kinds]
        lines += [f"  {e.name:<24}{e.summary}" for e in entries if ":" not in e.name]
        for package in sorted({e.name.partition(":")[0] for e in entries if ":" in e.name}):
            methods = ", ".join(e.name.partition(":")[2] for e in entries if e.name.startswith(package + ":"))
            lines.append(f"  {package + ':METHOD':<24}{methods}")
    lines += [
        "",
        "Start with:            python -m zoo.fit --model mdeq",
        "Options of one model:  ... --model mdeq --help",
    ]
    return "\n".join(lines)


def main(argv: Iterable[str] | None = None) -> int:
    """Run the command line; returns the exit code (0 done, 1 failed, 2 not understood, 130 interrupted)."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        words = split(argv)
        asks = {"help", "help-all"} & words.switches
        if not argv or (asks and "model" not in words.names and not words.files):
            print(help_text())
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
    except KeyboardInterrupt:
        print(f"\n{PROG}: interrupted before training began; nothing was written.", file=sys.stderr)
        return 130


if __name__ == "__main__":  # run the module that the others import: an error raised there is of its class, not of ours
    from zoo import fit

    raise SystemExit(fit.main())
