"""Let a trained language model write: ``python -m zoo.sample --model runs/lstm_small_python_docs/... --prompt "The "``.

The exit code is 0 where it wrote, 1 where the model or the prompt cannot be used, 2 where the command was not
understood.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable

from zoo.hub import cards
from zoo.training.command import CommandParser, command, wrapped


def parser() -> CommandParser:
    """The options; torch is not imported for them."""
    models = [n for n in cards.list_models() if "language" in cards.card(n).task]
    out = CommandParser(
        "zoo.sample",
        "Let a trained language model write.",
        wrapped("Train one with python -m zoo.fit --model NAME; the language models are", models),
        aliases={"--ckpt": "--model", "--top_p": "--top-p"},
    )
    out.add_argument("--model", required=True, metavar="RUN", help="a run folder, a model folder, NAME.DATA or hf-hub:")
    out.add_argument("--prompt", required=True, metavar="TEXT", help="what the text begins with; \\n is a new line")
    out.add_argument("--length", type=int, default=300, metavar="N", help="symbols to write (default 300)")
    out.add_argument("--temperature", type=float, default=0.8, metavar="X", help="0: the likeliest (default 0.8)")
    out.add_argument("--top-p", type=float, default=1.0, metavar="P", help="share that is drawn from (default 1: all)")
    out.add_argument("--seed", type=int, default=0, metavar="N", help="of the draws (default 0)")
    out.add_argument("--solver", metavar="NAME", help="another solver than the model was trained with")
    return out


def work(given: argparse.Namespace) -> int:
    """Write the prompt and what follows it."""
    from zoo.hub.generate import generate
    from zoo.hub.pretrained import load

    text = generate(
        load(given.model, solver=given.solver),
        given.prompt.replace("\\n", "\n"),
        length=given.length,
        temperature=given.temperature,
        top_p=given.top_p,
        seed=given.seed,
    )
    print(text)
    return 0


def main(argv: Iterable[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return command(parser(), work, argv)


if __name__ == "__main__":
    raise SystemExit(main())
