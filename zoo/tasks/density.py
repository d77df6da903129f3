"""Density estimation: negative log-likelihood, by maximum likelihood or by flow matching."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import nn
from torchmetrics import MeanMetric

from zoo.node.flow_matching import Coupling
from zoo.tasks.base import Scored, Task, stage_metrics
from zoo.tasks.optim import Optim

Objective = Literal["likelihood", "flow_matching", "ot_flow_matching"]
COUPLINGS: dict[str, Coupling] = {"flow_matching": "independent", "ot_flow_matching": "optimal"}


class Density(Task):
    """A continuous flow, trained to give samples (B, D) a high density.

    ``objective`` is the one switch between maximum likelihood, whose every step is a solve,

        L = -log p(x) + kinetic int |f|^2 / D + frobenius int |df/dz|_F^2 / D + error T rms(local error)

    and flow matching, whose steps are regressions (``L = |f(t, y_t) - (z - x) / T|^2``). Either way, validation and
    test measure the negative log-likelihood in nats with the exact trace, and the best weights are chosen by it.

    Args:
        model: a flow, such as `zoo.node.cnf.CNF`.
        optim: optimizer and schedule; None: `Optim`'s defaults.
        objective: what training minimizes; ``ot_flow_matching`` pairs samples and noise by optimal transport.
        kinetic: weight of the kinetic energy of the path, in maximum likelihood.
        frobenius: weight of the Jacobian's norm along the path, likewise.
        error: weight of the solver's own error estimate at a random time, likewise.
        steer: the end time of each training step is uniform within this distance of T, in maximum likelihood.
        bits: also measure bits a dimension, ``nll / (D ln 2)``.

    Raises:
        ValueError: a weight is negative, or given to an objective that makes no use of it.
    """

    monitor = "val/nll"

    def __init__(
        self,
        model: nn.Module,
        optim: Optim | None = None,
        *,
        objective: Objective = "likelihood",
        kinetic: float = 0.0,
        frobenius: float = 0.0,
        error: float = 0.0,
        steer: float = 0.0,
        bits: bool = False,
    ) -> None:
        super().__init__(model, optim)
        if objective not in ("likelihood", *COUPLINGS):
            raise ValueError(f"task.objective must be 'likelihood', 'flow_matching' or 'ot_flow_matching'; "
                             f"got {objective!r}.")  # fmt: skip
        weights = {"kinetic": kinetic, "frobenius": frobenius, "error": error, "steer": steer}
        for name, value in weights.items():
            if not value >= 0:
                raise ValueError(f"task.{name} must not be negative; got {value}.")
            if value and objective != "likelihood":
                raise ValueError(f"task.{name} is {value}, but {objective} follows no path; set it to 0, or use "
                                 "--task.objective likelihood.")  # fmt: skip
        if not steer < model.end:  # type: ignore[operator]
            raise ValueError(f"task.steer must be below the flow's end time {model.end}; got {steer}.")
        self.objective, self.bits = objective, bits
        self.kinetic, self.frobenius, self.error, self.steer = kinetic, frobenius, error, steer
        self.nll = stage_metrics(MeanMetric)
        self.per_dim = stage_metrics(MeanMetric)

    def score(self, batch: Any, stage: str) -> Scored:
        x = batch[0]
        model: Any = self.model
        if stage == "train" and self.objective != "likelihood":
            loss = model.flow_matching_loss(x, COUPLINGS[self.objective])
            return Scored(loss, {}, len(x))
        if stage == "train":
            loss, nll = self._likelihood(x)
        else:
            nll = -model(x)
            loss = nll.mean()
        metrics = {"nll": self.nll[stage]}
        metrics["nll"].update(nll.detach())
        if self.bits:
            metrics["bits_per_dim"] = self.per_dim[stage]
            metrics["bits_per_dim"].update(nll.detach() / (x.shape[1] * math.log(2)))
        return Scored(loss, metrics, len(x))

    def _likelihood(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The regularized loss (), and the negative log-likelihood of each sample (B,)."""
        model: Any = self.model
        end = None
        if self.steer:
            end = model.end + self.steer * (2 * float(torch.rand(())) - 1)
        if not (self.steer or self.kinetic or self.frobenius or self.error):
            nll = -model(x)  # without the integrals that nobody asked for
            return nll.mean(), nll
        flow = model.flow(x, end=end, error=self.error > 0)
        nll = -flow.log_prob
        path = self.kinetic * flow.kinetic + self.frobenius * flow.jacobian
        return (nll + path / x.shape[1] + self.error * flow.error).mean(), nll
