"""Let the options of an optimizer take effect in a run that is resumed."""

from __future__ import annotations

from typing import Any

from lightning import Callback, LightningModule, Trainer
from torch.optim.lr_scheduler import LambdaLR


class OptimizerOptions(Callback):
    """Give an optimizer that was restored from a checkpoint the learning rate, weight decay, ... of this run.

    A checkpoint holds the numbers of the run that saved it, which Lightning restores with the optimizer's momenta. The
    options that this run was given are the ones that count. Where none of them changed, nothing is touched.
    """

    def __init__(self) -> None:
        self._wanted: list[dict[str, Any]] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the options of the fresh optimizer; its state is restored after this."""
        self._wanted = [numbers(group) for optimizer in trainer.optimizers for group in optimizer.param_groups]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
        if len(groups) != len(self._wanted):
            return
        changed = False
        for group, wanted in zip(groups, self._wanted, strict=True):
            if numbers(group) != wanted:
                changed = True
                group.update(wanted)
        for config in trainer.lr_scheduler_configs if changed else ():
            schedule = config.scheduler
            if isinstance(schedule, LambdaLR):
                schedule.base_lrs = [group["initial_lr"] for group in schedule.optimizer.param_groups]
                rates = [
                    base * factor(schedule.last_epoch)
                    for base, factor in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)
                ]
                for group, rate in zip(schedule.optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate


def numbers(group: dict[str, Any]) -> dict[str, Any]:
    """The options of a group that are numbers, without the learning rate of the moment."""
    kinds = (int, float, tuple)
    return {
        k: v for k, v in group.items() if k not in ("lr", "params") and isinstance(v, kinds) and not isinstance(v, bool)
    }
