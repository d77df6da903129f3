"""Make a publishable folder from a training run: ``python -m zoo.export --model runs/mdeq_tiny_digits/... --out DIR``.

The folder holds the best weights as ``model.safetensors``, ``config.json`` and a model card (``README.md``). The
weights are measured again as they are stored; a number that does not hold is not published.

With ``--format torch`` or ``onnx`` it makes a program instead, which runs without zoo: its solve is a loop of so many
steps, and its outputs are the answer, the residual and whether the solve has converged.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

from zoo.registry import UnknownName, unknown
from zoo.solvers import SOLVERS
from zoo.training.command import FAILURES, CommandParser, command
from zoo.training.errors import UsageError


def parser() -> CommandParser:
    """The options; torch is not imported for them."""
    out = CommandParser(
        "zoo.export",
        "Make a publishable folder from a training run, or a program that runs without zoo.",
        aliases={"--ckpt": "--model", "--to": "--out"},
    )
    out.add_argument("--model", required=True, metavar="RUN", help="a run folder (its best weights), or a .ckpt in one")
    out.add_argument("--out", metavar="DIR", help="the folder to make (default exports/<model>.<data>)")
    out.add_argument(
        "--format",
        choices=("folder", "torch", "onnx"),
        default="folder",
        help="folder: weights and a card (default); torch: model.pt2; onnx: model.onnx. A program takes NAME.DATA, too",
    )
    out.add_argument("--solver", metavar="NAME", help="of a program: picard, anderson, rk4, ... (default: its own)")
    out.add_argument("--steps", type=int, metavar="K", help="of its solver (default: the model's own; 16 for ODEs)")
    out.add_argument(
        "--length", type=int, default=32, metavar="T", help="symbols that a program of language reads (32)"
    )
    out.add_argument("--half", action="store_true", help="store float16, where the measured number holds")
    out.add_argument(
        "--data.root", dest="root", metavar="DIR", help="folder of the data sets (default $ZOO_DATA, ./data)"
    )
    out.add_argument("--results", metavar="DIR", help="write the run's numbers and curve to DIR/<model>_<data>.json")
    out.add_argument("--push", metavar="ORG/NAME", help="hand the folder to the Hugging Face Hub")
    out.add_argument("--private", action="store_true", help="with --push: a private repository")
    return out


def work(given: argparse.Namespace) -> int:
    """Export, and say what was made and how to load it."""
    if given.format != "folder":
        return program(given)
    from zoo.training.export import export, push, write_results

    made = export(given.model, given.out, half=given.half, root=given.root)
    name, metrics, weights = made.config.name, made.config.metrics, made.config.weights
    print(f"{name}: test {metrics['metric']} {metrics[metrics['metric']]:.4f} on {metrics['samples']:,}")
    print(f"folder          {made.place}   ({weights['bytes']:,} bytes, {weights['dtype']})")
    print(f"load it with    zoo.load({str(made.place)!r})")
    if given.results:
        print(f"results         {write_results(made, given.results)}")
    if given.push:
        print(f"pushed          {push(made.place, given.push, private=given.private)}")
    print(f"\n# for the card of {name.partition('.')[0]}:\n{made.entry}")
    return 0


def program(given: argparse.Namespace) -> int:
    """Export a program, and say how far it is from the model and how fast."""
    if given.half or given.push or given.results:
        raise UsageError("--half, --push and --results are for a folder of weights; leave out --format")
    if given.solver and given.solver not in SOLVERS:
        raise UnknownName(unknown("solver", given.solver, SOLVERS.names()))
    from zoo.hub.program import write_program

    place = given.out or f"exports/{Path(given.model).name.replace(':', '_')}.{given.format}"
    options = {"solver": given.solver, "steps": given.steps, "length": given.length}
    file, record = write_program(given.model, place, given.format, **options)
    took = record["milliseconds_of_one_answer"]
    solver = ", ".join(f"{s['name']} with {s['steps']} steps" for s in record["solver"]) or "no solve"
    print(f"program         {file}   ({file.stat().st_size:,} bytes, {solver})")
    print(f"outputs         {', '.join(record['outputs'])}; the batch is of any size")
    print(f"difference      {record['difference']:.1g} from the model with the same solver and steps")
    print(f"one answer      {took['program']:.2f} ms, by the model {took['model']:.2f} ms")
    return 0


def main(argv: Iterable[str] | None = None) -> int:
    """Run the command line; returns the exit code (0 done, 1 failed, 2 not understood)."""
    return command(parser(), work, argv, failures=(*FAILURES, RuntimeError))


if __name__ == "__main__":
    raise SystemExit(main())
