"""The base's outputs scaled and its biases shifted: a few numbers for each row."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.hypernet.generators.heads import Base, Delta, Writing
from zoo.hypernet.generators.initialization import head, trunk


class FiLM(Delta):
    """``W = (1 + s(h)) * base`` for every output, ``b = base + t(h)`` for biases. (outputs) x H parameters.

    The cheapest: a linear map of the code for every output of the target.

    Args:
        writing: what to write, and from how large a code.
        hidden: widths of the layers between code and heads.

    Reference: Perez et al., "FiLM: visual reasoning with a general conditioning layer", 2018,
    https://arxiv.org/abs/1709.07871.
    """

    allows_no_base = False
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
        self.shifts = [s.role in ("bias", "norm_shift") for s in self.slots]
        sizes = [writing.size(s) if t else writing.scale for s, t in zip(self.slots, self.shifts, strict=True)]
        outputs = [s.shape[0] if s.shape else 1 for s in self.slots]  # a single number is one output
        self.heads = nn.ParameterList([head(n, width, size) for n, size in zip(outputs, sizes, strict=True)])

    def forward(self, features: Tensor, base: Base) -> dict[str, Tensor]:
        h = self.trunk(features)
        out = {}
        for s, shift, rows in zip(self.slots, self.shifts, self.heads, strict=True):
            b = base[s.name]
            assert b is not None  # allows_no_base
            change = F.linear(h, rows).reshape((*h.shape[:-1], *s.shape[:1], *(1 for _ in s.shape[1:])))
            out[s.name] = b + change if shift else torch.addcmul(b, b, change)
        return out
