"""Every weight has a row of its own in a linear head."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.hypernet.generators.heads import Base, Delta, Writing
from zoo.hypernet.generators.initialization import head, trunk


class Full(Delta):
    """``W = base + A h``: every weight has a row of its own. P x H parameters.

    Args:
        writing: what to write, and from how large a code.
        hidden: widths of the layers between code and heads; none: weights are linear in the features.
    """

    needs_code = True
    shares_heads = False

    def __init__(
        self,
        writing: Writing,
        *,
        hidden: Sequence[int] = (),
    ) -> None:
        super().__init__(writing)
        self.trunk = trunk(writing.code_size, hidden)
        width = [writing.code_size, *hidden][-1]
        self.heads = nn.ParameterList([head(s.numel, width, writing.size(s)) for s in self.slots])

    def forward(self, features: Tensor, base: Base) -> dict[str, Tensor]:
        h = self.trunk(features)
        out = {}
        for s, rows in zip(self.slots, self.heads, strict=True):
            b = base[s.name]
            flat = F.linear(h, rows, None if b is None else b.flatten())  # the base is the head's bias
            out[s.name] = flat.reshape((*h.shape[:-1], *s.shape))
        return out
