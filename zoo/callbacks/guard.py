"""Say so when the solver stops converging: the model that is then trained is no longer the one that was meant."""

from __future__ import annotations

import math
import warnings
from collections import deque
from typing import Any

from lightning import Callback, Trainer

from zoo.callbacks.telemetry import measures
from zoo.implicit import implicit_modules


class SolverWarning(UserWarning):
    """A solver of the run has stopped converging."""


class ResidualGuard(Callback):
    """Warn, once an episode, where solves have stopped converging.

    An episode begins when the mean over ``window`` training steps of the residual lies above ``residual`` while fewer
    than ``share`` of the samples converge, and ends when that is no longer so. A budget that is meant to be cut short
    (a published recipe of 18 Broyden steps that reaches 1e-2) is no episode. The backward solve is watched too.

    Args:
        window: training steps over which the means are taken.
        share: of the samples that should converge, in [0, 1].
        residual: relative residual up to which a state still counts as an equilibrium.
    """

    def __init__(self, window: int = 50, share: float = 0.5, residual: float = 0.1) -> None:
        self.window, self.share, self.residual = window, share, residual
        self._seen: dict[tuple[str, str], deque[tuple[float, float]]] = {}
        self._open: set[tuple[str, str]] = set()

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if pl_module.global_step <= pl_module.warmup_steps:
            return  # a warm-up does not solve
        for name, module in implicit_modules(pl_module.model):
            if module.last is None:
                continue
            values = measures(module.last.stats)
            # an ODE that did not reach its last time has no residual to excuse it
            self._watch(trainer, (name, "forward"), values["converged"], values.get("residual", math.inf), module)
            if "nfe_backward" in values:
                pair = values["converged_backward"], values.get("residual_backward", math.inf)
                self._watch(trainer, (name, "backward"), *pair, module)

    def _watch(self, trainer: Trainer, key: tuple[str, str], converged: float, residual: float, module: Any) -> None:
        seen = self._seen.setdefault(key, deque(maxlen=self.window))
        seen.append((converged, residual))
        if len(seen) < self.window:
            return
        share, mean = (sum(column) / len(seen) for column in zip(*seen, strict=True))
        bad = share < self.share and not mean <= self.residual  # NaN counts as bad
        if bad and key not in self._open and trainer.is_global_zero:
            warnings.warn(self.sentence(key, share, mean, module, trainer.global_step), SolverWarning, stacklevel=2)
        (self._open.add if bad else self._open.discard)(key)

    def sentence(self, key: tuple[str, str], share: float, residual: float, module: Any, step: int) -> str:
        """What is wrong, in numbers, and what helps."""
        name, direction = key
        where = f" of {name!r}" if name else ""
        if math.isinf(residual) and module.last.stats.accepted is not None:
            return (
                f"The integration{where} does not reach its last time: over the {self.window} steps before step "
                f"{step}, {share:.0%} of the samples did. {module.last.result.value} Try --solver.max_steps "
                f"{2 * module.solver.max_steps}, --solver.rtol {10 * module.solver.rtol:g}, or a lower --optim.lr."
            )
        what = (
            f"The {direction} solve{where} does not converge: over the {self.window} steps before step {step}, "
            f"{share:.0%} of the samples met their tolerance and the mean relative residual was {residual:.2g}."
        )
        if direction == "backward":
            return (
                f"{what} The gradient is off by about as much. Raise the steps of the adjoint's solver, or try "
                "--adjoint phantom, which needs no backward solve."
            )
        steps = module.solver.max_steps
        return (
            f"{what} Try --solver.max_steps {2 * steps} (now {steps}), another --solver, a lower --optim.lr, or "
            f"--task.jacobian_weight {'0.1' if residual < 10 else '1'}, which keeps the map contractive."
        )
