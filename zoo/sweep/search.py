"""The words of a search: ``optim.lr=log:1e-4:1e-2``, ``solver.rtol=1e-2,1e-3``, ``model.channels=int:8:64``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from zoo.training.errors import UsageError

KINDS = ("log", "float", "int", "logint")
FORMS = "KEY=log:LOW:HIGH, float:LOW:HIGH, int:LOW:HIGH, logint:LOW:HIGH, or values by commas, KEY=A,B,C"


@dataclass(frozen=True)
class Dimension:
    """One option of a search.

    Attributes:
        key: the option, as ``section.option``.
        kind: "log", "float", "int", "logint", or "choice".
        low, high: of a range, both included.
        values: of a choice, as words.
    """

    key: str
    kind: str
    low: float = 0.0
    high: float = 0.0
    values: tuple[str, ...] = ()

    @property
    def example(self) -> str:
        """A value of it, as a word."""
        if self.kind == "choice":
            return self.values[0]
        return str(int(self.low)) if "int" in self.kind else repr(self.low)

    def suggest(self, trial: Any) -> str:
        """The value that a trial of Optuna gets, as a word of a command line."""
        if self.kind == "choice":
            return str(trial.suggest_categorical(self.key, list(self.values)))
        log = self.kind.startswith("log")
        if "int" in self.kind:
            return str(trial.suggest_int(self.key, int(self.low), int(self.high), log=log))
        return repr(float(trial.suggest_float(self.key, self.low, self.high, log=log)))


def dimension(word: str) -> Dimension:
    """Read one word of a search.

        >>> dimension("optim.lr=log:1e-4:1e-2")
        Dimension(key='optim.lr', kind='log', low=0.0001, high=0.01, values=())
        >>> dimension("solver.rtol=1e-2,1e-3").values
        ('1e-2', '1e-3')

    Raises:
        UsageError: it is none.
    """
    key, equals, text = word.removeprefix("--").partition("=")
    if not equals or not text or "." not in key:
        raise UsageError(f"a search is {FORMS}; got {word!r}")
    kind, colon, rest = text.partition(":")
    if not colon or kind not in KINDS:
        values = tuple(v.strip() for v in text.split(","))
        if not all(values) or len(set(values)) != len(values):
            raise UsageError(f"{key}: values by commas, each once, are expected; got {text!r}")
        if len(values) == 1:
            raise UsageError(f"{key} has one value; say --{key} {text} instead, or give {FORMS.split(', or')[0]}")
        return Dimension(key, "choice", values=values)
    try:
        low, high = (float(v) for v in rest.split(":"))
    except ValueError:
        raise UsageError(f"{key}: {kind}:LOW:HIGH with two numbers is expected; got {text!r}") from None
    whole = "int" not in kind or (low == int(low) and high == int(high))
    if not (math.isfinite(low) and math.isfinite(high) and low < high and whole):
        raise UsageError(f"{key}: LOW must be below HIGH, both finite{'' if whole else ' and whole'}; got {text!r}")
    if kind.startswith("log") and low <= 0:
        raise UsageError(f"{key}: on a logarithmic scale LOW must be above 0; got {text!r}")
    return Dimension(key, kind, low, high)


def dimensions(words: Sequence[str]) -> list[Dimension]:
    """Read the words of a search.

    Raises:
        UsageError: none, one that is no search, or an option twice.
    """
    found = [dimension(word) for word in words]
    if not found:
        raise UsageError(f"say what to search: --search {FORMS}")
    keys = [d.key for d in found]
    if twice := next((k for k in keys if keys.count(k) > 1), None):
        raise UsageError(f"{twice} is searched twice")
    return found
