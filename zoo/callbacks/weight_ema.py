"""An exponential moving average of the weights, which is what is evaluated, kept and exported."""

from __future__ import annotations

from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor

CURRENT = "current_model_state"  # of a checkpoint: the weights that the optimizer moves; `state_dict` has the averages
RUNNING = ("running_mean", "running_var")  # buffers of batch normalization, which go with the weights


class WeightEMA(Callback):
    """Average the weights over the training steps: ``a_t = d_t a_(t-1) + (1 - d_t) w_t``.

    ``d_t = min(decay, (1 + t) / (10 + t))``, so that a short run does not end near its random start; ``a_0`` is the
    result of the first step. Running statistics are averaged too, other buffers are those of the last step.

    Validation, the test at the end, ``best.ckpt`` and what `zoo.load` and ``zoo.export`` take from a run use the
    averages; training goes on from the weights themselves. A checkpoint has the averages as its ``state_dict`` and the
    weights beside them, as that of `lightning.pytorch.callbacks.WeightAveraging`, so a resumed run ends with the
    averages of an uninterrupted one. (Lightning's callback, as of 2.6, restores the weights of the last step where
    `Trainer.test` loads a checkpoint after `fit`, so that they are tested; it averages all buffers or none.)

    Args:
        decay: share of the average that a step keeps, in [0, 1); 0: no average.

    Raises:
        ValueError: a decay outside [0, 1); weights that are split over processes.

    References:
        Polyak and Juditsky 1992, *Acceleration of Stochastic Approximation by Averaging*.
    """

    def __init__(self, decay: float = 0.0) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"ema.decay is a share in [0, 1), 0 for no average; got {decay}.")
        self.decay = decay
        self.steps = 0  # that the average has seen
        self._step = 0  # of the run, at the last of them
        self._averages: dict[str, Tensor] = {}  # by name; where the weights are swapped in, those of the last step
        self._swapped = False

    def share(self) -> float:
        """Share of the average that the next step keeps."""
        return min(self.decay, (1 + self.steps) / (10 + self.steps)) if self.steps else 0.0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit" and not isinstance(trainer.strategy, (SingleDeviceStrategy, DDPStrategy)):
            raise ValueError(
                f"ema.decay needs whole weights in every process; {type(trainer.strategy).__name__} splits them. Use "
                "--trainer.strategy ddp, or --ema.decay 0."
            )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._swapped:  # by the end of a former fit
            self._swap(pl_module)
        live = averaged(pl_module)  # on their device by now
        places = {id(t): self._averages.get(name, t).detach().to(t.device, copy=True) for name, t in live.items()}
        self._averages = {name: places[id(t)] for name, t in live.items()}  # tied weights have one average

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self._step:
            return  # gradients are still being accumulated
        live, share, done = averaged(pl_module), self.share(), set()
        for name, average in self._averages.items():
            if id(average) not in done:
                average.lerp_(live[name].detach(), 1 - share)
                done.add(id(average))
        self.steps, self._step = self.steps + 1, trainer.global_step

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit":
            self._swap(pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._swapped:
            self._swap(pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.steps:
            self._swap(pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.on_validation_epoch_end(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "step": self._step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.steps, self._step = state_dict["steps"], state_dict["step"]

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self._averages:
            state = checkpoint["state_dict"]
            other = {**state, **{k: v for k, v in self._averages.items() if k in state}}
            checkpoint[CURRENT], checkpoint["state_dict"] = (other, state) if self._swapped else (state, other)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn != "fit":
            return  # a test of a checkpoint is of its averages, which Lightning has loaded
        state = checkpoint["state_dict"]
        self._averages = {name: state[name] for name in averaged(pl_module) if name in state}
        pl_module.load_state_dict(checkpoint.get(CURRENT, state))
        self._swapped = False

    @torch.no_grad()
    def _swap(self, pl_module: LightningModule) -> None:
        """Exchange the values of weights and averages."""
        live, done = averaged(pl_module), set()
        for name, average in self._averages.items():
            if id(average) not in done:
                before = live[name].detach().clone()
                live[name].copy_(average)
                average.copy_(before)
                done.add(id(average))
        self._swapped = not self._swapped


def averaged(module: torch.nn.Module) -> dict[str, Tensor]:
    """Return what an average is taken of, by name: parameters, tied ones under each name, and running statistics."""
    buffers = {k: v for k, v in module.named_buffers(remove_duplicate=False) if k.rpartition(".")[2] in RUNNING}
    return {**dict(module.named_parameters(remove_duplicate=False)), **buffers}
