"""Keep an epoch's means through an interruption: a run that is resumed logs what an undisturbed one logs."""

from __future__ import annotations

from typing import Any

from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torchmetrics import Metric

from zoo import _compat

MEANS = "zoo_epoch_means"  # of a checkpoint: what was logged in the epoch that it was saved in


class EpochMeans(Callback):
    """Save what has been logged in an epoch with a checkpoint in its midst, and go on from there.

    Lightning starts an epoch's means anew when a run is resumed, so that the epoch's numbers would be those of the
    batches after the interruption alone. With several processes each one's own part is kept.
    """

    def __init__(self) -> None:
        self._within = False  # whether an epoch has begun whose numbers have not been written
        self._kept: dict[str, Any] = {}

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._within = True
        self._restore(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._restore(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._within = False

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._within = False  # what a step that failed has logged is not to be counted twice

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if not self._within:
            return
        counts = {name: _state(m) for name, m in pl_module.named_modules() if isinstance(m, Metric) and m.update_called}
        kept: dict[str, Any] = {"logged": _compat.epoch_means(trainer), "metrics": counts}
        if trainer.world_size > 1:
            kept = _gathered(kept, pl_module)
        checkpoint[MEANS] = {"ranks": trainer.world_size, **kept}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn == "fit":
            self._kept = checkpoint.get(MEANS, {})

    def _restore(self, trainer: Trainer, pl_module: LightningModule) -> None:
        kept, self._kept = self._kept, {}
        if not kept or kept["ranks"] != trainer.world_size:
            return
        self._within = True
        rank = trainer.global_rank if kept["ranks"] > 1 else None
        modules = dict(pl_module.named_modules())
        for name, state in kept["metrics"].items():
            metric = modules.get(name)
            if isinstance(metric, Metric):
                _set_state(metric, {k: v if rank is None else v[rank] for k, v in state.items()})
        logged = {k: {**v, **({} if rank is None else _part(v, rank))} for k, v in kept["logged"].items()}
        _compat.restore_epoch_means(trainer, pl_module, logged)


def _gathered(tree: Any, pl_module: LightningModule) -> Any:
    """Nested mappings with the tensors of all ranks, stacked."""
    if isinstance(tree, dict):
        return {k: _gathered(v, pl_module) for k, v in tree.items()}
    return pl_module.all_gather(tree) if isinstance(tree, Tensor) else tree


def _part(entry: dict[str, Any], rank: int) -> dict[str, Any]:
    return {k: v[rank] for k, v in entry.items() if isinstance(v, Tensor)}


def _state(metric: Metric) -> dict[str, Tensor]:
    """The sums and counts of a metric; what it keeps as a list of samples is not kept."""
    return {k: v.detach().clone() for k in metric._defaults if isinstance(v := getattr(metric, k), Tensor)}


def _set_state(metric: Metric, state: dict[str, Tensor]) -> None:
    for name, value in state.items():
        setattr(metric, name, value.to(metric.device))
    metric._update_count, metric._computed = 1, None
