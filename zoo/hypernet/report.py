"""What a hypernetwork saves in parameters, and what it costs in memory."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from zoo.hypernet.generator import Generator
from zoo.hypernet.target import HyperTarget


@dataclass(frozen=True)
class Compression:
    """Counts of one model.

    Attributes:
        generated: numbers that the generators write, for one set of weights.
        generators: parameters of the generators, embeddings and base included.
        others: parameters that train as ordinary ones, in the targets and around them.
        bytes_a_set: of one set of generated weights. A model that generates for every sample or task holds as many
            sets as there are, and their gradient once more.
    """

    generated: int
    generators: int
    others: int
    bytes_a_set: int

    @property
    def plain(self) -> int:
        """Parameters of the same model without generators."""
        return self.generated + self.others

    @property
    def ratio(self) -> float:
        """How many times fewer parameters the model has than without generators; below 1, it has more."""
        return self.plain / max(self.generators + self.others, 1)

    def bytes(self, sets: int) -> int:
        """Of the weights generated for that many codes at a time."""
        return sets * self.bytes_a_set

    def asdict(self) -> dict[str, Any]:
        """For a record of the run."""
        return {**asdict(self), "plain": self.plain, "ratio": round(self.ratio, 4)}

    def __str__(self) -> str:
        share = f"{self.ratio:.1f} times fewer than" if self.ratio >= 1 else f"{1 / self.ratio:.1f} times"
        return (
            f"{self.generated:,} weights generated ({_bytes(self.bytes_a_set)} a set) by {self.generators:,} "
            f"parameters; {self.generators + self.others:,} in all, {share} the {self.plain:,} without generator"
        )


def compression(model: nn.Module) -> Compression | None:
    """Count a model's targets and generators; None where it has no `HyperTarget`.

    A model whose weights are written by something else than a `Generator` (an encoder with a head of its own) counts
    that as ``others``.
    """
    targets = [m for m in model.modules() if isinstance(m, HyperTarget)]
    if not targets:
        return None
    total = sum(p.numel() for p in model.parameters())
    writers = {id(p): p.numel() for m in model.modules() if isinstance(m, Generator) for p in m.parameters()}
    generators = sum(writers.values())
    return Compression(
        generated=sum(t.numel for t in targets),
        generators=generators,
        others=total - generators,
        bytes_a_set=sum(t.nbytes for t in targets),
    )


def _bytes(n: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n >= size:
            return f"{n / size:.1f} {unit}"
    return f"{n} bytes"
