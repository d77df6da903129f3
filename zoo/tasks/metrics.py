"""What the numbers of a run are called, how they are written, and which way is better. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class MetricInfo:
    """A metric that a task logs.

    Attributes:
        key: as it is logged, after ``train/``, ``val/`` or ``test/``.
        name: for people, with its unit.
        short: for a narrow column.
        form: how one value is written.
        scale: what a value is multiplied by in a figure.
        larger: whether a larger value is better.
    """

    key: str
    name: str
    short: str
    form: str = "{:.4f}"
    scale: float = 1.0
    larger: bool = False

    def write(self, value: float) -> str:
        """The value as text."""
        return self.form.format(value)


METRICS: Mapping[str, MetricInfo] = {
    m.key: m
    for m in (
        MetricInfo("solved", "puzzles solved (%)", "solved", "{:.2%}", 100.0, larger=True),
        MetricInfo("cells", "cells right (%)", "cells", "{:.2%}", 100.0, larger=True),
        MetricInfo("accuracy", "accuracy (%)", "acc", "{:.2%}", 100.0, larger=True),
        MetricInfo("miou", "mean intersection over union (%)", "mIoU", "{:.2%}", 100.0, larger=True),
        MetricInfo("auc", "area under the ROC curve (%)", "AUC", "{:.2%}", 100.0, larger=True),
        MetricInfo("residual_auroc", "ROC area of the residual", "ROC", "{:.4f}", larger=True),
        MetricInfo("answered_at_99", "answered at 99 % precision (%)", "sure", "{:.2%}", 100.0, larger=True),
        MetricInfo("psnr", "peak signal to noise (dB)", "PSNR", "{:.2f}", larger=True),
        MetricInfo("forgetting", "forgetting (%)", "forgetting", "{:.2%}", 100.0),
        MetricInfo("interval", "half the 95 % interval (%)", "+-", "{:.2%}", 100.0),
        MetricInfo("nll", "negative log-likelihood (nats)", "nll"),
        MetricInfo("perplexity", "perplexity", "ppl", "{:.2f}"),
        MetricInfo("bits_per_character", "bits a character", "bpc"),
        MetricInfo("bits_per_dim", "bits a dimension", "bpd"),
        MetricInfo("mse", "mean squared error", "mse", "{:.4g}"),
        MetricInfo("mae", "mean absolute error", "mae", "{:.4g}"),
        MetricInfo("energy_drift", "relative energy drift", "drift", "{:.3g}"),
        MetricInfo("gap", "gap to the optimum (%)", "gap", "{:.2%}", 100.0),
        MetricInfo("violation", "largest violation", "violation", "{:.2g}"),
        MetricInfo("objective", "objective", "objective"),
        MetricInfo("loss", "loss", "loss"),
    )
}


def metric_info(key: str) -> MetricInfo:
    """The measure of a key; one that the table lacks is shown under its own name."""
    return METRICS.get(key) or MetricInfo(key, key.replace("_", " "), key, "{:.4g}")


def primary_metric(results: Mapping[str, Any]) -> MetricInfo:
    """The measure that the best weights of a run were chosen by, from its ``results.json``."""
    keys = [k.partition("/")[2] for k in results.get("best", {}) if k.startswith("val/")]
    return metric_info(keys[0] if keys else "loss")
