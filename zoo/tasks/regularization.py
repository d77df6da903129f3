"""What keeps an equilibrium easy to find while a model is trained: one frozen dataclass. Imports no torch.

Its options stand among those of every task whose models solve fixed points: ``--task.jacobian_weight 1``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class StabilityConfig:
    """How the solves of a training are kept stable; every part is off by default and then costs nothing.

    Args:
        jacobian_weight: weight of the Jacobian penalty ``|df/dz(z*)|_F^2 / N``.
        jacobian_every: training steps from one penalty to the next.
        jacobian_final: weight at the end of the run, reached in a straight line; null: the weight stays.
        jacobian_until: share of the run after which there is no penalty, in (0, 1].
        warmup_steps: training steps that unroll ``warmup_depth`` iterations instead of solving, at the start.
        warmup_depth: iterations unrolled in such a step.
        random_budget: each training step solves with max_steps less 0 to this many steps, drawn anew.
        depth_curriculum: steps of a solve at most, each for an equal share of the run, in training; empty: no limit.
        map_noise: standard deviation of a noise in the map, drawn once a solve, in training.
        start_noise: standard deviation of a noise on the start of every solve, in training.
        update_penalty: weight of the mean square of the last update, ``|z_T - z_(T-1)|^2 / N``.
        correction_weight: weight of the loss of an early answer, beside that of the equilibrium.
        correction_steps: steps of the solver after which the early answer is taken.
        guard: where solves stop converging: warn; adapt, which also raises the budget, then falls back; or stop.
        nonfinite: where a loss or a gradient is NaN or infinite: stop, or skip that step.
        contract: scale the map's weights down before the first step until its spectral radius is below this; 0: do not.
            For maps without a normalization that undoes the scale: MDEQ and the DEQ transformer are refused.

    Raises:
        ValueError: a weight or a count out of its range.

    Reference: Bai, Koltun, Kolter, "Multiscale Deep Equilibrium Models", 2020 (warm-up); the same, "Stabilizing
    Equilibrium Models by Jacobian Regularization", 2021 (penalty, its schedule, random budgets); Bai, Geng, Savani,
    Kolter, "Deep Equilibrium Optical Flow Estimation", 2022 (correction). The noise and the penalty on the last update:
    see `zoo.tasks.maps`.
    """

    jacobian_weight: float = 0.0
    jacobian_every: int = 1
    jacobian_final: float | None = None
    jacobian_until: float = 1.0
    warmup_steps: int = 0
    warmup_depth: int = 5
    random_budget: int = 0
    depth_curriculum: tuple[int, ...] = ()
    map_noise: float = 0.0
    start_noise: float = 0.0
    update_penalty: float = 0.0
    correction_weight: float = 0.0
    correction_steps: int = 3
    contract: float = 0.0
    guard: Literal["warn", "adapt", "stop"] = "warn"
    nonfinite: Literal["stop", "skip"] = "stop"

    def __post_init__(self) -> None:
        object.__setattr__(self, "depth_curriculum", tuple(self.depth_curriculum))  # a file has a list
        if any(depth < 1 for depth in self.depth_curriculum):
            raise ValueError(f"task.depth_curriculum must be of steps, at least 1; got {list(self.depth_curriculum)}.")
        for name in (
            "jacobian_weight",
            "jacobian_final",
            "correction_weight",
            "contract",
            "map_noise",
            "start_noise",
            "update_penalty",
        ):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise ValueError(f"task.{name} must not be negative; got {value}.")
        least = dict(jacobian_every=1, warmup_steps=0, warmup_depth=1, random_budget=0, correction_steps=1)
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise ValueError(f"task.{name} must be at least {bound}; got {getattr(self, name)}.")
        if not 0 < self.jacobian_until <= 1:
            raise ValueError(f"task.jacobian_until is a share of the run in (0, 1]; got {self.jacobian_until}.")

    def penalty(self, step: int, total: float) -> float:
        """Weight of the Jacobian penalty in a step of a run of ``total`` steps (infinite: the weight stays)."""
        share = step / total if math.isfinite(total) and total > 0 else 0.0
        if step % self.jacobian_every or share >= self.jacobian_until:
            return 0.0
        final = self.jacobian_weight if self.jacobian_final is None else self.jacobian_final
        return self.jacobian_weight + share * (final - self.jacobian_weight)

    def depth(self, share: float) -> int | None:
        """Steps of a solve at most where a share of the run is done; None: as many as the solver says.

        >>> kit = StabilityConfig(depth_curriculum=(4, 16, 64))
        >>> [kit.depth(share) for share in (0.0, 0.3, 0.34, 0.9, 1.0)]
        [4, 4, 16, 64, 64]
        """
        stages = self.depth_curriculum
        return stages[min(int(share * len(stages)), len(stages) - 1)] if stages else None

    def enabled_options(self) -> dict[str, Any]:
        """The parts that are on, which only a model that solves fixed points can have."""
        names = (
            "jacobian_weight",
            "jacobian_final",
            "warmup_steps",
            "random_budget",
            "depth_curriculum",
            "map_noise",
            "start_noise",
            "update_penalty",
            "correction_weight",
            "contract",
        )
        return {name: getattr(self, name) for name in names if getattr(self, name)}
