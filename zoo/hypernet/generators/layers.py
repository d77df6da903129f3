"""An embedding for each layer, and a trunk that all layers share."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.hypernet.generators.heads import Base, Delta, Writing, on_base
from zoo.hypernet.generators.initialization import SlotEmbedding, head, trunk


class Layers(Delta):
    """``W_l = base_l + A_shape h(c, e_l)``: an embedding of each slot, a trunk for all, a head for each shape.

    Slots of one shape share their head, so that a deep target of equal blocks costs little more than one block.

    Args:
        writing: what to write, and from how large a code.
        embedding: length of a slot's embedding.
        hidden: widths of the layers between code and heads.

    Reference: Mahabadi, Ruder, Dehghani and Henderson, "Parameter-efficient multi-task fine-tuning for transformers via
    shared hypernetworks", ACL 2021, https://arxiv.org/abs/2106.04489.
    """

    def __init__(
        self,
        writing: Writing,
        *,
        embedding: int = 16,
        hidden: Sequence[int] = (64,),
    ) -> None:
        super().__init__(writing)
        if embedding < 1:
            raise ValueError(f"embedding of a layer must be at least 1; got {embedding}.")
        self.places = SlotEmbedding(len(self.slots), embedding, writing.code_size)
        self.trunk = trunk(embedding, hidden)
        shapes = list(dict.fromkeys(s.shape for s in self.slots))
        self.which = [shapes.index(s.shape) for s in self.slots]
        width = [embedding, *hidden][-1]
        self.heads = nn.ParameterList([head(math.prod(shape), width) for shape in shapes])

    def forward(self, features: Tensor, base: Base) -> dict[str, Tensor]:
        h = self.trunk(self.places(features)).unbind(-2)
        return {
            s.name: on_base(base[s.name], F.linear(h[i], self.heads[k]).reshape((*h[i].shape[:-1], *s.shape)), factor)
            for i, (s, k, factor) in enumerate(zip(self.slots, self.which, self.factors, strict=True))
        }
