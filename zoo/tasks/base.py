"""What every task shares: the optimiser, the Jacobian penalty, the checks, and the three steps, written once.

A task is a LightningModule around one model. A subclass says what the loss and the metrics of a batch are, and no more.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict
from typing import Any, NamedTuple, final

import torch
from lightning import LightningModule
from torch import Tensor, nn

from zoo import penalties
from zoo.implicit import implicit_modules
from zoo.tasks.optim import Optim


class NonFiniteError(RuntimeError):
    """The loss or a gradient became NaN or infinite; the weights are still those before the step."""


class Scored(NamedTuple):
    """What a subclass returns for a batch: the loss (), its name -> metric (updated), and how many samples it held."""

    loss: Tensor
    metrics: dict[str, Any]
    size: int


class Task(LightningModule, ABC):
    """One model in training.

    The loss is ``L = loss(model(x), y) + jacobian_weight * |df/dz(z*)|_F^2 / N``, the penalty only in every
    ``jacobian_every``-th step, estimated by Hutchinson's method at the solves that the step made.

    Args:
        model: the network, a plain `nn.Module`.
        optim: optimiser and schedule; None: `Optim`'s defaults.
        jacobian_weight: weight of the Jacobian penalty; 0 leaves it out and costs nothing.
        jacobian_every: training steps from one penalty to the next.
        warmup_steps: training steps that unroll ``warmup_depth`` iterations instead of solving, at the start.
        warmup_depth: iterations unrolled in such a step.

    Raises:
        ValueError: a weight or a count is negative, or zero where it must not be.

    Reference: Bai, Koltun, Kolter, "Stabilizing Equilibrium Models by Jacobian Regularization", 2021.
    """

    monitor: str = "val/loss"  # what the best checkpoint is chosen by
    maximise: bool = False

    def __init__(
        self,
        model: nn.Module,
        optim: Optim | None = None,
        *,
        jacobian_weight: float = 0.0,
        jacobian_every: int = 1,
        warmup_steps: int = 0,
        warmup_depth: int = 5,
    ) -> None:
        super().__init__()
        if not jacobian_weight >= 0:
            raise ValueError(f"task.jacobian_weight must not be negative; got {jacobian_weight}.")
        for name, value, least in (
            ("jacobian_every", jacobian_every, 1),
            ("warmup_steps", warmup_steps, 0),
            ("warmup_depth", warmup_depth, 1),
        ):
            if value < least:
                raise ValueError(f"task.{name} must be at least {least}; got {value}.")
        solves = any("fixed_point" in m.problems for _, m in implicit_modules(model))
        for name, value in (("jacobian_weight", jacobian_weight), ("warmup_steps", warmup_steps)):
            if value > 0 and not solves:
                what = "solves ODEs, no fixed points" if implicit_modules(model) else "solves nothing"
                raise ValueError(f"task.{name} is {value}, but {type(model).__name__} {what}; set it to 0.")
        self.model = model
        self.optim = optim or Optim()
        self.jacobian_weight, self.jacobian_every = jacobian_weight, jacobian_every
        self.warmup_steps, self.warmup_depth = warmup_steps, warmup_depth
        # plain values only, so that a checkpoint loads with weights_only=True
        self.save_hyperparameters({"optim": asdict(self.optim)}, logger=False)

    @abstractmethod
    def score(self, batch: Any, stage: str) -> Scored:
        """The loss and the updated metrics of a batch; ``stage`` is "train", "val" or "test"."""

    def describe(self, batch: Any) -> str:
        """One clause on what may be wrong with a batch whose loss is not finite; empty where nothing shows."""
        tensors = [t for t in (batch if isinstance(batch, (tuple, list)) else [batch]) if isinstance(t, Tensor)]
        bad = any(t.is_floating_point() and not torch.isfinite(t).all() for t in tensors)
        return "the input holds NaN or infinity" if bad else ""

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)

    @final
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        penalised = self.jacobian_weight > 0 and self.global_step % self.jacobian_every == 0
        self._refuse_nan_input(batch)
        with penalties.collect(jacobian=penalised) as terms:
            scored = self.score(batch, "train")
        loss = scored.loss
        if penalised and "jacobian" in terms:
            jacobian = terms["jacobian"]
            loss = loss + self.jacobian_weight * jacobian
            self.log("train/jacobian", jacobian.detach(), batch_size=scored.size)
        if not torch.isfinite(loss):
            raise NonFiniteError(self._sentence(f"The training loss became {loss.item()}", batch))
        self.log("train/loss", scored.loss.detach(), on_step=True, on_epoch=False, batch_size=scored.size)
        self.log("loss", scored.loss.detach(), prog_bar=True, logger=False, batch_size=scored.size)
        self._log_epoch("train", scored)
        return loss

    @final
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self._evaluate(batch, "val")

    @final
    def test_step(self, batch: Any, batch_idx: int) -> None:
        self._evaluate(batch, "test")

    def _evaluate(self, batch: Any, stage: str) -> None:
        self._refuse_nan_input(batch)
        scored = self.score(batch, stage)
        if not torch.isfinite(scored.loss):
            raise NonFiniteError(self._sentence(f"The {stage} loss became {scored.loss.item()}", batch))
        self._log_epoch(stage, scored)

    def _log_epoch(self, stage: str, scored: Scored) -> None:
        name = f"{stage}/loss_epoch" if stage == "train" else f"{stage}/loss"
        once = {"on_step": False, "on_epoch": True, "batch_size": scored.size}
        self.log(name, scored.loss.detach(), sync_dist=True, **once)
        for key, metric in scored.metrics.items():
            self.log(f"{stage}/{key}", metric, **once)  # a torchmetrics object adds up over ranks by itself

    @final
    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Refuse a step that would put NaN into the weights. Mixed precision's scaler does that by itself."""
        if getattr(self.trainer.precision_plugin, "scaler", None) is not None:
            return
        norm = nn.utils.get_total_norm([p.grad for p in self.parameters() if p.grad is not None])
        if not torch.isfinite(norm):
            raise NonFiniteError(self._sentence(f"The gradient's norm became {norm.item()}", None))
        self.log("train/grad_norm", norm, batch_size=1)

    @final
    def configure_optimizers(self) -> Any:
        optimizer = self.optim.build(self.model)
        total = float(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.optim.factor(step, total))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _refuse_nan_input(self, batch: Any) -> None:
        what = self.describe(batch)
        if what:
            raise NonFiniteError(self._sentence("The batch cannot be used", batch))

    def _sentence(self, what: str, batch: Any) -> str:
        why = self.describe(batch)
        where = f"at step {self.global_step} (epoch {self.current_epoch + 1})"
        if why:
            return f"{what} {where}: {why}. Clean the data; the weights are untouched."
        implicit = [m for _, m in implicit_modules(self.model) if m.last is not None]
        share = min((float(m.last.stats.converged.float().mean()) for m in implicit), default=1.0)
        solver = f" Of the last solve, {share:.0%} of the samples had converged." if implicit else ""
        return (
            f"{what} {where}.{solver} Try a lower --optim.lr, --trainer.gradient_clip_val 1, "
            f"or --task.jacobian_weight 0.1; the weights before this step are kept."
        )
