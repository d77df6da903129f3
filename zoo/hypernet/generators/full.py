"""Every weight has a row of its own in a linear head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.hypernet.generators.heads import Base, need_code
from zoo.hypernet.generators.initialization import head, trunk
from zoo.hypernet.target import Slot


class Full(nn.Module):
    """``W = base + A h``: every weight has a row of its own. P x H parameters.

    Args:
        slots, std, scale, code_size: see `zoo.hypernet.generators.base.Generator`.
        hidden: widths of the layers between code and heads; none: weights are linear in the features.
    """

    allows_no_base = True

    def __init__(
        self,
        slots: Sequence[Slot],
        std: Mapping[str, float],
        scale: float,
        code_size: int,
        *,
        hidden: Sequence[int] = (),
    ) -> None:
        super().__init__()
        need_code("full", code_size)
        self.slots = tuple(slots)
        self.trunk = trunk(code_size, hidden)
        width = [code_size, *hidden][-1]
        self.heads = nn.ParameterList([head(s.numel, width, scale * std[s.name]) for s in slots])

    def forward(self, features: Tensor, base: Base) -> dict[str, Tensor]:
        h = self.trunk(features)
        out = {}
        for s, rows in zip(self.slots, self.heads, strict=True):
            b = base[s.name]
            flat = F.linear(h, rows, None if b is None else b.flatten())  # the base is the head's bias
            out[s.name] = flat.reshape((*h.shape[:-1], *s.shape))
        return out
