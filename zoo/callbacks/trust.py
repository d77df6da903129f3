"""Whether the residual of a solve tells, without a label, that the answer is right."""

from __future__ import annotations

from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.classification import binary_auroc
from torchmetrics.utilities import dim_zero_cat

from zoo.implicit import implicit_modules

PRECISION = 0.99


class ResidualTrust(Metric):
    """How well a small residual tells the right answers from the wrong ones.

    ``residual_auroc``: the area under the ROC curve, the chance that a right answer has a smaller residual than a wrong
    one; 0.5 tells nothing. ``answered_at_99``: the largest share of all samples that can be answered, those of least
    residual, so that 99 % of the answers are right. Where all answers are right, or all wrong, there is no area.

        >>> trust = ResidualTrust()
        >>> trust.update(torch.tensor([1e-5, 1e-4, 1e-1]), torch.tensor([True, True, False]))
        >>> {k: round(float(v), 2) for k, v in trust.compute().items()}
        {'answered_at_99': 0.67, 'residual_auroc': 1.0}

    Reference: Geifman and El-Yaniv, "Selective classification for deep neural networks", 2017,
    https://arxiv.org/abs/1705.08500
    """

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        self.residual: list[Tensor]
        self.right: list[Tensor]
        for name in ("residual", "right"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, residual: Tensor, right: Tensor) -> None:
        """Take the residuals (B,) of a batch, and which of its answers are right (B,)."""
        self.residual.append(residual.detach().double().flatten())
        self.right.append(right.detach().bool().flatten().to(residual.device))

    def compute(self) -> dict[str, Tensor]:
        residual, right = dim_zero_cat(self.residual), dim_zero_cat(self.right)
        out = {"answered_at_99": answered_share(residual, right)}
        if right.any() and not right.all():
            out["residual_auroc"] = roc_area(residual, right)
        return out


def roc_area(residual: Tensor, right: Tensor) -> Tensor:
    """Return the chance () that a right answer has a smaller residual than a wrong one, ties by half.

    >>> float(roc_area(torch.tensor([1e-9, 3e-9, 2e-9, 1.0]), torch.tensor([True, True, False, False])))
    0.75
    """
    rank = torch.nan_to_num(residual.double(), nan=torch.inf).unique(return_inverse=True)[1]
    # as shares: of other scores torchmetrics takes the sigmoid, in which small residuals are all alike
    return binary_auroc(1 - rank.double() / max(int(rank.max()), 1), right.long())


def answered_share(residual: Tensor, right: Tensor, precision: float = PRECISION) -> Tensor:
    """Return the largest share () of samples, those of residual at most some bound, of which so many are right.

    >>> float(answered_share(torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([True, True, False, True]), 0.75))
    1.0
    """
    values, order = torch.nan_to_num(residual.double(), nan=torch.inf).sort()
    count = torch.arange(1, len(values) + 1, device=values.device)
    last = torch.cat([values[1:] > values[:-1], values.new_ones(1, dtype=torch.bool)])  # ties are answered together
    good = last & (right[order].double().cumsum(0) >= precision * count)
    return (count * good).max() / len(values)


class TrustMonitor(Callback):
    """Log `ResidualTrust` of a test, for a model that solves fixed points and a task whose answers are right or wrong.

    The residual of a sample is the largest of the last solves of the model's modules.
    """

    def __init__(self) -> None:
        self.metric: ResidualTrust | None = None

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.metric = None

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, loader: int = 0
    ) -> None:
        right = outputs.get("right") if isinstance(outputs, dict) else None
        residual = sample_residual(pl_module, len(right)) if right is not None else None
        if right is None or residual is None:
            return
        if self.metric is None:
            self.metric = ResidualTrust().to(pl_module.device)
        self.metric.update(residual.to(pl_module.device), right)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.metric is not None:
            for name, value in self.metric.compute().items():
                pl_module.log(f"test/{name}", value.float(), rank_zero_only=True)


def sample_residual(model: torch.nn.Module, batch: int) -> Tensor | None:
    """Return the largest residual (B,) of the last fixed points that each sample took; None where there is none."""
    solves = [m.last.stats for _, m in implicit_modules(model) if m.last is not None]
    found = [s.residual.double() for s in solves if s.accepted is None and len(s.residual) == batch]
    return torch.stack(found).amax(0) if found else None
