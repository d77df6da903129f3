"""The last few vectors of an iteration, batch first, ready for batched products."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class History(NamedTuple):
    """A ring of at most ``size`` vectors a sample: one preallocated buffer (B, size, N), written in place.

    Where a gradient has to cross the iteration, nothing may be written in place: then every push makes a new buffer.
    A vector's place in the ring is its step modulo ``size``; the order does not matter to the methods that use it.
    """

    buffer: Tensor  # (B, size, N), or (B, count, N) while a gradient is recorded
    size: int
    count: int  # pushed so far

    @classmethod
    def empty(cls, like: Tensor, size: int) -> History:
        """Room for ``size`` vectors like (B, N)."""
        batch, n = like.shape
        width = 0 if torch.is_grad_enabled() else size
        return cls(like.new_empty(batch, width, n), size, 0)

    @property
    def used(self) -> int:
        return min(self.count, self.size)

    @property
    def slot(self) -> int:
        """Where the newest vector lies."""
        return (self.count - 1) % self.size

    @property
    def rows(self) -> Tensor:
        """(B, used, N), without a copy."""
        return self.buffer[:, : self.used]

    def push(self, vector: Tensor) -> History:
        slot = self.count % self.size
        if not torch.is_grad_enabled():
            self.buffer[:, slot] = vector
            return self._replace(count=self.count + 1)
        old = self.rows
        parts = (old[:, :slot], vector[:, None], old[:, slot + 1 :])
        return self._replace(buffer=torch.cat(parts, dim=1), count=self.count + 1)

    def dot(self, vector: Tensor) -> Tensor:
        """(B, used): the inner product of every kept vector with one (B, N)."""
        return torch.bmm(self.rows, vector[:, :, None])[:, :, 0]

    def mix(self, weights: Tensor) -> Tensor:
        """(B, N): the combination of the kept vectors by weights (B, used)."""
        return torch.bmm(weights.to(self.buffer.dtype)[:, None, :], self.rows)[:, 0]


def set_cross(matrix: Tensor, slot: int, row: Tensor) -> Tensor:
    """Put ``row`` (B, n) into row and column ``slot`` of a symmetric matrix (B, size, size): a new Gram row."""
    n = row.shape[1]
    if torch.is_grad_enabled():
        matrix = matrix.clone()
    matrix[:, slot, :n] = row
    matrix[:, :n, slot] = row
    return matrix
