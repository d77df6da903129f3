"""Between a user's state (a tensor or a tuple of tensors) and the solvers' matrix (B, N)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

Tensors = Tensor | tuple[Tensor, ...]


@dataclass(frozen=True)
class Packing:
    """Shapes and dtype of a state.

    A sample is a row of the solvers' matrix. A state of one axis, ``(N,)``, has no batch axis and is one sample; so is
    a whole batch whose rows form one system (``coupled``). A complex state is seen by the solvers as pairs of reals.

    The solver works in at least float32: a bfloat16 state keeps its dtype towards the map, while residuals, history
    and tolerances are float32. Under autocast the map may answer in another dtype; its answer is cast to the state's.
    """

    single: bool
    shapes: tuple[tuple[int, ...], ...]  # of one sample
    dtype: torch.dtype  # of the user's state
    work: torch.dtype  # of the solver's
    whole: bool = False  # whether the state is one sample as it stands, so that `shapes` are its own
    named: type[Any] | None = None  # the class of a state that is a named tuple
    plain: bool = False  # whether the state is one tensor, batch first, of the solver's own dtype

    @classmethod
    def of(cls, z: Tensors, what: str = "z0", coupled: bool = False) -> Packing:
        """Read the layout off a state.

        Args:
            z: the state.
            what: its name, for messages.
            coupled: whether all rows form one system, that is, one sample.

        Raises:
            TypeError: neither a tensor nor a tuple of them, or of integers.
            ValueError: an empty batch, or tensors whose batch, dtype or device differ.
        """
        single, parts = isinstance(z, Tensor), _parts(z)
        if not parts:
            hint = f" Use torch.as_tensor({what})." if hasattr(z, "__array__") else ""
            hint = f" Use tuple({what}.values()), which the map is then given." if isinstance(z, dict) else hint
            raise TypeError(f"{what} must be a tensor or a tuple of tensors; got {_describe(z)}.{hint}")
        first = parts[0]
        if any(p.layout is not torch.strided for p in parts):
            raise TypeError(f"{what} must be dense; got a tensor of {first.layout}. Use {what}.to_dense().")
        if any(p.is_meta for p in parts):
            raise TypeError(f"{what} lies on the device meta, where there are no numbers. Make it elsewhere.")
        if first.is_floating_point() and first.element_size() == 1:
            raise TypeError(f"{what} is of {first.dtype}, in which nothing is added up. Use {what}.to(torch.bfloat16).")
        if not (first.is_floating_point() or first.is_complex()):
            raise TypeError(f"{what} must be of a floating dtype; got {first.dtype}. Convert it, e.g. {what}.float().")
        whole = coupled or all(p.dim() <= 1 for p in parts)
        for p in parts:
            if p.numel() == 0 or (p.dim() == 0 and not whole):
                raise ValueError(f"{what} must be batch first with at least one sample; got shape {tuple(p.shape)}.")
            if (p.dtype, p.device) != (first.dtype, first.device) or (not whole and p.shape[0] != first.shape[0]):
                raise ValueError(f"All tensors of {what} must share batch size, dtype and device; got {_describe(z)}.")
        work = torch.promote_types(first.real.dtype if first.is_complex() else first.dtype, torch.float32)
        named = type(z) if hasattr(z, "_make") else None
        shapes = tuple(tuple(p.shape if whole else p.shape[1:]) for p in parts)
        return cls(single, shapes, first.dtype, work, whole, named, single and not whole and work == first.dtype)

    @property
    def real(self) -> torch.dtype:
        """The dtype of the numbers that the state is made of: of its real parts, where it is complex."""
        return self.dtype.to_real()

    def pack(self, z: Tensors) -> Tensor:
        """(B, N) in the solver's dtype; a view where that is possible.

        Raises:
            TypeError: neither a tensor nor a tuple of them.
            ValueError: tensors of other shapes, or of another dtype outside of autocast.
        """
        if self.plain and isinstance(z, Tensor) and z.dtype == self.dtype and z.shape[1:] == self.shapes[0]:
            return z if z.dim() == 2 else z.reshape(z.shape[0], -1)
        parts = _parts(z)
        if not parts:
            expected = "a tensor" if self.single else f"a tuple of {len(self.shapes)} tensors"
            raise TypeError(
                f"The map must return {expected}, as the state that it was given; it returned {_describe(z)}. Let it "
                "return its answer, and nothing else."
            )
        if (
            len(parts) != len(self.shapes)
            or not all(map(self._fits, parts, self.shapes))
            or (not self.whole and any(p.shape[0] != parts[0].shape[0] for p in parts))
        ):
            each = "" if self.whole else " for each sample"
            raise ValueError(
                f"The map must return a state shaped like the one it was given, {_shapes(self.shapes)}{each}; it "
                f"returned {_describe(z)}. Add a projection at its end."
            )
        for i, p in enumerate(parts):
            if p.dtype != self.dtype and not (torch.is_autocast_enabled(p.device.type) and not self.dtype.is_complex):
                raise ValueError(
                    f"The map must keep its state's dtype: given {self.dtype}, it returned {p.dtype}"
                    f"{'' if self.single else f' as tensor {i}'}. Start from a state of {p.dtype}, or add "
                    f".to({self.dtype}) at the map's end."
                )
        if self.dtype.is_complex:
            parts = tuple(torch.view_as_real(p.resolve_conj()) for p in parts)
        flat = [p.reshape(1 if self.whole else p.shape[0], -1) for p in parts]
        return (flat[0] if self.single else torch.cat(flat, dim=1)).to(self.work)

    def _fits(self, p: Tensor, shape: tuple[int, ...]) -> bool:
        return tuple(p.shape) == shape if self.whole else p.dim() > 0 and tuple(p.shape[1:]) == shape

    def unpack(self, flat: Tensor) -> Any:
        """The user's structure again, as views, from (..., B, N): axes before the batch (of times) stay."""
        if self.plain:
            return flat if len(self.shapes[0]) == 1 else flat.view(*flat.shape[:-1], *self.shapes[0])
        flat = flat.to(self.real)
        lead = flat.shape[: -2 if self.whole else -1]
        pair = (2,) if self.dtype.is_complex else ()
        sizes = [prod((*s, *pair)) for s in self.shapes]
        parts = (flat,) if self.single else flat.split(sizes, dim=-1)
        out = [p.reshape((*lead, *s, *pair)) for p, s in zip(parts, self.shapes, strict=True)]
        if pair:
            out = [torch.view_as_complex(p.contiguous()) for p in out]
        if self.single:
            return out[0]
        return tuple(out) if self.named is None else self.named._make(out)

    def wrap(self, f: Callable[..., Tensors]) -> Packed:
        """The same map on (B, N); arguments behind the state are passed through."""
        return Packed(f, self)


