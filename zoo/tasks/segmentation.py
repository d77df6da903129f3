"""Training a model that gives every pixel a class."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from zoo.layers.sliding_window import sliding, whole
from zoo.tasks.base import Scored, Task, model_size, stage_metrics
from zoo.tasks.optim import Optim
from zoo.tasks.regularization import StabilityConfig


class Segmentation(Task):
    """Cross entropy over the pixels of scores (B, classes, H, W) and masks (B, H, W).

    Metrics: ``miou``, the mean over the classes of intersection over union, from one confusion matrix over the whole
    set (over all batches and ranks), and ``accuracy``, the share of right pixels. A class that is neither there nor
    guessed is left out of the mean.

    Args:
        model: from images to scores; says ``num_classes``, and ``unit``, what height and width must divide by.
        optim: optimizer and schedule; None: `Optim`'s defaults.
        stability: what keeps the solves stable, see `StabilityConfig`; None: nothing.
        ignore_index: label of the pixels that do not count.
        window: side of the windows that evaluation slides over an image; 0: the whole image at once.
        overlap: share of a window that its neighbor sees too, in [0, 1).

    Raises:
        ValueError: an option out of its range; when a run starts: images that the model cannot halve often enough;
            masks of another size than their images, or with labels that are no class.
    """

    monitor = "val/miou"
    maximise = True

    def __init__(
        self,
        model: nn.Module,
        optim: Optim | None = None,
        stability: StabilityConfig | None = None,
        *,
        ignore_index: int = 255,
        window: int = 0,
        overlap: float = 0.5,
    ) -> None:
        super().__init__(model, optim, stability)
        classes, self.unit = model_size(model, "num_classes"), model_size(model, "unit")
        if window < 0 or window % self.unit or not 0 <= overlap < 1:
            raise ValueError(
                f"task.window must be 0 or a multiple of {self.unit}, and task.overlap in [0, 1); got {window} and "
                f"{overlap}."
            )
        if 0 <= ignore_index < classes:
            raise ValueError(f"task.ignore_index must be no class of 0..{classes - 1}; got {ignore_index}.")
        self.ignore_index, self.window, self.overlap = ignore_index, window, overlap
        self.metrics = stage_metrics(
            lambda: nn.ModuleDict(
                {
                    "miou": MulticlassJaccardIndex(classes, average="macro", ignore_index=ignore_index),
                    "accuracy": MulticlassAccuracy(classes, average="micro", ignore_index=ignore_index),
                }
            )
        )

    def on_fit_start(self) -> None:
        """Compare the sizes of the crops with what the model can halve, before the first step."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        crop = getattr(data, "crop", (0, 0))
        if any(s % self.unit for s in crop):
            fits = [max(self.unit, self.unit * round(s / self.unit)) for s in crop]
            told = str(fits[0]) if fits[0] == fits[1] else f"[{fits[0]},{fits[1]}]"
            raise ValueError(
                f"{type(self.model).__name__} needs images whose height and width divide by {self.unit}; the crops are "
                f"{crop[0]}x{crop[1]}. Set --data.crop {told}, or create the model with fewer resolutions."
            )

    def answer(self, batch: Any) -> Tensor:
        """Scores (B, classes, H, W) as they are evaluated: of the whole image, or window by window."""
        if self.window:
            return sliding(self.model, batch[0], self.window, self.overlap)
        return whole(self.model, batch[0], self.unit)

    def score(self, batch: Any, stage: str) -> Scored:
        x, y = batch
        if y.shape != (len(x), *x.shape[-2:]):
            raise ValueError(
                f"Masks must be (B, H, W), as large as their images; got {tuple(y.shape)} for images of "
                f"{tuple(x.shape)}. Resize the masks (nearest neighbor) or the images."
            )
        counts = y != self.ignore_index
        classes = int(self.model.num_classes)  # type: ignore[arg-type]
        if (counts & ((y < 0) | (y >= classes))).any():  # it waits for the device, which such an index would stop
            found = y[counts & ((y < 0) | (y >= classes))].unique().tolist()
            raise ValueError(
                f"Masks hold the labels {', '.join(map(str, found[:5]))}, but the model has {classes} classes, 0 to "
                f"{classes - 1}; only {self.ignore_index} is left out. Map the labels to classes, set "
                f"--task.ignore_index, or create the model with num_classes={max(found) + 1}."
            )
        scores = self.model(x) if stage == "train" else self.answer(batch)
        counted = counts.sum().clamp_min(1)  # a crop may hold ignored pixels only
        loss = F.cross_entropy(scores, y, ignore_index=self.ignore_index, reduction="sum") / counted
        guess = scores.detach().argmax(1)
        metrics: Any = self.metrics[stage]
        for metric in metrics.values():
            metric(guess, y)
        return Scored(loss, dict(metrics.items()), len(x))
