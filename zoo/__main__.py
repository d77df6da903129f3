"""All commands under one name: ``zoo fit --model mdeq``, or ``python -m zoo fit --model mdeq``. Imports no torch."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib import import_module

from zoo import __version__
from zoo.registry import unknown

COMMANDS = {  # name -> the module whose ``main`` it is, and what it does
    "fit": ("zoo.fit", "train a model"),
    "evaluate": ("zoo.evaluate", "measure a trained model again, and compare with what its card says"),
    "compare": ("zoo.compare.command", "train and measure models side by side, or measure the theory"),
    "predict": ("zoo.predict", "ask a trained model about a file or a folder"),
    "serve": ("zoo.serve.command", "answer for a trained model over HTTP"),
    "sweep": ("zoo.sweep.command", "search the options of a training"),
    "export": ("zoo.export", "make a publishable folder from a training run"),
    "convert": ("zoo.convert", "make a model folder from a released checkpoint of (M)DEQ"),
    "sample": ("zoo.sample", "let a trained language model write"),
}


def help_text() -> str:
    """Each command with what it does."""
    lines = ["usage: zoo COMMAND [options]", ""]
    lines += [f"  {name:<10}{what}" for name, (_, what) in COMMANDS.items()]
    lines += ["", "Options of one:  zoo COMMAND --help.  Version:  zoo --version."]
    lines += ["Start with:      zoo fit --model mdeq", "Each is a module, too:  python -m zoo.fit --model mdeq"]
    return "\n".join(lines)


def main(argv: Iterable[str] | None = None) -> int:
    """Run a command and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(help_text())
        return 0
    if words[0] in ("-V", "--version"):
        print(f"zoo {__version__}")
        return 0
    if words[0] not in COMMANDS:
        print(f"zoo: error: {unknown('command', words[0], COMMANDS)}", file=sys.stderr)
        return 2
    module, _ = COMMANDS[words[0]]
    return int(import_module(module).main(words[1:]))


if __name__ == "__main__":
    raise SystemExit(main())
