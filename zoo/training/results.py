"""A run in progress, and what is written at its end, however it ends."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning import LightningDataModule, Trainer

from zoo.callbacks.checkpointing import BestAndLastCheckpoint
from zoo.hypernet.compression import BatchSize, Compression, compression
from zoo.registry import sentence
from zoo.storage.files import write_json
from zoo.tasks.base import Task
from zoo.tasks.metrics import primary_metric
from zoo.training.environment import environment, hardware
from zoo.training.figure import training_figure
from zoo.training.metrics_log import MetricsLog
from zoo.training.options import Options
from zoo.training.request import Request
from zoo.training.run_folder import rank


@dataclass
class Session:
    """A run in progress: what it was asked for, and what carries it out.

    Attributes:
        folder: the run folder.
        options: parsed.
        request: what was asked for.
        task, data, trainer, keeper, log: the objects of the run.
        begun: whether training has begun, and so the records of the run folder are this run's.
        training: the metrics at the end of training, before the test.
    """

    folder: Path
    options: Options
    request: Request
    task: Task
    data: LightningDataModule
    trainer: Trainer
    keeper: BestAndLastCheckpoint
    log: MetricsLog
    begun: bool = False
    training: dict[str, float] = field(default_factory=dict)


def write_results(run: Session, status: str, error: BaseException | None = None) -> dict[str, Any]:
    """Write ``results.json`` and the figure; return the results. Nothing is written where training had not begun.

    Args:
        run: the run, at its end.
        status: "finished", "interrupted" or "failed".
        error: what ended it.
    """
    results = _results(run, status, error)
    if rank() != 0 or not run.begun:
        return results
    run.log.save()
    write_json(run.folder / "results.json", results)
    shown = primary_metric(results)
    test = results["test"]
    reached = f"test {shown.short} {shown.write(test[shown.key])}" if shown.key in test else status
    if rows := run.log.rows():
        title = f"{results['model']} on {results['data']}, {reached}"
        training_figure(rows, run.folder / "training.png", title, shown)
    return results


def _results(run: Session, status: str, error: BaseException | None) -> dict[str, Any]:
    measured = {**run.training, **metrics(run.trainer)}

    def of(stage: str) -> dict[str, float]:
        return {k.removeprefix(f"{stage}/"): v for k, v in measured.items() if k.startswith(f"{stage}/")}

    parameters = [p for p in run.task.model.parameters() if p.requires_grad]
    env, weights = environment(), generated(run.task, run.data)
    fingerprint = getattr(run.data, "fingerprint", None)
    return {
        "status": status,
        "model": run.options.names["model"],
        "data": run.options.names["data"],
        "solver": run.options.spec("solver"),
        "adjoint": run.options.spec("adjoint"),
        "test": of("test"),
        "val": of("val"),
        "train": of("train"),
        "best": {"epoch": run.keeper.best_epoch + 1, run.task.monitor: run.keeper.best_score},
        "seconds": round(run.keeper.elapsed(), 2),
        "epochs": run.trainer.current_epoch,
        "steps": run.trainer.global_step,
        "parameters": sum(p.numel() for p in parameters),
        **({"compression": weights.asdict()} if weights else {}),
        "seed": run.request.seed,
        "data_sha256": fingerprint() if callable(fingerprint) and status == "finished" else None,
        "commit": env["commit"],
        "versions": env["versions"],
        "hardware": hardware(),
        "time": env["time"],
        **({"error": sentence(error)} if error is not None else {}),
    }


def metrics(trainer: Trainer) -> dict[str, float]:
    """The metrics that a trainer holds, those of a stage alone: ``val/accuracy``."""
    return {k: float(v) for k, v in trainer.callback_metrics.items() if "/" in k}


def generated(task: Task, data: Any) -> Compression | None:
    """What a hypernetwork saves, and the memory of what it writes for a training batch of one process."""
    size = {"samples": "batch_size", "steps": "length", "ways": "train_ways"}
    batch = BatchSize(**{k: getattr(data, name, None) or 1 for k, name in size.items()})
    return compression(task.model, batch)
