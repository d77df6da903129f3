"""What trained models answer: a class, a mask, a text, a series, a density; each with how its solve went."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor


@dataclass(frozen=True)
class Solved:
    """How the solves of one sample went.

    Attributes:
        converged: whether every one met its tolerance; True where there was none.
        residual: the largest, ``|f(z) - z| / |z|``; for an ODE the error estimate over its tolerance; NaN where there
            is none.
        solver: what found the answer where another solver than the model's own did; else empty.
    """

    converged: bool = True
    residual: float = math.nan
    solver: str = ""


TAIL = ("converged", "residual", "solver", "error")  # of the columns of every table of answers


@dataclass(frozen=True)
class Answer:
    """What every answer has.

    Attributes:
        converged: whether the solver converged on this sample; True for an explicit model and for an ODE in time.
        source: the file, where the sample was one.
        error: why the sample could not be read; empty where it could.
        residual: of its solve, see `Solved`; NaN where nothing was solved.
        solver: what found the answer where the model's own solver did not; else empty.
    """

    columns: ClassVar[tuple[str, ...]] = ()  # of a table, between the source and `TAIL`

    converged: bool = field(default=True, kw_only=True)
    source: str = field(default="", kw_only=True)
    error: str = field(default="", kw_only=True)
    residual: float = field(default=math.nan, kw_only=True)
    solver: str = field(default="", kw_only=True)

    def rows(self) -> list[dict[str, Any]]:
        """The lines of a table, by column."""
        return [self._line({})]

    def _line(self, own: dict[str, Any]) -> dict[str, Any]:
        told = {"converged": "" if self.error else str(self.converged).lower(), "solver": self.solver}
        residual = f"{self.residual:.4g}" if math.isfinite(self.residual) else ""
        return {"source": self.source, **own, **told, "residual": residual, "error": self.error}

    def _told(self) -> str:
        return "" if self.converged else " (not converged)"


@dataclass(frozen=True, repr=False)
class Prediction(Answer):
    """What a classifier says about one sample.

    Attributes:
        label: the most probable class; empty where the sample could not be read.
        probability: of that class.
        top: the most probable classes and their probabilities, in order.
    """

    label: str
    probability: float
    top: tuple[tuple[str, float], ...]

    def __str__(self) -> str:
        if self.error:
            return f"not read: {self.error}"
        return ", ".join(f"{label} {p:.1%}" for label, p in self.top) + self._told()

    def __repr__(self) -> str:
        parts = [f"label={self.label!r}", f"probability={self.probability:.4f}", f"converged={self.converged}"]
        parts += [f"{k}={getattr(self, k)!r}" for k in ("source", "solver", "error") if getattr(self, k)]
        return f"Prediction({', '.join(parts)})"

    def rows(self) -> list[dict[str, Any]]:
        named = _named(self.top)
        return [self._line(named)]


def ranked(count: int) -> tuple[str, ...]:
    """The columns of so many classes, the most probable first."""
    return tuple(f"{n}_{i}" if i > 1 else n for i in range(1, count + 1) for n in ("label", "confidence"))


def _named(top: Sequence[tuple[str, float]]) -> dict[str, Any]:
    """The cells of those columns."""
    cells = [cell for label, p in top for cell in (label, f"{p:.6f}")]
    return dict(zip(ranked(len(top)), cells, strict=True))


@dataclass(frozen=True, repr=False)
class Segmented(Answer):
    """What a model says about every pixel of a picture.

    Attributes:
        mask: (H, W) uint8 or int64, the most probable class of each pixel.
        confidence: the mean over the pixels of the probability of their class.
        classes: names of the classes; empty: numbers.
    """

    columns: ClassVar[tuple[str, ...]] = ("mask", "classes", "confidence")

    mask: Tensor
    confidence: float
    classes: tuple[str, ...] = ()

    @property
    def shares(self) -> dict[str, float]:
        """The share of the pixels of each class that is there, the largest first."""
        found = Counter(self.mask.flatten().tolist())
        name = lambda i: self.classes[i] if self.classes else str(i)  # noqa: E731
        return {name(i): n / self.mask.numel() for i, n in found.most_common()}

    def save(self, path: str | Path) -> None:
        """Write the mask as a picture of one channel whose pixels are the numbers of the classes."""
        from PIL import Image

        Image.fromarray(self.mask.to(torch.uint8).numpy()).save(path)

    def __repr__(self) -> str:
        if self.error:
            return f"not read: {self.error}"
        told = ", ".join(f"{k} {v:.1%}" for k, v in self.shares.items())
        return f"Segmented({'x'.join(map(str, self.mask.shape))}: {told}){self._told()}"

    def rows(self) -> list[dict[str, Any]]:
        told = "; ".join(f"{k} {v:.4f}" for k, v in self.shares.items())
        return [self._line({} if self.error else {"classes": told, "confidence": f"{self.confidence:.6f}"})]


@dataclass(frozen=True, repr=False)
class Continuation(Answer):
    """What a language model says about a prompt.

    Attributes:
        prompt: the text that it was given.
        text: what it writes after it, the likeliest symbol each time.
        top: the most probable next symbols and their probabilities, in order.
        nats: mean negative log-likelihood of the prompt's symbols after the first; NaN for a prompt of one symbol.
    """

    columns: ClassVar[tuple[str, ...]] = ("prompt", "text", "nats")

    prompt: str
    text: str
    top: tuple[tuple[str, float], ...]
    nats: float = math.nan

    def __str__(self) -> str:
        return f"not read: {self.error}" if self.error else self.prompt + self.text + self._told()

    def __repr__(self) -> str:
        return f"Continuation(prompt={self.prompt!r}, text={self.text!r}, converged={self.converged})"

    def rows(self) -> list[dict[str, Any]]:
        own: dict[str, Any] = {"prompt": self.prompt, "text": self.text}
        own["nats"] = f"{self.nats:.6f}" if math.isfinite(self.nats) else ""
        own |= _named(self.top)
        return [self._line(own)]


@dataclass(frozen=True, repr=False)
class Forecast(Answer):
    """What a model of series says at the times that were asked for.

    Attributes:
        times: (Q,) the times.
        values: (Q, D) expected there.
    """

    columns: ClassVar[tuple[str, ...]] = ("time",)

    times: Tensor
    values: Tensor

    def __repr__(self) -> str:
        if self.error:
            return f"not read: {self.error}"
        return f"Forecast({len(self.times)} times, {self.values.shape[-1]} channels){self._told()}"

    def rows(self) -> list[dict[str, Any]]:
        pairs = zip(self.times.tolist(), self.values.tolist(), strict=True)
        lines = [{"time": f"{t:.6g}", **{f"value_{i}": f"{v:.6g}" for i, v in enumerate(row)}} for t, row in pairs]
        return [self._line(own) for own in lines] or [self._line({})]


@dataclass(frozen=True)
class LogDensity(Answer):
    """The logarithm of the density that a flow gives a sample.

    Attributes:
        log_prob: in nats.
    """

    columns: ClassVar[tuple[str, ...]] = ("log_prob",)

    log_prob: float

    def rows(self) -> list[dict[str, Any]]:
        return [self._line({} if self.error else {"log_prob": f"{self.log_prob:.6f}"})]
