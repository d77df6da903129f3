"""Recomputation in place of memory: the saved tensors of one step, dropped and brought back."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from zoo.adjoints.base import refuse_second_order
from zoo.adjoints.rng import RNGState

T = TypeVar("T")


class RecomputedStep:
    """What one step saved for its backward pass: numbered, dropped, and brought back by computing the step again.

    The step is run by `record`. Its graph stays, so that gradients reach whatever it captured; only the tensors are let
    go. What it draws at random it draws again.

    Args:
        replay: computes the same step again.
        latest: shared by the frames of one solve: the one frame whose tensors are in memory.
        name: of the adjoint, for messages.
        device: where the step computes.
    """

    def __init__(
        self, replay: Callable[[], None], latest: list[RecomputedStep], name: str, device: torch.device
    ) -> None:
        self.replay, self.latest, self.name = replay, latest, name
        self.draws = RNGState(device)
        self.met: list[tuple[torch.Size, torch.dtype]] = []  # what was saved, in order
        self.saved: dict[int, Tensor] = {}

    def record(self, step: Callable[[], T]) -> T:
        """Run the step, without its saved tensors."""
        with torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack):
            out = step()
        self.draws.close()
        return out

    def _pack(self, x: Tensor) -> int:
        self.met.append((x.shape, x.dtype))
        return len(self.met)

    def _unpack(self, number: int) -> Tensor:
        refuse_second_order(self.name)
        if number not in self.saved:
            for frame in self.latest:
                frame.saved.clear()
            self.latest[:] = [self]
            self._recompute()
        return self.saved.pop(number)

    def _recompute(self) -> None:
        self.saved.clear()
        again: list[tuple[torch.Size, torch.dtype]] = []

        def keep(x: Tensor) -> Tensor:
            again.append((x.shape, x.dtype))
            self.saved[len(again)] = x.detach()
            return x

        with torch.enable_grad(), self.draws.again(), torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            self.replay()
        if again != self.met:
            self.saved.clear()
            same = len(again) == len(self.met)
            raise RuntimeError(
                f"The adjoint {self.name} computed a step again and it saved "
                f"{'other tensors' if same else f'{len(again)} tensors instead of {len(self.met)}'}: f does not answer "
                "the same twice. Make it a pure function of its arguments, or use the adjoint unroll."
            )
