"""Shallow unrolled warm-up: the first steps of training, before equilibria are worth solving for."""

from __future__ import annotations

from typing import Any

from lightning import Callback, Trainer

from zoo.adjoints import ADJOINTS
from zoo.implicit import ImplicitMixin, implicit_modules
from zoo.solvers import SOLVERS
from zoo.tasks.base import Task


class UnrollWarmup(Callback):
    """While ``global_step < warmup_steps`` of `StabilityConfig`, unroll ``warmup_depth`` plain iterations a solve.

        z_0 = start,   z_{k+1} = f(z_k),   the loss sees z_depth,   gradients cross every iteration

    The choice depends on the global step alone, so that a resumed run makes the same one. Validation during the warm-up
    is as shallow as training, as in the paper's code.

    Reference: Bai, Koltun, Kolter, "Multiscale Deep Equilibrium Models", 2020, section 4.
    """

    def __init__(self) -> None:
        self._own: dict[ImplicitMixin, tuple[Any, ...]] = {}

    def shallow(self, task: Task) -> bool:
        """Whether the step that comes next belongs to the warm-up."""
        return task.global_step < task.stability.warmup_steps

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._apply(pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: Any) -> None:
        self._apply(pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: Any) -> None:
        self._restore()

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        self._restore()

    def _apply(self, task: Task) -> None:
        if not self.shallow(task):
            self._restore()
        elif not self._own:
            for _, module in implicit_modules(task.model):
                if "fixed_point" not in module.problem_types:
                    continue  # an ODE has no iterations to unroll in its place
                self._own[module] = (module.solver, module.adjoint, module.eval_solver, module.throw)
                module.solver = SOLVERS.build({"name": "picard", "max_steps": task.stability.warmup_depth})
                module.adjoint = ADJOINTS.build("unroll")
                module.eval_solver, module.throw = None, False  # so few iterations are not meant to converge

    def _restore(self) -> None:
        for module, own in self._own.items():
            module.solver, module.adjoint, module.eval_solver, module.throw = own
        self._own = {}
