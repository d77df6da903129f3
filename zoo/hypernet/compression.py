"""What a hypernetwork saves in parameters, and what it costs in memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from zoo.hypernet.generators.base import Generator
from zoo.hypernet.target import HyperTarget


@dataclass(frozen=True)
class BatchSize:
    """What the weights generated for a batch depend on.

    Attributes:
        samples: rows of a batch: images, series, tasks.
        steps: of each sequence; 1 for what is none.
        ways: classes of a few-shot task.
    """

    samples: int = 1
    steps: int = 1
    ways: int = 1


@dataclass(frozen=True)
class GeneratedWeights:
    """What a model says of the weights that it generates.

    Attributes:
        numbers: in one set of weights.
        writers: the parameters that serve to write them.
        sets: of a batch, at most.
    """

    numbers: int
    writers: tuple[nn.Parameter, ...]
    sets: int


class GeneratesWeights(ABC):
    """Beside ``nn.Module``: a model that says what it generates, as counting its targets and generators would not tell.

    That is one whose weights are written by something else than a `Generator`, or that holds other than one set for
    every sample (one set for all where no generator reads a code).
    """

    @abstractmethod
    def written(self, batch: BatchSize) -> GeneratedWeights:
        """Count what is generated for a batch of that size."""


@dataclass(frozen=True)
class Compression:
    """Counts of one model.

    Attributes:
        generated: numbers that the generators write, for one set of weights.
        generators: parameters of the generators, embeddings and base included.
        others: parameters that train as ordinary ones, in the targets and around them.
        bytes_a_set: of one set of generated weights.
        sets: of a batch, at most: one for every sample or task that has weights of its own. Training holds them, and
            their gradient once more.
    """

    generated: int
    generators: int
    others: int
    bytes_a_set: int
    sets: int = 1

    @property
    def plain(self) -> int:
        """Parameters of the same model without generators."""
        return self.generated + self.others

    @property
    def ratio(self) -> float:
        """How many times fewer parameters the model has than without generators; below 1, it has more."""
        return self.plain / max(self.generators + self.others, 1)

    @property
    def bytes_a_batch(self) -> int:
        """Of all sets of a batch."""
        return self.sets * self.bytes_a_set

    def asdict(self) -> dict[str, Any]:
        """Return all counts, for a record of the run."""
        more = {"bytes_a_batch": self.bytes_a_batch, "plain": self.plain, "ratio": round(self.ratio, 4)}
        return asdict(self) | more

    def __str__(self) -> str:
        share = f"{self.ratio:.1f} times fewer than" if self.ratio >= 1 else f"{1 / self.ratio:.1f} times"
        sets = f"{self.sets:,} sets or {_bytes(self.bytes_a_batch)}" if self.sets > 1 else "1 set"
        return (
            f"{self.generated:,} weights generated ({_bytes(self.bytes_a_set)} a set, {sets} a batch) by "
            f"{self.generators:,} parameters; {self.generators + self.others:,} in all, {share} the {self.plain:,} "
            "without generator"
        )


def compression(model: nn.Module, batch: BatchSize | None = None) -> Compression | None:
    """Count what a model generates and by how many parameters; None where no weights are generated.

    A model that is no `GeneratesWeights` is counted by its `HyperTarget`s and `Generator`s: what else makes its codes
    (an encoder) is among the ``others`` then, and codes are one for every sample. A target whose weights
    come from no generator (those that a solve finds) generates nothing.

    Args:
        model: any module.
        batch: in training, of one process; None: one sample.
    """
    size = BatchSize() if batch is None else batch
    found = next((m.written(size) for m in model.modules() if isinstance(m, GeneratesWeights)), None) or _counted(
        model, size
    )
    if found is None:
        return None
    generators = _count(found.writers)
    return Compression(
        generated=found.numbers,
        generators=generators,
        others=_count(model.parameters()) - generators,
        bytes_a_set=found.numbers * found.writers[0].element_size(),
        sets=found.sets,
    )


def _counted(model: nn.Module, batch: BatchSize) -> GeneratedWeights | None:
    targets = [m for m in model.modules() if isinstance(m, HyperTarget)]
    generators = [m for m in model.modules() if isinstance(m, Generator)]
    if not targets or not generators:
        return None
    coded = any(g.code_size for g in generators)
    writers = tuple(p for g in generators for p in g.parameters())
    return GeneratedWeights(sum(t.numel for t in targets), writers, batch.samples if coded else 1)


def _count(parameters: Iterable[nn.Parameter]) -> int:
    return sum({id(p): p.numel() for p in parameters}.values())


def _bytes(n: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n >= size:
            return f"{n / size:.1f} {unit}"
    return f"{n} bytes"
