"""After the first backward pass: has every trainable parameter got a gradient?"""

from __future__ import annotations

import warnings
from typing import Any

from lightning import Callback, LightningModule, Trainer

from zoo.callbacks.convergence_monitor import SolverWarning


class MissingGradients(Callback):
    """Name the trainable parameters that no gradient reaches, once, before the first step is made with them.

    A parameter that is sharded within an implicit layer, captured by a map in a way that an adjoint cannot see, or
    simply not used, would stay as it was for the whole run, silently. Where parameters are split over processes this
    is an error; elsewhere a warning, as a model may leave a part out on purpose.

    Raises:
        RuntimeError: under a strategy that splits parameters, some have no gradient.
    """

    def __init__(self) -> None:
        self._done = False

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        if self._done:
            return
        self._done = True
        without = [n for n, p in pl_module.named_parameters() if p.requires_grad and p.grad is None]
        if not without:
            return
        more = f" and {len(without) - 5} more" if len(without) > 5 else ""
        text = (
            f"No gradient reached {', '.join(without[:5])}{more} in the first step; they would keep their first "
            "values. Is each used in this step, and, by a map that is solved for, as a parameter, not as a detached "
            "copy?"
        )
        if pl_module.device_mesh is not None:
            raise RuntimeError(f"{text} Parameters are split over processes: shard the root only.")
        if trainer.is_global_zero:
            warnings.warn(text, SolverWarning, stacklevel=2)
