"""What a backward pass must find as the forward pass left it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor


def saved_autocast(device: str) -> Callable[[], AbstractContextManager[None]]:
    """A context, to be entered as often as needed, in which autocast is as it is now."""
    enabled, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    return lambda: torch.autocast(device, dtype=dtype, enabled=enabled)


class RNGState:
    """The random numbers that a computation draws from torch's generators (dropout), so as to draw the same again.

    Made just before the computation; `close` just after it. The generators are those of the CPU and, for tensors that
    lie on one, of the CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.states = self._now()

    def _now(self) -> list[Tensor]:
        states = [torch.get_rng_state()]
        if self.device.type == "cuda":
            states.append(torch.cuda.get_rng_state(self.device))
        return states

    def close(self) -> bool:
        """Whether anything was drawn; if not, the generators' states (5 KB) are let go."""
        if all(torch.equal(a, b) for a, b in zip(self.states, self._now(), strict=True)):
            self.states = []
        return bool(self.states)

    @contextmanager
    def again(self) -> Iterator[None]:
        """A scope, to be entered as often as needed, that draws the same numbers; the generators then go on as ever."""
        if not self.states:
            yield
            return
        with torch.random.fork_rng([self.device] if len(self.states) > 1 else []):
            torch.set_rng_state(self.states[0])
            if len(self.states) > 1:
                torch.cuda.set_rng_state(self.states[1], self.device)
            yield
