"""What is written at the end of a run, however it ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning import Trainer

from zoo.callbacks.checkpointing import BestAndLastCheckpoint
from zoo.storage.files import write_json
from zoo.tasks.base import Task
from zoo.tasks.metrics import primary_metric
from zoo.training.environment import environment, hardware
from zoo.training.failures import sentence
from zoo.training.figure import training_figure
from zoo.training.metrics_log import MetricsLog
from zoo.training.options import Options
from zoo.training.request import Request
from zoo.training.run_folder import rank
from zoo.training.summary import closing, generated


class Record:
    """What is written at the end of a run, however it ends."""

    def __init__(self, folder: Path, options: Options, request: Request, task: Task, data: Any, trainer: Trainer,
                 keeper: BestAndLastCheckpoint, log: MetricsLog) -> None:  # fmt: skip
        self.folder, self.options, self.request, self.task = folder, options, request, task
        self.data, self.trainer, self.keeper, self.log = data, trainer, keeper, log
        self.training: dict[str, float] = {}

    def finish(self, status: str, error: BaseException | None = None) -> dict[str, Any]:
        m = {**(self.training or metrics(self.trainer)), **metrics(self.trainer)}
        test = {k.removeprefix("test/"): v for k, v in m.items() if k.startswith("test/")}
        parameters = [p for p in self.task.model.parameters() if p.requires_grad]
        env, weights = environment(), generated(self.task, self.data)
        fingerprint = getattr(self.data, "fingerprint", None)
        results = {
            "status": status,
            "model": self.options.names["model"],
            "data": self.options.names["data"],
            "solver": self.options.spec("solver"),
            "adjoint": self.options.spec("adjoint"),
            "test": test,
            "val": {k.removeprefix("val/"): v for k, v in m.items() if k.startswith("val/")},
            "train": {k.removeprefix("train/"): v for k, v in m.items() if k.startswith("train/")},
            "best": {"epoch": self.keeper.best_epoch + 1, self.task.monitor: self.keeper.best_score},
            "seconds": round(self.keeper.elapsed(), 2),
            "epochs": self.trainer.current_epoch,
            "steps": self.trainer.global_step,
            "parameters": sum(p.numel() for p in parameters),
            **({"compression": weights.asdict()} if weights else {}),
            "seed": self.request.seed,
            "data_sha256": fingerprint() if callable(fingerprint) and status == "finished" else None,
            "commit": env["commit"],
            "versions": env["versions"],
            "hardware": hardware(),
            "time": env["time"],
        }
        if error is not None:
            results["error"] = sentence(error)
        if rank() != 0:
            return results
        self.log.save()
        write_json(self.folder / "results.json", results)
        shown = primary_metric(results)
        reached = f"test {shown.short} {shown.write(test[shown.key])}" if shown.key in test else status
        if rows := self.log.rows():
            title = f"{results['model']} on {results['data']}, {reached}"
            training_figure(rows, self.folder / "training.png", title, shown)
        if status == "finished":
            card, names = self.options.card, self.options.names
            others = [d for d in card.data if d != names["data"]]
            short = card.aliases[0] if card.aliases else card.name
            print(closing(results, self.folder, short, others, 2 * (self.trainer.max_epochs or 1)), flush=True)
        return results


def metrics(trainer: Trainer) -> dict[str, float]:
    return {k: float(v) for k, v in trainer.callback_metrics.items() if "/" in k}
