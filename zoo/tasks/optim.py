"""The optimizer and its schedule, as one frozen dataclass. Imports torch only where an optimizer is built."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from zoo.registry import unknown

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer


@dataclass(frozen=True)
class Optim:
    """Optimizer and learning rate over the run.

    The learning rate rises linearly over the first ``warmup`` share of the steps and follows ``schedule`` after it.

    Args:
        name: any optimizer that timm knows (``adamw``, ``sgd``, ``adam``, ``lamb``, ``lion``, ...).
        lr: peak learning rate.
        weight_decay: not applied to biases and norms.
        momentum: for the optimizers that have one (``sgd``, ``rmsprop``).
        schedule: shape of the learning rate after the warm-up; ``onecycle`` rises over 30 % of the run by itself.
        warmup: share of all steps, in [0, 1), over which the learning rate rises.
        final: share of the peak learning rate that is left at the end.
    """

    name: str = "adamw"
    lr: float = 1e-3
    weight_decay: float = 1e-4
    momentum: float = 0.9
    schedule: Literal["cosine", "linear", "constant", "onecycle"] = "cosine"
    warmup: float = 0.05
    final: float = 0.0

    def __post_init__(self) -> None:
        if not self.lr > 0:
            raise ValueError(f"optim.lr must be above 0; got {self.lr}.")
        if not self.weight_decay >= 0:
            raise ValueError(f"optim.weight_decay must not be negative; got {self.weight_decay}.")
        for name in ("warmup", "final"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"optim.{name} is a share in [0, 1); got {getattr(self, name)}.")

    def factor(self, step: int, total: float) -> float:
        """The learning rate at a step, as a share of the peak. A total of infinity holds the peak after the warm-up."""
        rise = 0.3 if self.schedule == "onecycle" else self.warmup
        first = rise * total if math.isfinite(total) else 0.0
        if step < first:
            share = (step + 1) / (first + 1)
            return 0.5 - 0.5 * math.cos(math.pi * share) if self.schedule == "onecycle" else share
        if self.schedule == "constant" or not math.isfinite(total):
            return 1.0
        share = min(1.0, (step - first) / max(1.0, total - first))
        down = 1.0 - share if self.schedule == "linear" else 0.5 + 0.5 * math.cos(math.pi * share)
        return self.final + (1.0 - self.final) * down

    def build(self, model: nn.Module) -> Optimizer:
        """The optimizer over a model's parameters.

        Raises:
            ValueError: timm knows no optimizer of that name; the nearest is named.
        """
        from timm.optim import create_optimizer_v2, list_optimizers

        known: list[Any] = list_optimizers()
        if self.name.lower() not in known:
            few = [n for n in known if n in ("adam", "adamw", "sgd", "lamb", "lion", "adafactor", "muon", "rmsprop")]
            raise ValueError(unknown("optimizer", self.name, few).removesuffix(".") + ", and others of timm.")
        return create_optimizer_v2(
            model, opt=self.name.lower(), lr=self.lr, weight_decay=self.weight_decay, momentum=self.momentum
        )
