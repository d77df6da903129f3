"""What the solvers did, logged beside the loss."""

from __future__ import annotations

from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from zoo import penalties
from zoo.implicit import ImplicitMixin, implicit_modules
from zoo.solvers.base import Stats


def measures(stats: Stats) -> dict[str, float]:
    """The numbers logged of one solve; all of them are on the host already.

    An integration in time has accepted and rejected steps instead of a residual, and ``converged`` is the share of the
    samples that reached the last time.
    """
    out = {"nfe_forward": float(stats.nfe), "converged": float(stats.converged.double().mean())}
    out["steps_p95"] = float(torch.quantile(stats.steps.double(), 0.95))
    if stats.accepted is None:
        residual = stats.residual.double()
        out |= {"residual": float(residual.mean()), "residual_max": float(residual.max())}
    else:
        out["accepted"] = float(stats.accepted.double().mean())
        out["rejected"] = float(stats.rejected.double().mean()) if stats.rejected is not None else 0.0
    if stats.backward:
        back = stats.backward[-1]
        out["nfe_backward"] = float(back.nfe)
        out["converged_backward"] = float(back.converged.double().mean())
        if back.accepted is None:
            out["residual_backward"] = float(back.residual.double().mean())
    return out


class SolverTelemetry(Callback):
    """Log what each implicit module's last solve did.

    ``solver/<measure>``: of a training step. ``train/<measure>``, ``val/<measure>``, ``test/<measure>``: the mean over
    an epoch and all ranks; with ``_max`` behind ``nfe_forward``, the largest. Where a model has several implicit
    modules, each one's name stands before the measure. The spectral radius of the Jacobian at the fixed point, below 1
    where plain iteration would converge, is estimated on a few samples of the first validation batch, since it costs
    ``radius_steps`` products.

    Args:
        radius_every: epochs from one estimate of the spectral radius to the next; 0: never.
        radius_samples: samples it is estimated on.
        radius_steps: steps of the power iteration.
    """

    def __init__(self, radius_every: int = 1, radius_samples: int = 8, radius_steps: int = 20) -> None:
        self.radius_every, self.radius_samples, self.radius_steps = radius_every, radius_samples, radius_steps

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        total = 0.0
        for name, module in _solved(pl_module):
            values = measures(module.last.stats)
            total += values["nfe_forward"]
            for key, value in values.items():
                pl_module.log(f"solver/{name}{key}", value, on_step=True, on_epoch=False)
            self._epoch(pl_module, "train", name, values)
        if total:
            pl_module.log("nfe", total, prog_bar=True, logger=False)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, loader: int = 0
    ) -> None:
        if trainer.sanity_checking:
            return
        for name, module in _solved(pl_module):
            self._epoch(pl_module, "val", name, measures(module.last.stats))
        if batch_idx == 0 and self.radius_every and trainer.current_epoch % self.radius_every == 0:
            self._radius(pl_module, batch)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, loader: int = 0
    ) -> None:
        for name, module in _solved(pl_module):
            self._epoch(pl_module, "test", name, measures(module.last.stats))

    def _epoch(self, pl_module: LightningModule, stage: str, name: str, values: dict[str, float]) -> None:
        once: dict[str, Any] = {"on_step": False, "on_epoch": True, "batch_size": 1, "sync_dist": True}
        for key, value in values.items():
            pl_module.log(f"{stage}/{name}{key}", value, **once)
        pl_module.log(f"{stage}/{name}nfe_forward_max", values["nfe_forward"], reduce_fx="max", **once)

    def _radius(self, pl_module: Any, batch: Any) -> None:
        names = {id(m): name for name, m in _solved(pl_module)}
        kept = {m: m.last for _, m in implicit_modules(pl_module.model)}
        with torch.no_grad(), penalties.capture() as solves:
            pl_module.answer(pl_module.cut(batch, self.radius_samples))
        for module, f, z in solves:
            radius = float(penalties.spectral_radius(f, z, steps=self.radius_steps).mean())
            key = f"val/{names.get(id(module), '')}spectral_radius"
            pl_module.log(key, radius, on_step=False, on_epoch=True, batch_size=1, sync_dist=True)
        for module, last in kept.items():
            module.last = last  # the estimate is not a solve of the run


def _solved(pl_module: Any) -> list[tuple[str, ImplicitMixin]]:
    """The implicit modules that have solved, with the prefix of their measures: empty where there is only one."""
    found = implicit_modules(pl_module.model)
    return [(f"{name}/" if len(found) > 1 else "", m) for name, m in found if m.last is not None]
