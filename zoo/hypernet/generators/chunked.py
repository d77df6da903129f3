"""All weights as one vector, written chunk by chunk by one small network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.hypernet.generators.heads import Base, factors, on_base
from zoo.hypernet.generators.initialization import SlotEmbedding, head, trunk
from zoo.hypernet.target import Slot


class Chunked(nn.Module):
    """All weights as one vector, written in chunks by one network: ``chunk_i = A h(c, e_i)``. size x H parameters.

    Args:
        slots, std, scale, code_size: see `zoo.hypernet.generators.base.Generator`.
        size: numbers in a chunk; the last chunk is cut.
        embedding: length of a chunk's embedding.
        hidden: widths of the layers between code and head.

    Reference: von Oswald, Henning, Grewe and Sacramento, "Continual learning with hypernetworks", ICLR 2020,
    https://arxiv.org/abs/1906.00695.
    """

    allows_no_base = True
    factors: Tensor

    def __init__(
        self,
        slots: Sequence[Slot],
        std: Mapping[str, float],
        scale: float,
        code_size: int,
        *,
        size: int = 1024,
        embedding: int = 16,
        hidden: Sequence[int] = (64,),
    ) -> None:
        super().__init__()
        if size < 1 or embedding < 1:
            raise ValueError(f"size and embedding of a chunk must be at least 1; got {size} and {embedding}.")
        self.slots = tuple(slots)
        self.register_buffer("factors", factors(slots, std, scale))
        total = sum(s.numel for s in slots)
        self.places = SlotEmbedding(math.ceil(total / size), embedding, code_size)
        self.trunk = trunk(embedding, hidden)
        self.head = head(size, [embedding, *hidden][-1])

    def forward(self, features: Tensor, base: Base) -> dict[str, Tensor]:
        flat = F.linear(self.trunk(self.places(features)), self.head).flatten(-2)
        parts = flat[..., : sum(s.numel for s in self.slots)].split([s.numel for s in self.slots], -1)
        return {
            s.name: on_base(base[s.name], part.reshape((*part.shape[:-1], *s.shape)), factor)
            for s, part, factor in zip(self.slots, parts, self.factors, strict=True)
        }
