"""What every task shares: the optimizer, the Jacobian penalty, the checks, and the three steps, written once.

A task is a LightningModule around one model. A subclass says what the loss and the metrics of a batch are, and no more.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any, NamedTuple, Self, cast, final

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn

from zoo import _compat, penalties
from zoo.implicit import implicit_modules, solver_budget, untracked
from zoo.tasks.contractive_start import contract
from zoo.tasks.maps import last_updates, map_noise, start_noise, update_size
from zoo.tasks.optim import Optim
from zoo.tasks.regularization import StabilityConfig
from zoo.tasks.sharding import shard, whole


class NonFiniteError(RuntimeError):
    """The loss or a gradient became NaN or infinite; the weights are still those before the step."""


class Scored(NamedTuple):
    """What a subclass returns for a batch: the loss (), its name -> metric (updated), and how many samples it held.

    ``right`` (B,) says which answers are right, where they are right or wrong.
    """

    loss: Tensor
    metrics: dict[str, Any]
    size: int
    right: Tensor | None = None


class StageMetrics(nn.ModuleDict):
    """A metric, or a mapping of several, for each stage: ``metrics["train"]``, ``["val"]``, ``["test"]``."""

    def __getitem__(self, stage: str) -> Any:
        return super().__getitem__(f"{stage}_")  # "train" alone would hide nn.Module.train


def stage_metrics(make: Callable[[], nn.Module], stages: tuple[str, ...] = ("train", "val", "test")) -> StageMetrics:
    """Make the metric of each stage by one function.

    >>> from torchmetrics import MeanMetric
    >>> stage_metrics(MeanMetric)["val"]
    MeanMetric()
    """
    return StageMetrics({f"{stage}_": make() for stage in stages})


def model_size(model: nn.Module, name: str) -> int:
    """Read a size that a task needs to know of its model, such as ``num_classes``.

    Raises:
        ValueError: the model does not have it.
    """
    size = getattr(model, name, None)
    if size is None:
        raise ValueError(f"The task must know {name} of its model; {type(model).__name__} has none. Set model.{name}.")
    return int(size)


def any_rank(trainer: Trainer, mine: bool) -> bool:
    """Return whether any rank says so; between several of them one small reduction, at the same place in each."""
    return mine if trainer.world_size == 1 else trainer.strategy.reduce_boolean_decision(mine, all=False)


class Task(LightningModule, ABC):
    """One model in training.

    The loss is ``L = loss(model(x), y) + w * |df/dz(z*)|_F^2 / N + c * loss(model_k(x), y)``: the Jacobian penalty,
    estimated by Hutchinson's method at the solves that the step made, and the loss of the answer after ``k`` steps of
    the solver, each only where `StabilityConfig` asks for it.

    Args:
        model: the network, a plain `nn.Module`.
        optim: optimizer and schedule, or a mapping of their options; None: `Optim`'s defaults.
        stability: what keeps the solves stable, or a mapping of its options; None: nothing. On the command line its
            options are the task's own.

    Raises:
        ValueError: stability is asked of a model that solves no fixed points.
    """

    monitor: str = "val/loss"  # what the best checkpoint is chosen by
    maximise: bool = False
    latest: bool = False  # whether the last weights are tested, though former ones were better (continual learning)

    def __init__(
        self,
        model: nn.Module,
        optim: Optim | Mapping[str, Any] | None = None,
        stability: StabilityConfig | Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.stability = (
            StabilityConfig(**stability) if isinstance(stability, Mapping) else stability or StabilityConfig()
        )
        solves = any("fixed_point" in m.problem_types for _, m in implicit_modules(model))
        for name, value in self.stability.enabled_options().items():
            if not solves:
                what = "solves ODEs, no fixed points" if implicit_modules(model) else "solves nothing"
                raise ValueError(f"task.{name} is {value}, but {type(model).__name__} {what}; leave it out.")
        self.model = model
        self.optim = Optim(**optim) if isinstance(optim, Mapping) else optim or Optim()
        # plain values only, so that a checkpoint loads with weights_only=True; `load_from_checkpoint` hands them back
        saved = {"optim": asdict(self.optim)}
        if self.stability != StabilityConfig():
            saved["stability"] = asdict(self.stability)
        self.save_hyperparameters(saved, logger=False)

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **options: Any) -> Self:
        """Make the task of a checkpoint, around a ``model`` that is given: Lightning's own, otherwise.

        Raises:
            TypeError: no model; a checkpoint holds its weights, and not what they are the weights of.
        """
        if "model" not in options:
            raise TypeError(
                f"{cls.__name__}.load_from_checkpoint needs the model that the weights are put into, such as "
                f"model=zoo.create_model(NAME). A checkpoint of zoo.fit knows its model: "
                f"zoo.load({str(checkpoint_path)!r})."
            )
        return cast(Self, super().load_from_checkpoint(checkpoint_path, *args, **options))

    def configure_model(self) -> None:
        """Shard the task as one unit where the strategy splits parameters over processes; called by Lightning."""
        if self.device_mesh is not None:
            shard(self, self.device_mesh["data_parallel"], ("training_step", "validation_step", "test_step"))

    @abstractmethod
    def score(self, batch: Any, stage: str) -> Scored:
        """The loss and the updated metrics of a batch; ``stage`` is "train", "val" or "test"."""

    def answer(self, batch: Any) -> Any:
        """The model's output for a batch, as it is measured: one forward pass, no loss."""
        return self.model(batch[0])

    def rows(self, batch: Any) -> int:
        """How many samples a batch holds."""
        return len(batch[0])

    def cut(self, batch: Any, count: int) -> Any:
        """The first samples of a batch, as a batch."""
        return tuple(t[:count] for t in batch)

    def describe(self, batch: Any) -> str:
        """One clause on what may be wrong with a batch whose loss is not finite; empty where nothing shows."""
        tensors = [t for t in (batch if isinstance(batch, (tuple, list)) else [batch]) if isinstance(t, Tensor)]
        bad = any(t.is_floating_point() and not torch.isfinite(t).all() for t in tensors)
        return "the input holds NaN or infinity" if bad else ""

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)

    @final
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        stability = self.stability
        weight = stability.penalty(self.global_step, self._steps_in_all()) if stability.enabled_options() else 0.0
        skips = stability.nonfinite == "skip"
        # all ranks leave a step out together: what one of them logs for the epoch, all must log
        if skips and any_rank(self.trainer, bool(self.describe(batch))):
            return self._void()
        self._refuse_nan_input(batch)
        early = self._early(batch) if stability.correction_weight > 0 else None
        less = int(torch.randint(stability.random_budget + 1, ())) if stability.random_budget else 0
        depth = stability.depth(self._share()) if stability.depth_curriculum else None
        with (
            penalties.collect(jacobian=weight > 0) as terms,
            solver_budget(most=depth, less=less),
            map_noise(stability.map_noise),
            start_noise(stability.start_noise),
            last_updates() if stability.update_penalty else nullcontext() as updates,
        ):
            scored = self.score(batch, "train")
        loss = scored.loss
        if "jacobian" in terms:
            loss = loss + weight * terms["jacobian"]
        if updates is not None:
            terms["last_update"] = update_size(updates)
            loss = loss + stability.update_penalty * terms["last_update"]
        if early is not None:
            loss = loss + stability.correction_weight * early
        finite = bool(torch.isfinite(loss))
        if skips and any_rank(self.trainer, not finite):
            return self._void()
        if not finite:
            raise NonFiniteError(self._sentence(f"The training loss became {loss.item()}", batch))
        for name, term in terms.items():
            self.log(f"train/{name}", term.detach(), batch_size=scored.size)
        if early is not None:
            self.log("train/loss_early", early.detach(), batch_size=scored.size)
        self.log("train/loss", scored.loss.detach(), on_step=True, on_epoch=False, batch_size=scored.size)
        self.log("loss", scored.loss.detach(), prog_bar=True, logger=False, batch_size=scored.size)
        self._log_epoch("train", scored)
        return loss

    def _void(self) -> Tensor:
        """A loss whose gradients are NaN, so that every rank leaves this step out, whichever of them met the cause."""
        return sum(p.sum() for p in self.parameters() if p.requires_grad) * math.nan  # type: ignore[return-value]

    def _steps_in_all(self) -> float:
        """Steps of the whole run; infinite where no end is set, or where none is needed."""
        scheduled = self.stability.jacobian_final is not None or self.stability.jacobian_until < 1
        return float(self.trainer.estimated_stepping_batches) if scheduled else math.inf

    def _early(self, batch: Any) -> Tensor:
        """The loss of the answer after a few steps of the solver, with a gradient of one step (Bai et al. 2022).

        A shallow twin scores it: the same model, but copies of the metrics, which are to count the final answer only.
        """
        twin = _compat.twin(self, keep=self.model)
        with untracked(), solver_budget(most=self.stability.correction_steps, adjoint="jfb"):
            return twin.score(batch, "train").loss

    @final
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Before the first step of a run: the contractive start."""
        if self.stability.contract and self.global_step == 0 and batch_idx == 0:
            training = self.model.training
            self.model.eval()
            with untracked():  # before it is contractive a map need not converge
                contract(lambda: self.answer(batch), self.stability.contract, agree=self._largest)
            self.model.train(training)

    def _largest(self, value: Tensor) -> Tensor:
        """The largest of a value () over the processes of the run."""
        return cast(Tensor, self.all_gather(value)).max()

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        """The model's output for a batch, with its targets or without: `Trainer.predict`."""
        return self.answer(batch if isinstance(batch, (tuple, list)) else (batch,))

    @final
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self._evaluate(batch, "val")

    @final
    def test_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        right = self._evaluate(batch, "test").right
        return {} if right is None else {"right": right}

    def _evaluate(self, batch: Any, stage: str) -> Scored:
        self._refuse_nan_input(batch)
        scored = self.score(batch, stage)
        if not torch.isfinite(scored.loss):
            raise NonFiniteError(self._sentence(f"The {stage} loss became {scored.loss.item()}", batch))
        self._log_epoch(stage, scored)
        return scored

    def _log_epoch(self, stage: str, scored: Scored) -> None:
        name = f"{stage}/loss_epoch" if stage == "train" else f"{stage}/loss"
        once: dict[str, Any] = {"on_step": False, "on_epoch": True, "batch_size": scored.size}
        self.log(name, scored.loss.detach(), sync_dist=True, **once)
        for key, metric in scored.metrics.items():
            self.log(f"{stage}/{key}", metric, **once)  # a torchmetrics object adds up over ranks by itself

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep how the data set prepares a sample, as weights are of no use without it."""
        told = getattr(self.trainer.datamodule, "preprocessing", None)  # type: ignore[attr-defined]
        if isinstance(told, Mapping) and told:  # one of the user's own may be anything
            checkpoint["preprocessing"] = dict(told)

    @final
    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Refuse a step that would put NaN into the weights. Mixed precision's scaler does that by itself."""
        self.log("train/lr", float(optimizer.param_groups[0]["lr"]), batch_size=1)
        precision = self.trainer.precision_plugin
        if isinstance(precision, MixedPrecision) and precision.scaler is not None:
            return
        norm = whole(nn.utils.get_total_norm([p.grad for p in self.parameters() if p.grad is not None]))
        skips = self.stability.nonfinite == "skip"
        if skips:
            skipped = float(not torch.isfinite(norm))
            self.log("train/skipped", skipped, on_step=False, on_epoch=True, batch_size=1, sync_dist=True)
        if not torch.isfinite(norm):
            if skips:  # without gradients an optimizer leaves weights and momenta as they are
                optimizer.zero_grad(set_to_none=True)
                return
            raise NonFiniteError(self._sentence(f"The gradient's norm became {norm.item()}", None))
        self.log("train/grad_norm", norm, batch_size=1)

    @final
    def configure_optimizers(self) -> Any:
        optimizer = self.optim.build(self.model)
        total = float(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self._factor(step, total))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _factor(self, step: int, total: float) -> float:
        """The learning rate as a share of its peak. Where only the clock ends a run, the clock says how far it is."""
        gone = self._gone() if math.isinf(total) else None
        return self.optim.factor(step, total if gone is None else max(step, 1) / max(gone, 1e-9))

    def _share(self) -> float:
        """The share of the run that is done, by its steps or its clock; 0 where neither ends it."""
        total = float(self.trainer.estimated_stepping_batches)
        gone = self._gone() if math.isinf(total) else self.global_step / max(total, 1.0)
        return min(gone or 0.0, 1.0)

    def _gone(self) -> float | None:
        """The share of its time that a run has used, the same in every process; None where no clock ends it."""
        timer = next((c for c in self.trainer.callbacks if isinstance(c, Timer)), None)  # type: ignore[attr-defined]
        left = timer.time_remaining() if timer is not None else None
        if timer is None or left is None:
            return None
        elapsed = timer.time_elapsed()
        gone = elapsed / (elapsed + max(left, 0.0))
        return float(self.trainer.strategy.broadcast(gone)) if self.trainer.world_size > 1 else gone

    def _refuse_nan_input(self, batch: Any) -> None:
        what = self.describe(batch)
        if what:
            raise NonFiniteError(self._sentence("The batch cannot be used", batch))

    def _sentence(self, what: str, batch: Any) -> str:
        why = self.describe(batch)
        where = f"at step {self.global_step} (epoch {self.current_epoch + 1})"
        if why:
            return f"{what} {where}: {why}. Clean the data; the weights are untouched."
        solves = [m.last for _, m in implicit_modules(self.model) if m.last is not None]
        share = min((float(s.stats.converged.float().mean()) for s in solves), default=1.0)
        solver = f" Of the last solve, {share:.0%} of the samples had converged." if solves else ""
        return (
            f"{what} {where}.{solver} Try a lower --optim.lr, --trainer.gradient_clip_val 1, "
            f"or --task.jacobian_weight 0.1; the weights before this step are kept."
        )
