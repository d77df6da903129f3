"""A row of blocks that may be run again in the backward pass instead of keeping what they computed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class Blocks(nn.Sequential):
    """``nn.Sequential`` with gradient checkpointing, one block at a time.

    Attributes:
        recompute: keep the input of each block only, and run it again when the backward pass comes by. Running
            statistics are updated once.
    """

    recompute: bool = False

    def forward(self, z: Tensor) -> Tensor:
        if not (self.recompute and self.training and torch.is_grad_enabled()):
            return super().forward(z)
        for block in self:

            def contexts(block: nn.Module = block):  # type: ignore[no-untyped-def]  # torch's: of a run, of its repeat
                return nullcontext(), _buffers_kept(block)

            z = checkpoint(block, z, use_reentrant=False, context_fn=contexts)
        return z


@contextmanager
def _buffers_kept(module: nn.Module) -> Iterator[None]:
    """Put the buffers of a module back after what happens within, without a trace in autograd's versions."""
    before = [(b, b.detach().clone()) for b in module.buffers()]
    try:
        yield
    finally:
        for buffer, value in before:
            buffer.data.copy_(value)
