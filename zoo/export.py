"""Make a publishable folder from a training run: ``python -m zoo.export --ckpt runs/mdeq_tiny_digits/... --to DIR``.

The folder holds the best weights as ``model.safetensors``, ``config.json`` and a model card (``README.md``). The
weights are measured again as they are stored; a number that does not hold is not published.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable

from zoo.hub import cards
from zoo.registry import UnknownName
from zoo.storage.model_folder import WeightsError
from zoo.training.process import prepare

PROG = "zoo.export"


def parser() -> argparse.ArgumentParser:
    """The options; torch is not imported for them."""
    out = argparse.ArgumentParser(
        prog=f"python -m {PROG}", description="Make a publishable folder from a training run.", allow_abbrev=False
    )
    out.add_argument("--ckpt", required=True, metavar="RUN", help="a run folder (its best weights), or a .ckpt in one")
    out.add_argument("--to", metavar="DIR", help="the folder to make (default exports/<model>.<data>)")
    out.add_argument("--half", action="store_true", help="store float16, where the measured number holds")
    out.add_argument(
        "--data.root", dest="root", metavar="DIR", help="folder of the data sets (default $ZOO_DATA, ./data)"
    )
    out.add_argument("--results", metavar="DIR", help="write the run's numbers and curve to DIR/<model>_<data>.json")
    out.add_argument("--push", metavar="ORG/NAME", help="hand the folder to the Hugging Face Hub")
    out.add_argument("--private", action="store_true", help="with --push: a private repository")
    return out


def main(argv: Iterable[str] | None = None) -> int:
    """Run the command line; returns the exit code (0 done, 1 failed, 2 not understood)."""
    given = parser().parse_args(None if argv is None else list(argv))
    prepare()  # before torch is loaded
    from zoo.training.export import export, push, write_results

    try:
        made = export(given.ckpt, given.to, half=given.half, root=given.root)
        metrics = made.config.metrics
        print(
            f"{made.config.name}: test {metrics['metric']} {metrics[metrics['metric']]:.4f} on {metrics['samples']:,}"
        )
        print(
            f"folder          {made.place}   ({made.config.weights['bytes']:,} bytes, {made.config.weights['dtype']})"
        )
        print(f"load it with    zoo.load({str(made.place)!r})")
        if given.results:
            print(f"results         {write_results(made, given.results)}")
        if given.push:
            print(f"pushed          {push(made.place, given.push, private=given.private)}")
        print(f"\n# for the card of {made.config.name.partition('.')[0]}:\n{made.entry}")
    except (WeightsError, UnknownName, cards.CardError, ValueError, OSError, RuntimeError) as error:
        print(f"{PROG}: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
