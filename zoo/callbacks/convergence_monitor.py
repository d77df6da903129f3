"""Act when the solver stops converging: the model that is then trained is no longer the one that was meant."""

from __future__ import annotations

import math
import warnings
from collections import deque
from dataclasses import replace
from typing import Any, cast

import torch
from lightning import Callback, Trainer

from zoo.adjoints import ADJOINTS
from zoo.callbacks.telemetry import measures
from zoo.implicit import implicit_modules
from zoo.solvers import SOLVERS
from zoo.solvers.ode.base import ODESolver
from zoo.tasks.base import Task, any_rank


class SolverWarning(UserWarning):
    """A solver of the run has stopped converging."""


class SolverStopped(RuntimeError):
    """The run was to stop where a solver stops converging, and one did."""


class ConvergenceMonitor(Callback):
    """Warn, once an incident, where solves have stopped converging; adapt or stop, if the task asks for it.

    An incident begins when the mean over ``window`` training steps of the residual lies above ``residual`` while fewer
    than ``share`` of the samples converge, and ends when that is no longer so. A budget that is meant to be cut short
    (a published recipe of 18 Broyden steps that reaches 1e-2) is no incident. The backward solve is watched too.

    With several processes, an incident of one is one of all: they warn, adapt and stop together.

    ``--task.guard adapt`` escalates by one level an incident: twice the budget, four times, then what is surest to
    settle: damped iteration in the forward direction, a phantom gradient in the backward one. Checkpoints keep the
    levels.

    Args:
        window: training steps over which the means are taken.
        share: of the samples that should converge, in [0, 1].
        residual: relative residual up to which a state still counts as an equilibrium.
    """

    def __init__(self, window: int = 50, share: float = 0.5, residual: float = 0.1) -> None:
        self.window, self.share, self.residual = window, share, residual
        self._seen: dict[tuple[str, str], deque[tuple[float, float]]] = {}
        self._open: set[tuple[str, str]] = set()
        self._levels: dict[tuple[str, str], int] = {}
        self._steps = 0  # watched, since the process began
        self._own: dict[str, tuple[Any, Any]] = {}  # solver and adjoint as configured

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        modules = dict(implicit_modules(pl_module.model))
        self._own = {name: (m.solver, m.adjoint) for name, m in modules.items()}
        for key, level in self._levels.items():  # of a run that is resumed
            self._escalate(key, modules[key[0]], level)

    def state_dict(self) -> dict[str, Any]:
        return {"rungs": {"|".join(key): level for key, level in self._levels.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._levels = {tuple(key.rsplit("|", 1)): level for key, level in state_dict["rungs"].items()}  # type: ignore[misc]

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if pl_module.global_step <= pl_module.stability.warmup_steps:
            return  # a warm-up does not solve
        modules = dict(implicit_modules(pl_module.model))
        for name, module in modules.items():
            if module.last is None or module.last.cut:
                continue  # nothing was solved, or fewer steps were asked for than it takes
            values = measures(module.last.stats)
            # an ODE that did not reach its last time has no residual to excuse it
            self._see((name, "forward"), values["converged"], values.get("residual", math.inf))
            if "nfe_backward" in values:
                pair = values["converged_backward"], values.get("residual_backward", math.inf)
                self._see((name, "backward"), *pair)
        self._steps += 1
        if self._steps >= self.window:  # by a count that is every rank's: what they saw need not be as much
            self._judge(trainer, modules)

    def _see(self, key: tuple[str, str], converged: float, residual: float) -> None:
        self._seen.setdefault(key, deque(maxlen=self.window)).append((converged, residual))

    def _judge(self, trainer: Trainer, modules: dict[str, Any]) -> None:
        """Open and close incidents, and act. Ranks agree on each: an incident of one is one of all."""
        bad = {(name, way): self._bad((name, way)) for name in modules for way in ("forward", "backward")}
        if not any_rank(trainer, any(bad.values())):
            self._open.clear()
            return
        for key, mine in bad.items():
            if not any_rank(trainer, mine):
                self._open.discard(key)
            elif key not in self._open:
                self._act(trainer, key, modules[key[0]])

    def _bad(self, key: tuple[str, str]) -> bool:
        if len(self._seen.get(key, ())) < self.window:
            return False
        share, residual = self._means(key)
        return share < self.share and not residual <= self.residual  # NaN counts as bad

    def _means(self, key: tuple[str, str]) -> tuple[float, float]:
        """Over the window: the share of samples that converged, and their residual."""
        seen = self._seen.get(key) or [(1.0, 0.0)]
        share, residual = (sum(column) / len(seen) for column in zip(*seen, strict=True))
        return share, residual

    def _act(self, trainer: Trainer, key: tuple[str, str], module: Any) -> None:
        """An incident begins: warn, adapt or stop. The numbers are those of the rank that is worst off."""
        share, residual = self._means(key)
        if trainer.world_size > 1:
            worst = torch.tensor([-share, residual], dtype=torch.float64, device=trainer.strategy.root_device)
            share, residual = (trainer.strategy.reduce(worst, reduce_op="max") * worst.new_tensor([-1, 1])).tolist()
        text = self.sentence(key, share, residual, module, trainer.global_step)
        action = cast(Task, trainer.lightning_module).stability.guard
        if action == "stop":
            raise SolverStopped(text)
        if action == "adapt":
            self._levels[key] = self._levels.get(key, 0) + 1
            text = f"{text} {self._escalate(key, module, self._levels[key])}"
            self._seen.pop(key, None)  # a new incident, under new conditions
        else:
            self._open.add(key)
        if trainer.is_global_zero:
            warnings.warn(text, SolverWarning, stacklevel=2)

    def _escalate(self, key: tuple[str, str], module: Any, level: int) -> str:
        """Change what a module solves with, from what was configured; return what was done, as a sentence."""
        solver, adjoint = self._own[key[0]]
        if key[1] == "backward":
            if level > 2 or getattr(adjoint, "solver", None) is None:
                module.adjoint = ADJOINTS.build("phantom")
                return "From here on the gradient is a phantom one, which needs no backward solve."
            steps = 2**level * adjoint.solver.max_steps
            module.adjoint = replace(adjoint, solver=replace(adjoint.solver, max_steps=steps))
            return f"From here on the backward solve may take {steps} steps."
        steps = 2 ** min(level, 2) * solver.max_steps
        if level > 2 and not isinstance(solver, ODESolver):
            module.solver = SOLVERS.build("picard", damping=0.5, max_steps=steps, rtol=solver.rtol, atol=solver.atol)
            return f"From here on the map is iterated with a damping of 0.5, at most {steps} times."
        module.solver = replace(solver, max_steps=steps)
        return f"From here on a solve may take {steps} steps."

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
