"""Keep the best and the last state of a run, and stop it without a loss."""

from __future__ import annotations

import math
import signal
import time
import warnings
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from zoo import _compat
from zoo.data.loader import other_step
from zoo.tasks.base import NonFiniteError, Task, any_rank

BATCH = "zoo_step_batch"  # of a checkpoint: what makes up the batch of one step


class Interrupted(Exception):
    """The run was stopped by a signal, after a finished step and after its state was saved."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by signal {signum}")
        self.signum = signum


class BestAndLastCheckpoint(Checkpoint):
    """Save ``last.ckpt`` after each epoch and ``best.ckpt`` after each epoch that improved on the monitored metric.

    A task that says ``latest`` is measured by its last weights: its ``best.ckpt`` is saved after each epoch.

    `stop` asks for an end: at the next batch that is done, ``last.ckpt`` is saved and `Interrupted` raised. Steps and
    epochs that are done are never lost, and none is half done in a checkpoint. On an error in a step, the state before
    that step is saved. ``last.ckpt`` is saved before each validation too: a run that ends within one is resumed there,
    and validates.

    Args:
        folder: where the checkpoints go.
        monitor: the metric that decides which is best.
        maximise: whether more of it is better.
        every: training steps from one save of ``last.ckpt`` to the next, beside those after each epoch; 0: none.
    """

    def __init__(self, folder: str | Path, monitor: str, maximise: bool, every: int = 0) -> None:
        self.folder, self.monitor, self.maximise, self.every = Path(folder), monitor, maximise, every
        self.best_score = -math.inf if maximise else math.inf
        self.best_epoch = -1
        self.seconds = 0.0  # of training, over all sessions
        self._since: float | None = None
        self._signal = 0
        self._stopping = 0  # the signal, once the state was saved for it
        self._validating = False  # whether the state that is saved, or was resumed, is that before a validation

    @property
    def stopping(self) -> int:
        """The signal that the run stops for, once its state was saved; else 0."""
        return self._stopping

    @property
    def last(self) -> Path:
        return self.folder / "last.ckpt"

    @property
    def best(self) -> Path:
        return self.folder / "best.ckpt"

    def stop(self, signum: int) -> None:
        """Ask for an end after the running step; safe to call from a signal handler."""
        self._signal = signum

    def elapsed(self) -> float:
        """Seconds of training so far, over all sessions."""
        return self.seconds + (time.perf_counter() - self._since if self._since is not None else 0.0)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._since = time.perf_counter()
        if self._validating:  # Lightning would take a state after the last step for one that was validated already
            _compat.validate_again(trainer)
            self._validating = False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx + 1 >= trainer.num_training_batches:
            return  # validation and the end of the epoch come next: both save, and stop
        due = self.every and trainer.global_step % self.every == 0
        stop = self._asked(trainer)
        if due or stop:
            trainer.save_checkpoint(self.last)
        self._stopping = stop  # raised before the next step, so that this one is logged

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._stopping:
            raise Interrupted(self._stopping)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        done = trainer.should_stop or trainer.global_step >= trainer.max_steps > -1
        # a run that is at its end would not be resumed into its last validation: it keeps the state before
        if trainer.state.fn != "fit" or trainer.sanity_checking or done:
            return
        self._validating = True
        trainer.save_checkpoint(self.last)
        self._validating = False
        self._stopping = self._asked(trainer)
        if self._stopping:
            raise Interrupted(self._stopping)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        score = trainer.callback_metrics.get(self.monitor)
        value = float(score) if score is not None else -math.inf if self.maximise else math.inf
        better = score is None or (value > self.best_score if self.maximise else value < self.best_score)
        save = better or not self.best.exists() or (isinstance(pl_module, Task) and pl_module.latest)
        # saving takes all ranks, which may see the folder differently: the first one decides
        if trainer.strategy.broadcast(save):
            self.best_score, self.best_epoch = value, trainer.current_epoch
            trainer.save_checkpoint(self.best)
        trainer.save_checkpoint(self.last)
        self._stopping = self._asked(trainer)
        if self._stopping:
            raise Interrupted(self._stopping)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        # a step that failed changed nothing: Lightning redoes a batch that was not done
        if isinstance(exception, NonFiniteError) and trainer.training and trainer.world_size == 1:
            trainer.save_checkpoint(self.last)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seconds, self._since = self.elapsed(), None

    def state_dict(self) -> dict[str, Any]:
        return {
            "best_score": self.best_score,
            "best_epoch": self.best_epoch,
            "seconds": self.elapsed(),
            "validating": self._validating,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_score, self.best_epoch = state_dict["best_score"], state_dict["best_epoch"]
        self.seconds = state_dict["seconds"]
        self._validating = state_dict.get("validating", False)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[BATCH] = step_batch(trainer)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        text = other_step(checkpoint.get(BATCH), step_batch(trainer))
        if text and trainer.state.fn == "fit" and trainer.is_global_zero:
            warnings.warn(text, stacklevel=2)

    def _asked(self, trainer: Trainer) -> int:
        """The signal that any rank got; 0 for none. One small reduction a step, with several ranks only."""
        mine = self._signal
        if trainer.world_size == 1:
            return mine
        return (mine or signal.SIGINT) if any_rank(trainer, bool(mine)) else 0


def step_batch(trainer: Trainer) -> list[int] | None:
    """Samples a batch, processes and batches a step, whose product is the samples that one step is taken on."""
    size = getattr(trainer.datamodule, "batch_size", None)  # type: ignore[attr-defined]
    return None if size is None else [size, trainer.world_size, trainer.accumulate_grad_batches]
