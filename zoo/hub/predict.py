"""Ask a trained classifier about pictures: `predict`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zoo.hub.pretrained import load
from zoo.implicit import implicit_modules
from zoo.storage.model_folder import Config
from zoo.storage.preprocessing import Preprocessing


@dataclass(frozen=True)
class Prediction:
    """What a classifier says about one picture.

    Attributes:
        label: the most probable class.
        probability: of that class.
        top: the most probable classes and their probabilities, in order.
        converged: whether the solver converged on this picture; True for an explicit model and for an ODE in time.
    """

    label: str
    probability: float
    top: tuple[tuple[str, float], ...]
    converged: bool = True

    def __str__(self) -> str:
        return ", ".join(f"{label} {p:.1%}" for label, p in self.top) + ("" if self.converged else " (not converged)")


def predict(model: nn.Module | str | Path, images: Any, *, top: int = 3) -> Prediction | list[Prediction]:
    """What a trained classifier says about a picture, or about several.

    Args:
        model: a model from `load` or ``create_model(..., pretrained=True)``, or what `load` takes.
        images: one picture (path, PIL image, array), or a list or batch (B, C, H, W) of them; see `Preprocessing`.
        top: how many classes to name.

    Returns:
        one `Prediction`, or a list of them where a list or a batch was given.

    Raises:
        ValueError: the model does not know its preprocessing, or a picture is none.
    """
    if not isinstance(model, nn.Module):
        model = load(model)
    saved = getattr(model, "pretrained", None)
    if not isinstance(saved, Config) or not saved.preprocessing:
        raise ValueError(
            f"{type(model).__name__} does not know how its pictures were prepared: it was not loaded with weights. Use "
            "zoo.load(...) or zoo.create_model(..., pretrained=True)."
        )
    if saved.preprocessing.get("kind") == "text":
        raise ValueError(f"{saved.name} is a language model: let it write with zoo.generate(model, prompt).")
    prepare = Preprocessing.read(saved.preprocessing)
    parameter = next(model.parameters())
    was = model.training
    model.eval()
    try:
        with torch.inference_mode():
            logits = model(prepare(images).to(parameter.device, parameter.dtype))
    finally:
        model.train(was)
    chances = logits.float().softmax(-1).cpu()
    prepare.check_classes(chances.shape[1])
    classes = prepare.classes or tuple(str(i) for i in range(chances.shape[1]))
    converged = torch.ones(len(chances), dtype=torch.bool)
    for _, module in implicit_modules(model):
        if module.last is not None and len(module.last.stats.converged) == len(chances):
            converged &= module.last.stats.converged.bool().cpu()
    answers = []
    for row, fine in zip(chances, converged, strict=True):
        p, order = row.topk(min(top, len(row)))
        named = tuple((classes[i], float(v)) for i, v in zip(order.tolist(), p, strict=True))
        answers.append(Prediction(named[0][0], named[0][1], named, bool(fine)))
    several = isinstance(images, (list, tuple)) or getattr(images, "ndim", 0) == 4
    return answers if several else answers[0]
