"""Recomputation in place of memory: the saved tensors of one step, dropped and brought back."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from zoo.adjoints.base import refuse_second_order


class Frame:
    """What one step saved for its backward pass: numbered, dropped, and brought back by computing the step again.

    The step is run within ``saved_tensors_hooks(frame.pack, frame.unpack)``. Its graph stays, so that gradients reach
    whatever it captured; only the tensors are let go.

    Args:
        replay: computes the same step again.
        latest: shared by the frames of one solve: the one frame whose tensors are in memory.
        name: of the adjoint, for messages.
    """

    def __init__(self, replay: Callable[[], None], latest: list[Frame], name: str) -> None:
        self.replay, self.latest, self.name = replay, latest, name
        self.count = 0
        self.saved: dict[int, Tensor] = {}

    def pack(self, x: Tensor) -> int:
        self.count += 1
        return self.count

    def unpack(self, number: int) -> Tensor:
        refuse_second_order(self.name)
        if number not in self.saved:
            for frame in self.latest:
                frame.saved.clear()
            self.latest[:] = [self]
            self._recompute()
        return self.saved.pop(number)

    def _recompute(self) -> None:
        self.saved.clear()
        again = 0

        def keep(x: Tensor) -> Tensor:
            nonlocal again
            again += 1
            self.saved[again] = x.detach()
            return x

        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            self.replay()
        if again != self.count:
            self.saved.clear()
            raise RuntimeError(
                f"The adjoint {self.name} computed a step again and it saved {again} tensors instead of {self.count}: "
                "f does not answer the same twice. Make it a pure function of its arguments, or use the adjoint unroll."
            )
