"""Private touches of jsonargparse, tried on 4.53: its settings, its actions, the text of its errors."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any


@contextlib.contextmanager
def allowed_imports(paths: Sequence[str]) -> Iterator[None]:
    """Within the block a parser imports only these paths, and what is below them, and instantiates no ``Any``.

    jsonargparse's settings are those of the process: they are put back, so that a program's own parsers stay as they
    were. Tried on jsonargparse 4.53, whose `set_parsing_settings` can only add to its lists.
    """
    import jsonargparse
    from jsonargparse import _common

    was = dict(_common.parsing_settings)
    try:
        jsonargparse.set_parsing_settings(
            import_path_denylist=["*"],
            import_path_allowlist=list(paths),
            validate_subclass_spec_in_any=False,
            instantiate_subclass_spec_in_any=False,
        )
        yield
    finally:
        _common.parsing_settings.clear()
        _common.parsing_settings.update(was)


@contextlib.contextmanager
def unserializable_allowed() -> Iterator[None]:
    """Within the block a dump of options that are objects does not warn of each; its text for them is not used."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="[\\s\\S]*Unable to serialize instance")
        yield


def parser_options(parser: Any) -> list[tuple[str, str]]:
    """The options of a jsonargparse parser and the help of each, without the actions that it adds by itself."""
    own = ("_ActionConfigLoad", "_ActionHelpClassPath")
    return [(a.dest, a.help or "") for a in parser._actions if type(a).__name__ not in own]


@dataclass(frozen=True)
class ParserError:
    """A message of jsonargparse, taken apart; as text it is one sentence.

    Attributes:
        key: the option, as ``section.option``; empty where none is named.
        wanted: the types that it takes; empty where the message does not say.
        got: the value.
        denied: the import path that was refused; empty where none was.
        rest: the last part of a message of another form.
    """

    key: str
    wanted: str
    got: str
    denied: str
    rest: str

    def __str__(self) -> str:
        flag = f"--{self.key}: " if self.key else ""
        if flag and self.wanted and self.got:
            got = self.got if len(self.got) <= 80 else f"{self.got[:77]}..."
            return f"{flag}expected {self.wanted}; got {got!r}"
        return f"{flag}{self.rest}"


def parser_error(message: str) -> ParserError:
    """Take jsonargparse's message of several lines apart: it has no other form for what was expected."""
    key = re.search(r'Parser key "([^"]+)"', message)
    got = re.search(r"(?:Got value|Given value): (.*)", message)
    subtypes = re.search(r"Subtypes: \[(.*)\]", message)
    single = re.search(r"Expected a (.+?)\. Got value", message)
    denied = re.search(r"Importing '([^']+)' is not allowed", message)
    wanted = subtypes[1] if subtypes else single[1] if single else ""
    wanted = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", wanted.replace("NoneType", "null"))
    wanted = re.sub(r"(typing|collections\.abc|lightning(\.\w+)*)\.", "", wanted)
    choices = re.findall(r"Literal\[([^\]]*)\]", wanted)
    wanted = f"one of {', '.join(choices)}" if choices else " or ".join(wanted.split(", "))
    parts = [part.strip(" -") for part in message.splitlines() if part.strip()]
    rest = parts[-1] if key and len(parts) > 1 else " ".join(parts)
    return ParserError(key[1] if key else "", wanted, got[1] if got else "", denied[1] if denied else "", rest)
