"""Ask a trained model about a file or a folder: ``python -m zoo.predict --model mdeq_tiny.digits --input pictures/``.

Writes a table with a line a sample: the answer, its confidence, and whether the solve converged, with its residual. A
sample that cannot be read costs its own line. The exit code is 0 where every sample was answered by a solve that
converged, 1 where some was not or the model cannot be asked, 2 where the command was not understood.

The module is callable, so that ``zoo.predict(model, inputs)`` stays the function of `zoo.hub.predict` after an import.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from zoo.registry import UnknownName, unknown
from zoo.solvers import SOLVERS
from zoo.training.command import FAILURES, CommandParser, command
from zoo.training.errors import UsageError

CHOICES = ("warn", "fallback", "raise")


class _Callable(ModuleType):
    """The type of this module."""

    @property  # not a method, whose frame would take the place of the caller's in warnings
    def __call__(self) -> Any:
        from zoo.hub.predict import predict

        return predict


sys.modules[__name__].__class__ = _Callable


def parser() -> CommandParser:
    """The options; torch is not imported for them."""
    out = CommandParser(
        "zoo.predict",
        "Ask a trained model about a file or a folder, and write its answers as a table.",
        "input: pictures (file, folder, .npy), prompts (.txt, one a line), points (.npy, .csv), series (.npz, .csv)",
        aliases={"--ckpt": "--model", "--inputs": "--input", "--batch_size": "--batch-size", "--topk": "--top"},
    )
    out.add_argument("--model", required=True, metavar="NAME", help="NAME.DATA, a run folder, a model folder, hf-hub:")
    out.add_argument("--input", required=True, metavar="PATH", help="what the model is asked about")
    out.add_argument("--out", default="predictions.csv", metavar="FILE", help="the table (default predictions.csv)")
    out.add_argument("--overwrite", action="store_true", help="replace the table where it exists")
    out.add_argument("--batch-size", type=int, default=64, metavar="N", help="samples at once (default 64)")
    out.add_argument("--top", type=int, default=3, metavar="N", help="classes or symbols to name (default 3)")
    out.add_argument(
        "--on-failure",
        choices=CHOICES,
        default="warn",
        help="of a solve: mark the answer (warn), try more steps and other solvers (fallback), or stop (raise)",
    )
    out.add_argument("--on-error", choices=("keep", "raise"), default="keep", help="of a sample that cannot be read")
    out.add_argument("--length", type=int, default=40, metavar="N", help="symbols to write after a prompt (default 40)")
    out.add_argument("--solver", metavar="NAME", help="another solver than the model was trained with")
    out.add_argument("--max-steps", type=int, metavar="N", help="steps of the solver, at most")
    out.add_argument("--device", default="cpu", metavar="NAME", help="cpu (default), cuda, cuda:1, mps")
    return out


def work(given: argparse.Namespace) -> int:
    """Answer, sample by sample, and say how many of them can be trusted."""
    if given.solver and given.solver not in SOLVERS:
        raise UnknownName(unknown("solver", given.solver, SOLVERS.names()))
    out = Path(given.out)
    if out.exists() and not given.overwrite:
        raise UsageError(f"{out} exists; choose another --out, or say --overwrite")
    if not Path(given.input).exists():
        raise FileNotFoundError(f"{given.input} does not exist; --input takes a file or a folder.")
    from zoo.hub.failures import changed_steps
    from zoo.hub.predict import answers
    from zoo.hub.pretrained import load

    model = load(given.model, solver=given.solver).to(given.device)
    if given.max_steps is not None:
        changed_steps(model, given.max_steps)
    asked, stream = answers(
        model,
        Path(given.input),
        top=given.top,
        batch_size=given.batch_size,
        on_error=given.on_error,
        on_failure=given.on_failure,
        length=given.length,
    )
    masks = out.with_name(f"{out.stem}_masks")
    unread, failed, rescued, first, done = 0, 0, 0, "", 0
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        with out.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, asked.header(), restval="")
            table.writeheader()
            for answer in shown(stream, len(asked.items)):
                rows = answer.rows()
                if not answer.error and hasattr(answer, "save"):
                    masks.mkdir(exist_ok=True)
                    mask = masks / f"{done}_{Path(answer.source).stem}.png"
                    answer.save(mask)
                    rows[0]["mask"] = str(mask)
                table.writerows(rows)
                file.flush()
                done += 1
                unread += bool(answer.error)
                failed += not answer.converged and not answer.error
                rescued += bool(answer.solver and answer.converged)
                first = first or answer.error
    finally:
        told = f"{done:,} of {len(asked.items):,} answered" if not unread else f"{done - unread:,} answered"
        print(f"{told}: {out}")
        if rescued:
            print(f"{rescued:,} by more steps or another solver: see the column solver")
        if failed:
            print(f"{failed:,} NOT converged: see the column residual; --on-failure fallback tries harder")
        if unread:
            print(f"{unread:,} not read: see the column error; the first: {first}")
    return 1 if failed or unread else 0


def shown(stream: Iterable[Any], total: int) -> Iterable[Any]:
    """The same answers, with a bar of progress on a terminal."""
    if not sys.stderr.isatty():
        return stream
    from rich.console import Console
    from rich.progress import track

    return track(stream, "predict", total=total, console=Console(stderr=True), transient=True)


def main(argv: Iterable[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    last = "interrupted; the table holds what was answered."
    return command(parser(), work, argv, failures=(*FAILURES, RuntimeError), interrupted=last)


if __name__ == "__main__":
    raise SystemExit(main())
