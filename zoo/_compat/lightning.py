"""Private touches of Lightning, tried on 2.6.6. The trainer comes as an argument, so that nothing is imported here."""

from __future__ import annotations

import copy
import sys
from typing import Any


def fit_position(trainer: Any) -> tuple[int, int] | None:
    """Return the epoch and the batches done in it, as the Trainer counts them; None while it does not fit.

    Its counters are saved with every checkpoint, so that a resumed run knows them before its first batch. With
    ``overfit_batches`` the epoch stays 0, as the batches stay the same.

    Tried on lightning 2.6.6.
    """
    if not trainer.training:
        return None
    loop = trainer.fit_loop
    epoch = 0 if trainer.overfit_batches else loop.epoch_progress.current.processed
    return epoch, loop.epoch_loop.batch_progress.current.ready


def sampler_ranks(trainer: Any) -> tuple[int, int]:
    """Return the rank and the number of processes that share a batch: (0, 1) for a strategy that distributes none.

    Tried on lightning 2.6.6.
    """
    options = trainer.distributed_sampler_kwargs
    return (options["rank"], options["num_replicas"]) if options else (0, 1)


def epoch_means(trainer: Any) -> dict[str, dict[str, Any]]:
    """What has been logged for the epoch of training so far: by key its sum, its count, and how it is logged.

    Tried on Lightning 2.6.6, which keeps these in the loop's `_results` and does not save them.
    """
    out: dict[str, dict[str, Any]] = {}
    for key, result in trainer.fit_loop.epoch_loop._results.items():
        meta = result.meta
        if result.has_reset:
            continue
        out[key] = {
            "fx": meta.fx,
            "name": meta.name,
            "prog_bar": meta.prog_bar,
            "logger": meta.logger,
            "on_step": meta.on_step,
            "on_epoch": meta.on_epoch,
            "reduce_fx": meta.reduce_fx.__name__,
            "sync_dist": meta.sync.should,
            "metric_attribute": meta.metric_attribute,
        }
        if result.is_tensor:
            out[key]["value"] = result.value.detach().clone()
            if meta.on_step:
                out[key]["newest"] = result._forward_cache.detach().clone()
            if meta.is_mean_reduction:
                out[key]["count"] = result.value.new_tensor(int(result.cumulated_batch_size)).long()
    return out


def restore_epoch_means(trainer: Any, module: Any, means: dict[str, dict[str, Any]]) -> None:
    """Put what `epoch_means` returned back, before anything else is logged in the epoch that is resumed."""
    results = trainer.fit_loop.epoch_loop._results
    device = trainer.strategy.root_device
    metrics = dict(module.named_modules())
    for key, entry in means.items():
        saved = dict(entry)
        value, count, newest = (saved.pop(k, None) for k in ("value", "count", "newest"))
        attribute = saved["metric_attribute"]
        first = metrics.get(attribute) if value is None else value.to(device)
        if first is None or key in results:
            continue
        results.log(
            saved.pop("fx"), saved.pop("name"), first, sync_dist_fn=trainer.strategy.reduce, batch_size=1, **saved
        )
        if value is not None:
            results[key].value = value.to(device)
            if count is not None:
                results[key].cumulated_batch_size = count.to(device)
            if newest is not None:
                results[key]._forward_cache = newest.to(device)
    if trainer._logger_connector._first_loop_iter:  # the first batch's `log` would set the sums back to zero
        trainer._logger_connector._first_loop_iter = False


def twin(module: Any, keep: Any) -> Any:
    """A shallow copy of a LightningModule that shares one of its modules and has copies of the others.

    Tried on torch 2.14.1 and Lightning 2.6.6: an `nn.Module` keeps its parts in `_modules`, and what the copy logs goes
    to the same Trainer.
    """
    made = copy.copy(module)
    parts = {name: part if part is keep else copy.deepcopy(part) for name, part in module._modules.items()}
    made.__dict__["_modules"] = parts
    return made


def data_module(module: Any) -> Any:
    """The data module that a LightningModule runs with; None where it has no Trainer, or plain loaders.

    Tried on Lightning 2.6.6, whose `trainer` property raises where there is none.
    """
    trainer = module._trainer
    return getattr(trainer, "datamodule", None)


def validate_again(trainer: Any) -> None:
    """Have a run that is resumed before a validation run it; Lightning would take it for done.

    Tried on Lightning 2.6.6, where only the loop's `_restart_stage` says so.
    """
    loop = trainer.fit_loop.epoch_loop.val_loop
    loop._restart_stage = sys.modules[type(loop).__module__].RestartStage.RESTARTED_MID_EVALUATION
