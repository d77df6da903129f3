"""What a person sees while a run goes on: a bar within the epoch, one line for each epoch that is done."""

from __future__ import annotations

import sys
import time
from importlib.util import find_spec
from typing import Any, cast

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar

from zoo.tasks.base import Task
from zoo.tasks.metrics import MetricInfo, metric_info, primary_metric


class ConsoleProgress(ProgressBar):
    """A bar with loss, the monitored measure and NFE on a terminal, and a line an epoch everywhere.

        epoch  3/10   loss  0.2310   val loss  0.1853   val acc  96.10%   nfe 14.2 + 9.0   4.1 s

    ``nfe`` is evaluations of the map a training step: forward + backward. A file or a pipe gets the lines only.
    """

    def __init__(self) -> None:
        super().__init__()
        self._bar: Any = None
        self._start = 0.0
        self._enabled = True

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start = time.perf_counter()
        self._open(trainer, f"epoch {trainer.current_epoch + 1}", int(trainer.num_training_batches))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._bar is None and not self._start:  # resumed within an epoch, which has begun already
            self.on_train_epoch_start(trainer, pl_module)
        if self._bar is not None:
            shown: dict[str, Any] = dict(self.get_metrics(trainer, pl_module))
            monitor, best = _monitored(pl_module)
            reached = trainer.callback_metrics.get(monitor)
            text: dict[str, str] = {k: f"{float(shown[k]):.4g}" for k in ("loss", "nfe") if k in shown}
            if reached is not None:
                text[f"val {best.short}"] = best.write(float(reached))
            self._bar.set_postfix(text, refresh=False)
            self._bar.update(batch_idx + 1 - self._bar.n)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._close()
        if not (self._enabled and trainer.is_global_zero):
            return
        m = {k: float(v) for k, v in trainer.callback_metrics.items()}
        total = trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else "?"
        parts = [f"epoch {trainer.current_epoch + 1:>{len(str(total))}}/{total}"]
        monitor, best = _monitored(pl_module)
        columns = [("loss", "train/loss_epoch", metric_info("loss")), (f"val {best.short}", monitor, best)]
        if m.get("val/loss") != m.get(monitor):  # a likelihood is its own loss
            columns.insert(1, ("val loss", "val/loss", metric_info("loss")))
        parts += [f"{label} {kind.write(m[key]):>7}" for label, key, kind in columns if key in m]
        if nfe := nfe_text(m, "train"):
            parts.append(f"nfe {nfe}")
        parts.append(f"{time.perf_counter() - self._start:.1f} s")
        print("   ".join(parts), flush=True)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start = self._start or time.perf_counter()  # resumed before a validation: the epoch is otherwise done
        if self._bar is not None:
            self._bar.set_description_str(f"epoch {trainer.current_epoch + 1}, validating")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._close()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._close()

    def _open(self, trainer: Trainer, title: str, total: int) -> None:
        self._close()
        if not self._enabled or not trainer.is_global_zero:
            return
        if _in_notebook():
            from tqdm.notebook import tqdm
        elif sys.stderr.isatty():
            from tqdm import tqdm
        else:
            return
        self._bar = tqdm(total=total, desc=title, leave=False, dynamic_ncols=True, unit="batch")

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _monitored(pl_module: LightningModule) -> tuple[str, MetricInfo]:
    """The metric that a task is judged by, and how it is written."""
    monitor = cast(Task, pl_module).monitor
    return monitor, primary_metric({"best": {monitor: None}})


def _in_notebook() -> bool:
    """Whether the run goes on in a notebook that can show a bar: without ipywidgets it gets the lines only."""
    return "ipykernel" in sys.modules and find_spec("ipywidgets") is not None


def nfe_text(metrics: dict[str, float], stage: str) -> str:
    """Forward and backward evaluations, summed over the implicit modules; empty for an explicit model."""

    def total(what: str) -> float | None:
        found = [v for k, v in metrics.items() if k.startswith(f"{stage}/") and k.endswith(what)]
        return sum(found) if found else None

    forward, backward = total("nfe_forward"), total("nfe_backward")
    if forward is None:
        return ""
    return f"{forward:.1f}" if backward is None else f"{forward:.1f} + {backward:.1f}"
