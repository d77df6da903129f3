"""Make a publishable folder from a training run: ``python -m zoo.export --model runs/mdeq_tiny_digits/... --out DIR``.

The folder holds the best weights as ``model.safetensors``, ``config.json`` and a model card (``README.md``). The
weights are measured again as they are stored; a number that does not hold is not published.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable

from zoo.training.command import FAILURES, CommandParser, command


def parser() -> CommandParser:
    """The options; torch is not imported for them."""
    out = CommandParser(
        "zoo.export",
        "Make a publishable folder from a training run.",
        aliases={"--ckpt": "--model", "--to": "--out"},
    )
    out.add_argument("--model", required=True, metavar="RUN", help="a run folder (its best weights), or a .ckpt in one")
    out.add_argument("--out", metavar="DIR", help="the folder to make (default exports/<model>.<data>)")
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


def main(argv: Iterable[str] | None = None) -> int:
    """Run the command line; returns the exit code (0 done, 1 failed, 2 not understood)."""
    return command(parser(), work, argv, failures=(*FAILURES, RuntimeError))


if __name__ == "__main__":
    raise SystemExit(main())
