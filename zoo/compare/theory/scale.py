"""How large the experiments are."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """How large the experiments are.

    Args:
        depths: layers, iterations, or steps in time, from few to many.
        width: numbers of a state.
        batch: samples.
        tolerances: of the solvers, from loose to tight.
        repeats: timed repetitions.
        steps: training steps of the experiments that train.
        seeds: random starts of the experiments that train.
    """

    depths: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    width: int = 64
    batch: int = 32
    tolerances: tuple[float, ...] = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8)
    repeats: int = 15
    steps: int = 400
    seeds: int = 3


QUICK = Scale(
    depths=(4, 8, 16), width=16, batch=8, tolerances=(1e-2, 1e-4, 1e-6), repeats=2, steps=3, seeds=1
)  # says that everything runs, and nothing of the theory


EXPERIMENTS = ("linear", "memory", "gradients", "lipschitz", "timing", "annuli")
