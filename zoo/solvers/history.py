"""The last few vectors of an iteration, batch first, ready for batched products."""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

import torch
from torch import Tensor

# The history buffers of the newest finished solves on the CPU. A fresh buffer of tens of megabytes costs a page fault
# for every 4 KiB when it is first written, more than all arithmetic of a solve; a GPU's allocator caches by itself.
_spares: list[Tensor] = []
_MOST = 6
_lock = threading.Lock()


def recorded() -> bool:
    """Whether nothing may be written in place: a gradient is recorded, or a program is exported."""
    return torch.is_grad_enabled() or torch.compiler.is_exporting()


class History(NamedTuple):
    """A ring of at most ``size`` vectors a sample: one preallocated buffer (B, size, N), written in place.

    Where a gradient has to cross the iteration, nothing may be written in place: then every push makes a new buffer.
    A vector's place in the ring is its step modulo ``size``; the order does not matter to the methods that use it.
    """

    buffer: Tensor  # (B, size, N), or (B, pushed, N) while a gradient is recorded
    size: int
    pushed: int  # how many vectors, ever

    @classmethod
    def empty(cls, like: Tensor, size: int) -> History:
        """Room for ``size`` vectors like (B, N)."""
        batch, n = like.shape
        if recorded():
            return cls(like.new_empty(batch, 0, n), size, 0)
        with _lock:
            for i, spare in enumerate(_spares):
                if spare.shape == (batch, size, n) and spare.dtype == like.dtype and spare.device == like.device:
                    return cls(_spares.pop(i), size, 0)
        return cls(like.new_empty(size, batch, n).transpose(0, 1), size, 0)  # each vector contiguous: to write to

    @property
    def used(self) -> int:
        return min(self.pushed, self.size)

    @property
    def slot(self) -> int:
        """Where the newest vector lies."""
        return (self.pushed - 1) % self.size

    @property
    def rows(self) -> Tensor:
        """(B, used, N), without a copy."""
        return self.buffer if self.pushed >= self.size else self.buffer[:, : self.pushed]

    @property
    def newest(self) -> Tensor:
        """(B, N), without a copy: overwritten ``size`` pushes later."""
        return self.buffer[:, self.slot]

    def push(self, vector: Tensor, minus: Tensor | None = None, times: Tensor | None = None) -> History:
        """Keep ``vector``, or ``vector - minus``, or ``vector * times``, written straight to its place."""
        slot = self.pushed % self.size
        if not recorded():
            place = self.buffer[:, slot]
            if minus is not None:
                torch.sub(vector, minus, out=place)
            elif times is not None:
                torch.mul(vector, times, out=place)
            else:
                place.copy_(vector)
            return History(self.buffer, self.size, self.pushed + 1)
        vector = vector if minus is None else vector - minus
        vector = vector if times is None else vector * times
        old = self.rows
        parts = (old[:, :slot], vector[:, None], old[:, slot + 1 :])
        return History(torch.cat(parts, dim=1), self.size, self.pushed + 1)

    def dot(self, vector: Tensor) -> Tensor:
        """(B, used): the inner product of every kept vector with one (B, N)."""
        return torch.bmm(vector[:, None], self.rows.transpose(1, 2))[:, 0]  # as a row: twice as fast as a column

    def mix(self, weights: Tensor) -> Tensor:
        """(B, N): the combination of the kept vectors by weights (B, used)."""
        return torch.bmm(weights.to(self.buffer.dtype)[:, None], self.rows)[:, 0]


def release(state: Any) -> None:
    """Hand the history buffers of a finished solve to the next one of the same shape; only the newest few are kept."""
    for part in state if isinstance(state, tuple) else ():
        if not isinstance(part, History):
            release(part)  # the state of a method within a method
            continue
        if part.buffer.is_inference():
            continue  # a buffer made under inference_mode must not be written outside of it
        if part.buffer.device.type == "cpu" and not part.buffer.requires_grad:
            with _lock:
                _spares.append(part.buffer)
                del _spares[:-_MOST]


def write(matrix: Tensor, place: Any, values: Tensor | float) -> Tensor:
    """``matrix[place] = values``: in place, or into a copy while a gradient is recorded."""
    matrix = matrix.clone() if recorded() else matrix
    matrix[place] = values
    return matrix


def write_cross(matrix: Tensor, slot: int, row: Tensor, diagonal: Tensor | None = None) -> Tensor:
    """Put ``row`` (B, n) into row and column ``slot`` of a symmetric matrix (B, size, size): a new Gram row."""
    matrix = matrix.clone() if recorded() else matrix
    n = row.shape[1]
    matrix[:, slot, :n] = row
    matrix[:, :n, slot] = row
    if diagonal is not None:
        matrix[:, slot, slot] = diagonal
    return matrix
