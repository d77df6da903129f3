"""What a kind of model is asked: `Inputs` reads samples, hands them to the model, and words its answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from zoo.hub.answers import TAIL, Answer, Solved
from zoo.registry import sentence

UNREADABLE = (ValueError, OSError, TypeError, SyntaxError)  # PIL raises the last for some broken files


class Inputs(ABC):
    """Samples for one model.

    Args:
        model: in evaluation mode.
        given: what the caller asks about.
        top: how many classes or symbols to name.

    Attributes:
        items: the samples, which are read one by one.
        several: whether more than one was asked about: the caller gets a list then.
        noun: what one is called.
    """

    noun = "sample"
    items: Sequence[Any]
    several: bool

    def __init__(self, model: nn.Module, top: int) -> None:
        self.model, self.top = model, top
        parameter = next(model.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype

    def source(self, i: int) -> str:
        """The file of a sample; empty where it is none."""
        item = self.items[i]
        return str(item) if isinstance(item, (str, Path)) else ""

    @abstractmethod
    def prepare(self, i: int) -> tuple[Tensor, ...]:
        """Return what the model takes of one sample, (1, ...) each; raises one of `UNREADABLE` where it is none."""

    @abstractmethod
    def ask(self, batch: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Ask the model about a batch (B, ...), and return what `answer` needs, (B, ...) each."""

    @abstractmethod
    def answer(self, out: tuple[Tensor, ...], i: int, solved: Solved) -> Answer:
        """Word the answer about sample ``i`` from its rows of what `ask` has returned, on the host."""

    @abstractmethod
    def unread(self, i: int, error: str) -> Answer:
        """The answer about a sample that could not be read."""

    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """The columns of a table of answers, without the source and `TAIL`."""

    def header(self) -> list[str]:
        """All columns of a table of answers."""
        return ["source", *self.columns(), *TAIL]


@dataclass(frozen=True)
class Group:
    """Samples of one shape that are asked about together: their places, and what was read of each."""

    places: list[int]
    parts: list[tuple[Tensor, ...]]
    errors: dict[int, str]


def groups(inputs: Inputs, size: int, on_error: str) -> Iterator[Group]:
    """Read the samples, and yield those that follow one another, at most ``size`` of one shape at once.

    Raises:
        ValueError, OSError: a sample cannot be read; with ``on_error="keep"`` it stands under ``errors``.
    """
    group, shape = Group([], [], {}), None
    for i in range(len(inputs.items)):
        try:
            read = inputs.prepare(i)
        except UNREADABLE as cause:
            if not inputs.several:
                raise
            why, path = sentence(cause), inputs.source(i)
            told = f"{inputs.noun} {i}{f', {path}' if path and path not in why else ''}: {why}"
            if on_error == "raise":
                kind = OSError if isinstance(cause, OSError) else ValueError
                raise kind(f"{told} With on_error='keep' the others are answered.") from cause
            group.places.append(i)
            group.errors[i] = told
            continue
        form = tuple(x.shape for x in read)
        if group.places and (len(group.parts) == size or (group.parts and form != shape)):
            yield group
            group = Group([], [], {})
        shape = form
        group.places.append(i)
        group.parts.append(read)
    if group.places:
        yield group
