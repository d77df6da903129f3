"""The ways from features of a code to weights. Each is ``delta(features (..., C), base) -> {name: (..., *shape)}``.

Where a head belongs to one slot, its rows carry the slot's initial size (hyperfan); where slots share it, it writes
numbers of variance 1 that a fixed factor brings to the size of each slot.

P: numbers that are generated; H: width of the features in front of the head.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.hypernet.init import Places, head, trunk
from zoo.hypernet.target import Slot

Base = Mapping[str, Tensor | None]


def on_base(base: Tensor | None, delta: Tensor, factor: Tensor) -> Tensor:
    """``base + factor * delta``, in one pass."""
    return delta * factor if base is None else torch.addcmul(base, delta, factor)


def factors(slots: Sequence[Slot], std: Mapping[str, float], scale: float) -> Tensor:
    """What brings numbers of variance 1 to each slot's size: a buffer, as it was read off the target's own values."""
    return torch.tensor([scale * std[s.name] for s in slots])


def need_code(kind: str, code_size: int) -> None:
    """Raise where a generator has nothing to read."""
    if code_size < 1:
        raise ValueError(
            f"A {kind} generator reads a code: give code_size of at least 1, or take 'chunked', 'layers' or 'tiles', "
            "which have embeddings of their own."
        )


class Full(nn.Module):
    """``W = base + A h``: every weight has a row of its own. P x H parameters.

    Args:
        slots, std, scale, code_size: see `zoo.hypernet.generator.Generator`.
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


class Chunked(nn.Module):
    """All weights as one vector, written in chunks by one network: ``chunk_i = A h(c, e_i)``. size x H parameters.

    Args:
        slots, std, scale, code_size: see `zoo.hypernet.generator.Generator`.
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
        self.places = Places(math.ceil(total / size), embedding, code_size)
        self.trunk = trunk(embedding, hidden)
        self.head = head(size, [embedding, *hidden][-1])

    def forward(self, features: Tensor, base: Base) -> dict[str, Tensor]:
        flat = F.linear(self.trunk(self.places(features)), self.head).flatten(-2)
        parts = flat[..., : sum(s.numel for s in self.slots)].split([s.numel for s in self.slots], -1)
        return {
            s.name: on_base(base[s.name], part.reshape((*part.shape[:-1], *s.shape)), factor)
            for s, part, factor in zip(self.slots, parts, self.factors, strict=True)
        }


class Layers(nn.Module):
    """``W_l = base_l + A_shape h(c, e_l)``: an embedding of each slot, a trunk for all, a head for each shape.

    Slots of one shape share their head, so that a deep target of equal blocks costs little more than one block.

    Args:
        slots, std, scale, code_size: see `zoo.hypernet.generator.Generator`.
        embedding: length of a slot's embedding.
        hidden: widths of the layers between code and heads.

    Reference: Mahabadi, Ruder, Dehghani and Henderson, "Parameter-efficient multi-task fine-tuning for transformers via
    shared hypernetworks", ACL 2021, https://arxiv.org/abs/2106.04489.
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
        embedding: int = 16,
        hidden: Sequence[int] = (64,),
    ) -> None:
        super().__init__()
        if embedding < 1:
            raise ValueError(f"embedding of a layer must be at least 1; got {embedding}.")
        self.slots = tuple(slots)
        self.register_buffer("factors", factors(slots, std, scale))
        self.places = Places(len(self.slots), embedding, code_size)
        self.trunk = trunk(embedding, hidden)
        shapes = list(dict.fromkeys(s.shape for s in slots))
        self.which = [shapes.index(s.shape) for s in slots]
        width = [embedding, *hidden][-1]
        self.heads = nn.ParameterList([head(math.prod(shape), width) for shape in shapes])

    def forward(self, features: Tensor, base: Base) -> dict[str, Tensor]:
        h = self.trunk(self.places(features)).unbind(-2)
        return {
            s.name: on_base(base[s.name], F.linear(h[i], self.heads[k]).reshape((*h[i].shape[:-1], *s.shape)), factor)
            for i, (s, k, factor) in enumerate(zip(self.slots, self.which, self.factors, strict=True))
        }


class LowRank(nn.Module):
    """``W = base + A(h) B(h) / sqrt(rank)``, with W as (out, in * kernel). (out + in * kernel) x rank x H parameters.

    Slots of one axis (biases, normalisations) are written in full.

    Args:
        slots, std, scale, code_size: see `zoo.hypernet.generator.Generator`.
        rank: of the change; at most the smaller side of a slot is used.
        hidden: widths of the layers between code and heads.

    Reference: Hu et al., "LoRA", 2021, https://arxiv.org/abs/2106.09685, with both factors generated as in Charakorn et
    al., "Text-to-LoRA", 2025, https://arxiv.org/abs/2506.06105.
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
        rank: int = 4,
        hidden: Sequence[int] = (),
    ) -> None:
        super().__init__()
        need_code("low_rank", code_size)
        if rank < 1:
            raise ValueError(f"rank must be at least 1; got {rank}.")
        self.slots = tuple(slots)
        self.register_buffer("factors", factors(slots, std, scale))
        self.trunk = trunk(code_size, hidden)
        width = [code_size, *hidden][-1]
        self.ranks = [min(rank, s.shape[0], s.numel // s.shape[0]) if len(s.shape) > 1 else 0 for s in slots]
        rows = [
            r * (s.shape[0] + s.numel // s.shape[0]) if r else s.numel for s, r in zip(slots, self.ranks, strict=True)
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


class FiLM(nn.Module):
    """``W = (1 + s(h)) * base`` for every output, ``b = base + t(h)`` for biases. (outputs) x H parameters.

    The cheapest: a linear map of the code for every output of the target.

    Args:
        slots, std, scale, code_size: see `zoo.hypernet.generator.Generator`.
        hidden: widths of the layers between code and heads.

    Reference: Perez et al., "FiLM: visual reasoning with a general conditioning layer", 2018,
    https://arxiv.org/abs/1709.07871.
    """

    allows_no_base = False

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
        need_code("film", code_size)
        self.slots = tuple(slots)
        self.trunk = trunk(code_size, hidden)
        width = [code_size, *hidden][-1]
        self.shifts = [s.role in ("bias", "norm_shift") for s in slots]
        sizes = [scale * std[s.name] if shift else scale for s, shift in zip(slots, self.shifts, strict=True)]
        outputs = [s.shape[0] if s.shape else 1 for s in slots]  # a single number is one output
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