@dataclass(frozen=True)
class Mixing:
    """A map whose samples are known to depend on one another, though each has its own tolerance.

    Found for batch normalization in training. Its samples stay together, and its adjoint system is one.
    """

    f: Callable[..., Tensors]

    def __call__(self, *inputs: Any) -> Tensors:
        return self.f(*inputs)


def mixes(f: Any) -> bool:
    """Whether the samples of a map are known to depend on one another."""
    return isinstance(f.f if isinstance(f, Packed) else f, Mixing)


@dataclass(frozen=True)
class Packed:
    """A user's map as the solvers see it, (B, N) -> (B, N)."""

    f: Callable[..., Tensors]
    packing: Packing

    def __call__(self, flat: Tensor, *args: Tensor) -> Tensor:
        return self.packing.pack(self.f(self.packing.unpack(flat), *args))


def resolution(f: Any, z: Tensor) -> float:
    """The relative spacing of the numbers that a map computes with, given ``z``; autocast included."""
    dtype, device = z.dtype, z.device.type
    if isinstance(f, Packed):
        dtype = f.packing.real
    if torch.is_autocast_enabled(device) and dtype is not torch.float64:
        dtype = torch.get_autocast_dtype(device)
    return torch.finfo(dtype).eps


def versions(inputs: Sequence[Tensor]) -> list[int]:
    """How often the memory of tensors was written to; -1 for inference tensors, whose writes torch does not count."""
    return [-1 if x.is_inference() else x._version for x in inputs]


def refuse_in_place(inputs: Sequence[Tensor], before: list[int], what: str) -> None:
    """Raise where the `versions` of inputs are no longer what they were before a call of the user's function ``what``.

    Raises:
        ValueError: the function wrote into an input.
    """
    if versions(inputs) != before:
        raise wrote_in_place(what)


def wrote_in_place(what: str) -> ValueError:
    """The error for a user's function that wrote into its input."""
    return ValueError(
        f"{what} wrote into its input, which belongs to the solver: the answer would be wrong. Use operations that "
        "return a new tensor (torch.relu, nn.ReLU(inplace=False)), or begin with a clone()."
    )


def _parts(z: Any) -> tuple[Tensor, ...]:
    """The tensors of a state; none where it is not one."""
    if isinstance(z, Tensor):
        return (z,)
    parts = tuple(z) if isinstance(z, tuple | list) else ()
    return parts if all(isinstance(p, Tensor) for p in parts) else ()


def _shapes(shapes: Any) -> str:
    return ", ".join(str(tuple(s)) for s in shapes)


def _describe(z: Any) -> str:
    if isinstance(z, Tensor):
        return f"a tensor of shape {tuple(z.shape)}, {z.dtype}, on {z.device}"
    if isinstance(z, tuple | list):
        return f"({', '.join(_describe(p) for p in z)})"
    return f"{type(z).__name__}"
