"""All weights as one vector, written chunk by chunk by one small network."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from zoo.hypernet.generators.heads import Base, Delta, Writing, on_base
from zoo.hypernet.generators.initialization import SlotEmbedding, head, trunk


class Chunked(Delta):
    """All weights as one vector, written in chunks by one network: ``chunk_i = A h(c, e_i)``. size x H parameters.

    Args:
        writing: what to write, and from how large a code.
        size: numbers in a chunk; the last chunk is cut.
        embedding: length of a chunk's embedding.
        hidden: widths of the layers between code and head.

    Reference: von Oswald, Henning, Grewe and Sacramento, "Continual learning with hypernetworks", ICLR 2020,
    https://arxiv.org/abs/1906.00695.
    """

    def __init__(
        self,
        writing: Writing,
        *,
        size: int = 1024,
        embedding: int = 16,
        hidden: Sequence[int] = (64,),
    ) -> None:
        super().__init__(writing)
        if size < 1 or embedding < 1:
            raise ValueError(f"size and embedding of a chunk must be at least 1; got {size} and {embedding}.")
        total = sum(s.numel for s in self.slots)
        self.places = SlotEmbedding(math.ceil(total / size), embedding, writing.code_size)
        self.trunk = trunk(embedding, hidden)
        self.head = head(size, [embedding, *hidden][-1])

    def forward(self, features: Tensor, base: Base) -> dict[str, Tensor]:
        flat = F.linear(self.trunk(self.places(features)), self.head).flatten(-2)
        parts = flat[..., : sum(s.numel for s in self.slots)].split([s.numel for s in self.slots], -1)
        return {
            s.name: on_base(base[s.name], part.reshape((*part.shape[:-1], *s.shape)), factor)
            for s, part, factor in zip(self.slots, parts, self.factors, strict=True)
        }
