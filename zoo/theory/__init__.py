"""The theory, measured: explicit networks, neural ODEs and equilibrium models on the same small problems.

    python -m zoo.compare --theory [--out DIR]

Each file is one experiment, ``measure(scale) -> numbers``, and `run` makes the table, the figures and the page of all
of them. One thread of a CPU needs a few minutes for everything. Imports no torch until something is measured.

Shape letters: ``B`` samples, ``N`` numbers of a state, ``L`` layers, ``K`` iterations.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


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


def run(out: str | Path | None = None, *, scale: Scale | None = None, say: Any = None) -> dict[str, Any]:
    """Measure everything; returns what ``theory.json`` holds.

    Args:
        out: folder of theory.json, theory.md, theory.html and figures/; None: nothing is written.
        scale: how large; None: the published setting.
        say: called with a line before each experiment.
    """
    from zoo.theory.report import run as measured

    return measured(Path(out) if out is not None else None, scale or Scale(), say or (lambda line: None))
