"""From a code to a set of weights: what all generators share.

    theta(c) = base + delta(encode(c))

The base is learned (it starts as the target's own initial values, or as pretrained ones), fixed, or left out; the
delta is one of ``GENERATORS``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from zoo.hypernet import GENERATORS
from zoo.hypernet.generators.heads import Delta, Writing
from zoo.hypernet.generators.initialization import ENCODINGS, deviations, encode, encoded_size
from zoo.hypernet.target import HyperTarget, Slot, TargetError

Spec = str | Mapping[str, Any]


class TooLarge(ValueError):
    """A generator that would not fit; raised before anything is allocated, with its size and a smaller way."""


class Generator(nn.Module):
    """Writes all slots of a target from a code.

        >>> target = HyperTarget(nn.Linear(3, 2))
        >>> generator = Generator(target, code_size=4)
        >>> {name: tuple(w.shape) for name, w in generator(torch.randn(5, 4)).items()}
        {'weight': (5, 2, 3), 'bias': (5, 2)}

    Args:
        target: read for its slots and initial values only; not kept.
        code_size: length C of a code; 0 for a generator that has nothing but its own embeddings (``chunked``,
            ``tiles``, ``layers``), which is a static hypernetwork.
        kind: a name of ``GENERATORS``, or a mapping with its options: ``{"name": "chunked", "size": 512}``.
        base: ``initial`` for the target's own initial values; ``none`` for 0 (1 for the scales of normalizations);
            or the values themselves by name, a pretrained ``state_dict`` for one (what is no slot in it is left aside).
        train_base: whether the base is trained; otherwise it is a buffer.
        init: size of the delta at the start: ``match``, ``hyperfan_in`` or ``hyperfan_out``
            (`zoo.hypernet.generators.initialization`).
        scale: multiplies that size. None: 0.1 on top of a base, so that activations are those of the base; 1 without.
        encode: ``unit`` (the code's direction alone counts), ``cos_sin`` (codes in [0, 1]) or ``plain``.
        limit: the largest generator to allocate, in bytes of its parameters.

    Attributes:
        slots: what it fills.

    Raises:
        TooLarge: it would take more than ``limit`` bytes.
        UnknownName: no such kind or option.
        TargetError, ValueError: a base that does not fit the slots; options that cannot be.
    """

    slots: tuple[Slot, ...]

    def __init__(
        self,
        target: HyperTarget,
        code_size: int,
        kind: Spec = "full",
        *,
        base: str | Mapping[str, Tensor] = "initial",
        train_base: bool = True,
        init: str = "match",
        scale: float | None = None,
        encode: str = "unit",
        limit: int = 2 * 2**30,
    ) -> None:
        super().__init__()
        if encode not in ENCODINGS:
            raise ValueError(f"encode must be one of {', '.join(ENCODINGS)}; got {encode!r}.")
        if code_size < 0:
            raise ValueError(f"code_size must be at least 0; got {code_size}.")
        if encode == "unit" and code_size == 1:
            raise ValueError(
                "A code of one number has no direction but its sign: take encode='cos_sin' for a number in [0, 1], or "
                "encode='plain'."
            )
        if isinstance(base, str) and base not in ("initial", "none"):
            raise ValueError(f"base must be 'initial', 'none' or tensors by name; got {base!r}.")
        self.slots, self.code_size, self.encoding = target.spec, code_size, encode
        values = _base_values(target, base)
        like = next(iter(target.initial.values()))
        writing = Writing(
            slots=target.spec,
            std=deviations(target.spec, target.initial, init),
            scale=scale if scale is not None else (1.0 if base == "none" else 0.1),
            code_size=encoded_size(code_size, encode),
        )
        based = 0 if base == "none" else target.numel * train_base
        with torch.device("meta"):  # which allocates nothing
            sketch: Delta = GENERATORS.build(kind, writing=writing)
        count = based + sum(p.numel() for p in sketch.parameters())
        if count * like.element_size() > limit:
            raise TooLarge(
                f"A {type(sketch).__name__} generator of these {target.numel:,} weights from codes of {code_size} has "
                f"{count:,} parameters, {_bytes(count * like.element_size())}; the limit is {_bytes(limit)}. Take "
                "'chunked', 'layers' or 'film', fewer features (hidden, code_size), select fewer parameters of the "
                "target, or raise limit."
            )
        self.delta: Delta = GENERATORS.build(kind, writing=writing).to(like)
        if base == "none" and not sketch.allows_no_base:
            raise ValueError(f"A {type(sketch).__name__} generator changes a base; base='none' leaves it none.")
        self.base = nn.ParameterDict() if base != "none" and train_base else _Fixed()
        for name, value in values.items():
            kept = value.detach().to(like).clone()
            self.base[_key(name)] = nn.Parameter(kept) if isinstance(self.base, nn.ParameterDict) else kept

    def forward(self, code: Tensor | None = None) -> dict[str, Tensor]:
        """Return weights by name, each of shape (..., *slot.shape), from a code (..., C); no code where C is 0."""
        return self.delta(self.features(code), {s.name: self._base(s) for s in self.slots})

    def features(self, code: Tensor | None = None) -> Tensor:
        """Return what the delta reads: the code in its encoding."""
        if code is None:
            if self.code_size:
                raise ValueError(f"This generator reads codes of {self.code_size} numbers; got none.")
            like = next(self.delta.parameters())
            return like.new_empty(0)
        if code.dim() == 0 or code.shape[-1] != self.code_size:
            raise ValueError(f"Expected codes of shape (..., {self.code_size}); got {tuple(code.shape)}.")
        if not code.is_floating_point():
            raise ValueError(
                f"A code is floating point; got {code.dtype}. Take code.float(), or look a number of a task up in an "
                "nn.Embedding."
            )
        return encode(code, self.encoding)

    def _base(self, slot: Slot) -> Tensor | None:
        return self.base.get(_key(slot.name), None)

    def extra_repr(self) -> str:
        return f"slots={len(self.slots)}, code_size={self.code_size}, encode={self.encoding}"


class _Fixed(nn.Module):
    """Buffers by name: a base that is not trained."""

    def __setitem__(self, key: str, value: Tensor) -> None:
        self.register_buffer(key, value)

    def get(self, key: str, default: None) -> Tensor | None:
        return self._buffers.get(key, default)


def _base_values(target: HyperTarget, base: str | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The base by slot; a slot that starts at 0 has none."""
    if base == "none":
        return {s.name: torch.ones(s.shape) for s in target.spec if s.role == "norm_scale"}
    given: Mapping[str, Tensor] = target.initial if isinstance(base, str) else base
    for s in target.spec:
        if s.name not in given or tuple(given[s.name].shape) != s.shape:
            got = f"of shape {tuple(given[s.name].shape)}" if s.name in given else "missing"
            raise TargetError(f"The base of {s.name!r} is {got}; the slot is {s.shape}.")
    return {s.name: given[s.name] for s in target.spec}


def _key(name: str) -> str:
    """A parameter's name may hold no dot; no attribute's name holds a slash."""
    return name.replace(".", "/")


def _bytes(n: int) -> str:
    return f"{n / 1e9:,.1f} GB" if n >= 1e9 else f"{n / 1e6:,.1f} MB"
