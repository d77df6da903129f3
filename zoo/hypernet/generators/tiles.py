"""Ha's generator: every kernel is tiled, two linear layers write each tile from its embedding.

    a_i = W_i z + b_i                     for each input channel i of the tile: (d,)
    K_i = W_out a_i + b_out               the kernels of that channel: (outputs of a tile, *kernel)

The matrices are shared by all tiles of all layers; a tile costs nothing but its embedding z.

Reference: Ha, Dai and Le, "HyperNetworks", ICLR 2017, https://arxiv.org/abs/1609.09106, section 3.1. What differs: a
fixed factor brings a layer's kernels to the size that its own initialization has.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.hypernet.generators.heads import Base, Delta, Writing, on_base
from zoo.hypernet.generators.initialization import SlotEmbedding, head


class Tiles(Delta):
    """Weights (O, I, *kernel) out of tiles (outputs, inputs, *kernel), with one kernel size for all slots.

    Args:
        writing: what to write, and from how large a code. The code scales the embeddings, see
            `zoo.hypernet.generators.initialization.SlotEmbedding`.
        outputs, inputs: channels of a tile; the slots' channels must be multiples.
        embedding: length of a tile's embedding z.
        width: length d of the features between the two layers; None for that of the embedding.

    Raises:
        ValueError: a slot that does not divide into tiles, or kernels of several sizes.
    """

    def __init__(
        self,
        writing: Writing,
        *,
        outputs: int = 16,
        inputs: int = 16,
        embedding: int = 64,
        width: int | None = None,
    ) -> None:
        super().__init__(writing)
        width = embedding if width is None else width
        if min(outputs, inputs, embedding, width) < 1:
            raise ValueError(
                "A tile needs sizes of at least 1; got "
                f"outputs={outputs}, inputs={inputs}, embedding={embedding}, width={width}."
            )
        slots = self.slots
        self.kernel = slots[0].shape[2:]
        for s in slots:
            if len(s.shape) < 2 or s.shape[0] % outputs or s.shape[1] % inputs:
                raise ValueError(
                    f"{s.name!r} {s.shape} does not divide into tiles ({outputs}, {inputs}, *kernel): exclude it from "
                    "the target, or choose outputs and inputs that divide its channels."
                )
            if s.shape[2:] != self.kernel:
                raise ValueError(
                    f"{s.name!r} has a kernel {s.shape[2:]} and {slots[0].name!r} one of {self.kernel}: tiles write "
                    "one size; give each size a target of its own."
                )
        self.outputs, self.inputs = outputs, inputs
        self.grids = [(s.shape[0] // outputs, s.shape[1] // inputs) for s in slots]
        self.places = SlotEmbedding(sum(o * i for o, i in self.grids), embedding, writing.code_size)
        numel = outputs * slots[0].numel // (slots[0].shape[0] * slots[0].shape[1])
        self.first = head(inputs * width, embedding)
        self.first_bias = nn.Parameter(torch.zeros(inputs * width))
        self.second = head(numel, width)
        self.second_bias = nn.Parameter(torch.zeros(numel))

    def forward(self, features: Tensor, base: Base) -> dict[str, Tensor]:
        a = F.linear(self.places(features), self.first, self.first_bias).unflatten(-1, (self.inputs, -1))
        tiles = F.linear(a, self.second, self.second_bias)  # (..., tiles, inputs, outputs * kernel)
        lead = tiles.shape[:-3]
        out = {}
        parts = tiles.split([o * i for o, i in self.grids], len(lead))
        for s, (o, i), part, factor in zip(self.slots, self.grids, parts, self.factors, strict=True):
            grid = part.reshape(*lead, o, i, self.inputs, self.outputs, -1)
            n = len(lead)
            order = (*range(n), n, n + 3, n + 1, n + 2, n + 4)  # (o, outputs, i, inputs, kernel)
            out[s.name] = on_base(base[s.name], grid.permute(order).reshape(*lead, *s.shape), factor)
        return out
