"""What the solvers did, logged beside the loss."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from zoo import penalties
from zoo.implicit import ImplicitMixin, Records, SolveRecord, implicit_modules, record_solves, untracked
from zoo.solvers.base import Result, Stats

FIXED_POINT = (Result.converged, Result.max_steps, Result.nonfinite)  # how a search for one can end


def measures(*solves: Stats) -> dict[str, float]:
    """The numbers logged of a solve, or of several that a module made in a row; all of them are on the host already.

    Evaluations are those of all solves, the rest are means over their samples. An integration in time has accepted and
    rejected steps instead of a residual, and ``converged`` is the share of the samples that reached the last time.
    """
    converged, steps = _joined(solves, "converged"), _joined(solves, "steps")
    out = {"nfe_forward": float(sum(s.nfe for s in solves)), "converged": float(converged.mean())}
    out["steps_p95"] = float(torch.quantile(steps, 0.95))
    if solves[0].accepted is None:
        residual = _joined(solves, "residual")
        out |= {"residual": float(residual.mean()), "residual_max": float(residual.max())}
    else:
        out |= _time_steps(solves)
    back = [s.backward[-1] for s in solves if s.backward]
    if back:
        out["nfe_backward"] = float(sum(s.nfe for s in back))
        out["converged_backward"] = float(_joined(back, "converged").mean())
        if back[0].accepted is None:
            out["residual_backward"] = float(_joined(back, "residual").mean())
        else:
            out |= {f"{key}_backward": value for key, value in _time_steps(back).items()}
    return out


def endings(solves: Sequence[SolveRecord]) -> dict[str, float]:
    """``ended_<result>``: the share of the solves that ended in each `Result`, which is the worst over a batch."""
    kinds = FIXED_POINT if solves[0].stats.accepted is None else tuple(Result)
    return {f"ended_{kind.name}": sum(s.result is kind for s in solves) / len(solves) for kind in kinds}


def _joined(solves: Sequence[Stats], name: str) -> Tensor:
    return torch.cat([getattr(s, name).double().flatten() for s in solves])


def _time_steps(solves: Sequence[Stats]) -> dict[str, float]:
    kept = [s for s in solves if s.rejected is not None]
    rejected = float(_joined(kept, "rejected").mean()) if kept else 0.0
    return {"accepted": float(_joined(solves, "accepted").mean()), "rejected": rejected}


class SolverTelemetry(Callback):
    """Log what each implicit module's solves of a batch did: `measures`, and by `endings` how they ended.

    ``solver/<measure>``: of a training step. ``train/<measure>``, ``val/<measure>``, ``test/<measure>``: the mean over
    an epoch and all ranks, such as ``val/ended_max_steps``, the share of solves that used up their budget; with
    ``_max`` after ``nfe_forward``, the largest. Where a model has several implicit modules, each one's name stands
    before the measure. Solves beside the answer (`zoo.implicit.aside`) do not count.

    The spectral radius of the Jacobian at the fixed point, below 1 where plain iteration would converge, is estimated
    on a few samples of the first validation batch, since it costs ``radius_steps`` products.

    Args:
        radius_every: epochs from one estimate of the spectral radius to the next; 0: never.
        radius_samples: samples it is estimated on.
        radius_steps: steps of the power iteration.
    """

    def __init__(self, radius_every: int = 1, radius_samples: int = 8, radius_steps: int = 20) -> None:
        self.radius_every, self.radius_samples, self.radius_steps = radius_every, radius_samples, radius_steps
        self._scope, self._solves = ExitStack(), Records()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._open()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        total = 0.0
        for name, values in self._close(pl_module):
            total += values["nfe_forward"]
            for key, value in values.items():
                pl_module.log(f"solver/{name}{key}", value, on_step=True, on_epoch=False)
            self._epoch(pl_module, "train", name, values)
        if total:
            pl_module.log("nfe", total, prog_bar=True, logger=False)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, loader: int = 0
    ) -> None:
        self._open()

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, loader: int = 0
    ) -> None:
        solved = self._close(pl_module)
        if trainer.sanity_checking:
            return
        for name, values in solved:
            self._epoch(pl_module, "val", name, values)
        if batch_idx == 0 and self.radius_every and trainer.current_epoch % self.radius_every == 0:
            self._radius(pl_module, batch)

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, loader: int = 0
    ) -> None:
        self._open()

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, loader: int = 0
    ) -> None:
        for name, values in self._close(pl_module):
            self._epoch(pl_module, "test", name, values)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._scope.close()

    def _open(self) -> None:
        """Record the solves from here on; a batch that was left without its end is forgotten."""
        self._scope.close()
        self._solves = self._scope.enter_context(record_solves())

    def _close(self, pl_module: Any) -> list[tuple[str, dict[str, float]]]:
        """What each module's solves since `_open` did, with the prefix of its measures."""
        self._scope.close()
        solves, self._solves = self._solves, Records()
        out = []
        for name, module in _named(pl_module):
            own = [record for who, record in solves if who is module]
            if own:
                out.append((name, {**measures(*(r.stats for r in own)), **endings(own)}))
        return out

    def _epoch(self, pl_module: LightningModule, stage: str, name: str, values: dict[str, float]) -> None:
        once: dict[str, Any] = {"on_step": False, "on_epoch": True, "batch_size": 1, "sync_dist": True}
        for key, value in values.items():
            pl_module.log(f"{stage}/{name}{key}", value, **once)
        pl_module.log(f"{stage}/{name}nfe_forward_max", values["nfe_forward"], reduce_fx="max", **once)

    def _radius(self, pl_module: Any, batch: Any) -> None:
        names = {id(m): name for name, m in _named(pl_module)}
        kept = {m: m.last for _, m in implicit_modules(pl_module.model)}
        with torch.no_grad(), untracked(), penalties.capture() as solves:
            pl_module.answer(pl_module.cut(batch, self.radius_samples))
        for module, f, z in solves:
            radius = float(penalties.spectral_radius(f, z, steps=self.radius_steps).mean())
            key = f"val/{names.get(id(module), '')}spectral_radius"
            pl_module.log(key, radius, on_step=False, on_epoch=True, batch_size=1, sync_dist=True)
        for module, last in kept.items():
            module.last = last  # the estimate is not a solve of the run


def _named(pl_module: Any) -> list[tuple[str, ImplicitMixin]]:
    """The implicit modules with the prefix of their measures: empty where there is only one."""
    found = implicit_modules(pl_module.model)
    return [(f"{name}/" if len(found) > 1 else "", m) for name, m in found]
