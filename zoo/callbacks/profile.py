"""A trace of a few training steps, by torch's profiler, with the phases of the solves named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch.profiler import ProfilerActivity, profile


class Profile(Callback):
    """Trace training steps ``first`` to ``first + steps - 1`` of a run; the process of rank 0 does.

    ``profile.json`` opens in chrome://tracing or https://ui.perfetto.dev; ``profile.txt`` is a table of the operators,
    the costliest first. Solves, evaluations of the map and backward solves appear as ``zoo: ...``.

    Args:
        folder: where the two files go.
        first: steps of this process before the trace begins, which load and warm up.
        steps: steps that are traced.
    """

    def __init__(self, folder: Path, first: int = 3, steps: int = 5) -> None:
        self.folder, self.first, self.steps = folder, first, steps
        self._seen = 0
        self._profile: Any = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._seen == self.first and trainer.is_global_zero:
            kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
            self._profile = profile(activities=kinds)
            self._profile.__enter__()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._seen += 1
        if self._seen >= self.first + self.steps:
            self._write()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._write()

    def _write(self) -> None:
        if self._profile is None:
            return
        made, self._profile = self._profile, None
        made.__exit__(None, None, None)
        made.export_chrome_trace(str(self.folder / "profile.json"))
        order = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
        table = made.key_averages().table(sort_by=order, row_limit=40, max_name_column_width=60)
        (self.folder / "profile.txt").write_text(table + "\n", encoding="utf-8")
