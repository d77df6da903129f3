"""Let a trained language model write: ``python -m zoo.sample --model runs/lstm_small_python_docs/... --prompt "The "``.

The exit code is 0 where it wrote, 1 where the model or the prompt cannot be used, 2 where the command was not
understood. The first stage imports no torch.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable

from zoo.hub import cards
from zoo.registry import UnknownName
from zoo.storage.model_folder import WeightsError
from zoo.training.process import prepare

PROG = "zoo.sample"


def parser() -> argparse.ArgumentParser:
    """The options; torch is not imported for them."""
    models = [n for n in cards.list_models() if "language" in cards.card(n).task and not n.startswith("test_")]
    out = argparse.ArgumentParser(
        prog=f"python -m {PROG}",
        description="Let a trained language model write.",
        epilog=f"Train one with python -m zoo.fit --model NAME; the language models are: {', '.join(models)}",
        allow_abbrev=False,
    )
    out.add_argument("--model", required=True, metavar="RUN", help="a run folder, a model folder, NAME.DATA or hf-hub:")
    out.add_argument("--prompt", required=True, metavar="TEXT", help="what the text begins with; \\n is a new line")
    out.add_argument("--length", type=int, default=300, metavar="N", help="symbols to write (default 300)")
    out.add_argument("--temperature", type=float, default=0.8, metavar="X", help="0: the likeliest (default 0.8)")
    out.add_argument("--top-p", type=float, default=1.0, metavar="P", help="share that is drawn from (default 1: all)")
    out.add_argument("--seed", type=int, default=0, metavar="N", help="of the draws (default 0)")
    out.add_argument("--solver", metavar="NAME", help="another solver than the model was trained with")
    return out


def main(argv: Iterable[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    given = parser().parse_args(None if argv is None else list(argv))
    prepare()  # before torch is loaded
    from zoo.hub.generate import generate
    from zoo.hub.pretrained import load

    try:
        text = generate(
            load(given.model, solver=given.solver),
            given.prompt.replace("\\n", "\n"),
            length=given.length,
            temperature=given.temperature,
            top_p=given.top_p,
            seed=given.seed,
        )
    except (WeightsError, UnknownName, cards.CardError, ValueError, ImportError, OSError) as error:
        print(f"{PROG}: error: {error}", file=sys.stderr)
        return 1
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
