"""What the commands share: a parser that corrects mistyped options, one way to run and to fail. Imports no torch."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn

from zoo import __version__
from zoo.hub.cards import CardError
from zoo.registry import UnknownName, unknown
from zoo.training.errors import UsageError
from zoo.training.process import prepare

FAILURES = (ValueError, OSError, ImportError)  # errors that end a command with their sentence and exit code 1


class CommandParser(argparse.ArgumentParser):
    """Parses the options of one command; a mistyped one is an error that names the nearest.

    Args:
        prog: the module, ``zoo.evaluate``.
        description: one sentence.
        epilog: shown after the options, as it is.
        aliases: other spellings of options, not shown: ``{"--ckpt": "--model"}``.
        sections: names that ``--section.key VALUE`` may begin with; found under ``sections`` of what is parsed.
    """

    def __init__(
        self,
        prog: str,
        description: str,
        epilog: str = "",
        *,
        aliases: Mapping[str, str] | None = None,
        sections: Sequence[str] = (),
    ) -> None:
        self.options: list[str] = []
        super().__init__(
            prog=f"python -m {prog}",
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.module, self.aliases, self.sections = prog, dict(aliases or {}), tuple(sections)
        self.add_argument("--version", action="version", version=f"zoo {__version__}")

    def add_argument(self, *names: Any, **how: Any) -> argparse.Action:
        action = super().add_argument(*names, **how)
        self.options += [n for n in action.option_strings if n.startswith("--")]
        return action

    def error(self, message: str) -> NoReturn:
        raise UsageError(message.removeprefix("argument "))

    def read(self, words: Sequence[str]) -> argparse.Namespace:
        """Parse the words of a command line.

        Raises:
            UsageError, UnknownName: an option that is missing, has no value or a wrong one, or does not exist.
        """
        sections: dict[str, dict[str, str]] = {s: {} for s in self.sections}
        rest = []
        queue = list(words)
        while queue:
            name, equals, value = queue.pop(0).partition("=")
            name = self.aliases.get(name, name)
            section, _, key = name.removeprefix("--").partition(".")
            if name.startswith("--") and section in sections and key and name not in self.options:
                if not equals and not queue:
                    raise UsageError(f"{name} needs a value")
                sections[section][key] = value if equals else queue.pop(0)
                continue
            if name.startswith("--") and name != "--" and name not in self.options:
                raise UnknownName(unknown("option", name, [*self.options, *(f"--{s}.KEY" for s in self.sections)]))
            rest.append(f"{name}{equals}{value}")
        given, strange = self.parse_known_args(rest)
        if strange:
            raise UsageError(f"unexpected argument {strange[0]!r}; options look like --model NAME")
        given.sections = {s: found for s, found in sections.items() if found}
        return given


def wrapped(title: str, names: Sequence[str]) -> str:
    """A title and names in lines that fit a terminal."""
    text = ", ".join(names) or "none yet"
    return textwrap.fill(f"{title}: {text}", 100, subsequent_indent="  ", break_on_hyphens=False)


def command(
    parser: CommandParser,
    work: Callable[[argparse.Namespace], int],
    argv: Iterable[str] | None,
    *,
    failures: tuple[type[Exception], ...] = FAILURES,
    interrupted: str = "interrupted",
) -> int:
    """Run a command and return its exit code: 0 done, 1 failed, 2 not understood, 130 interrupted.

    Without a word it prints its help.

    Args:
        parser: of its options.
        work: does what was asked; returns the exit code. It imports torch, and nothing before it does.
        argv: the words; None: those of the process.
        failures: errors of ``work`` that are shown as their one sentence.
        interrupted: the message after Ctrl-C.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words:
        parser.print_help()
        return 0
    try:
        given = parser.read(words)
        prepare()  # before torch is loaded
        return work(given)
    except SystemExit as done:  # argparse has shown the help or the version
        return int(done.code or 0)
    except (UsageError, UnknownName, CardError) as error:
        print(f"{parser.module}: error: {error}", file=sys.stderr)
        return 2
    except failures as error:
        print(f"{parser.module}: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\n{parser.module}: {interrupted}", file=sys.stderr)
        return 130
