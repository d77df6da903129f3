"""The base plus a product of two thin matrices."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.hypernet.generators.heads import Base, Delta, Writing, on_base
from zoo.hypernet.generators.initialization import head, trunk


class LowRank(Delta):
    """``W = base + A(h) B(h) / sqrt(rank)``, with W as (out, in * kernel). (out + in * kernel) x rank x H parameters.

    Slots of one axis (biases, normalizations) are written in full.

    Args:
        writing: what to write, and from how large a code.
        rank: of the change; at most the smaller side of a slot is used.
        hidden: widths of the layers between code and heads.

    Reference: Hu et al., "LoRA", 2021, https://arxiv.org/abs/2106.09685, with both factors generated as in Charakorn et
    al., "Text-to-LoRA", 2025, https://arxiv.org/abs/2506.06105.
    """

    needs_code = True

    def __init__(
        self,
        writing: Writing,
        *,
        rank: int = 4,
        hidden: Sequence[int] = (),
    ) -> None:
        super().__init__(writing)
        if rank < 1:
            raise ValueError(f"rank must be at least 1; got {rank}.")
        self.trunk = trunk(writing.code_size, hidden)
        width = [writing.code_size, *hidden][-1]
        self.ranks = [min(rank, s.shape[0], s.numel // s.shape[0]) if len(s.shape) > 1 else 0 for s in self.slots]
        rows = [
            r * (s.shape[0] + s.numel // s.shape[0]) if r else s.numel
            for s, r in zip(self.slots, self.ranks, strict=True)
        ]
        self.heads = nn.ParameterList([head(n, width) for n in rows])

    def forward(self, features: Tensor, base: Base) -> dict[str, Tensor]:
        h = self.trunk(features)
        lead = h.shape[:-1]
        out = {}
        for s, r, rows, factor in zip(self.slots, self.ranks, self.heads, self.factors, strict=True):
            flat = F.linear(h, rows)
            if r:
                left, right = flat.split([r * s.shape[0], flat.shape[-1] - r * s.shape[0]], -1)
                flat = left.reshape(*lead, -1, r) @ (right.reshape(*lead, r, -1) * r**-0.5)
            out[s.name] = on_base(base[s.name], flat.reshape((*lead, *s.shape)), factor)
        return out
