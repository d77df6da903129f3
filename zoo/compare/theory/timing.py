"""Time of a training step (forward and backward) against depth, iterations, or steps in time, on one thread.

It is the processor's time, not the clock's: on a busy machine the clock also measures what other processes do.

The same map everywhere, so that a layer, an iteration and a stage of the ODE cost the same arithmetic; what differs is
the backward pass and what a method does beside evaluating the map.
"""

from __future__ import annotations

import time
from typing import Any

import torch

from zoo.compare.theory.memory import ways
from zoo.compare.theory.scale import Scale


def measure(scale: Scale) -> dict[str, Any]:
    """Milliseconds of a training step, the fastest of the repeats, by depth, for each way of `memory.ways`."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        out: dict[str, Any] = {"depths": list(scale.depths), "repeats": scale.repeats, "ways": {}}
        for label, way in ways(scale).items():
            out["ways"][label] = {"ms": [1e3 * fastest(way(k), scale.repeats) for k in scale.depths]}
        return out
    finally:
        torch.set_num_threads(threads)


def fastest(forward: Any, repeats: int) -> float:
    """Seconds of ``forward().square().sum().backward()``: the fastest of them."""
    taken = []
    for _ in range(repeats + 2):
        start = time.process_time()
        forward().square().sum().backward()
        taken.append(time.process_time() - start)
    return min(taken[2:])
