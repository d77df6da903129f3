"""Ask a trained classifier about pictures: `predict`."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zoo.hub import cards
from zoo.hub.pretrained import load
from zoo.hub.trained import trained_config
from zoo.implicit import implicit_modules
from zoo.registry import sentence
from zoo.storage.model_folder import Config
from zoo.storage.preprocessing import Preprocessing

ENDINGS = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}  # pictures of a folder


@dataclass(frozen=True)
class Prediction:
    """What a classifier says about one picture.

    Attributes:
        label: the most probable class; empty where the picture could not be read.
        probability: of that class.
        top: the most probable classes and their probabilities, in order.
        converged: whether the solver converged on this picture; True for an explicit model and for an ODE in time.
        source: the file, where the picture was one.
        error: why the picture could not be read; empty where it could.
    """

    label: str
    probability: float
    top: tuple[tuple[str, float], ...]
    converged: bool = True
    source: str = ""
    error: str = ""

    def __str__(self) -> str:
        if self.error:
            return f"not read: {self.error}"
        return ", ".join(f"{label} {p:.1%}" for label, p in self.top) + ("" if self.converged else " (not converged)")

    def __repr__(self) -> str:
        parts = [f"label={self.label!r}", f"probability={self.probability:.4f}", f"converged={self.converged}"]
        parts += [f"{k}={getattr(self, k)!r}" for k in ("source", "error") if getattr(self, k)]
        return f"Prediction({', '.join(parts)})"


def predict(
    model: nn.Module | str | Path,
    images: Any,
    *,
    top: int = 3,
    batch_size: int = 64,
    on_error: Literal["raise", "keep"] = "raise",
) -> Prediction | list[Prediction]:
    """Ask a trained classifier about a picture, or about several.

        >>> import torch
        >>> predict("mdeq_tiny.digits", torch.zeros(8, 8)).converged
        True

    Args:
        model: a model from `load` or ``create_model(..., pretrained=True)``, or what `load` takes.
        images: one picture (path, PIL image, array), a list or batch (B, C, H, W) of them, or a folder, whose pictures
            are taken in the order of their names; see `Preprocessing`.
        top: how many classes to name.
        batch_size: pictures that the model is asked about at once; an answer does not depend on it.
        on_error: a picture of several that cannot be read is an error that names it, or with "keep" an answer that
            says so among the others.

    Returns:
        one `Prediction`, or a list of them where several pictures or a folder were given.

    Raises:
        ValueError: the model is no classifier that knows its preprocessing, or a picture is none.
        OSError: a file cannot be read.

    Warns:
        where the solver did not converge on a picture; each `Prediction` says of its own.
    """
    if on_error not in ("raise", "keep"):
        raise ValueError(f"on_error is 'raise' or 'keep'; got {on_error!r}.")
    if batch_size < 1 or top < 1:
        raise ValueError(f"batch_size and top must be at least 1; got {batch_size} and {top}.")
    if not isinstance(model, nn.Module):
        model = load(model)
    prepare = _preprocessing(model)
    pictures, several = _pictures(images)
    answers: list[Prediction] = []
    was = model.training
    model.eval()
    try:
        for batch in _batches(pictures, batch_size, prepare, several, on_error):
            answers += _answers(model, batch, prepare.classes, top)
    finally:
        model.train(was)
    left = [i for i, a in enumerate(answers) if not a.converged and not a.error]
    if left:
        which = ", ".join(answers[i].source or str(i) for i in left[:3]) + (", ..." if len(left) > 3 else "")
        warnings.warn(
            f"The solver did not converge on {len(left)} of {len(answers)} pictures ({which}); give it more steps, "
            "zoo.load(..., solver={'name': ..., 'max_steps': ...}), or compare with another solver.",
            stacklevel=2,
        )
    return answers if several else answers[0]


def _preprocessing(model: nn.Module) -> Preprocessing:
    """How the model's pictures were prepared; a model that looks at no pictures says what it does instead."""
    saved = trained_config(model)
    if saved is None:
        raise ValueError(
            f"{type(model).__name__} does not know how its pictures were prepared: it was not loaded with weights. Use "
            "zoo.load(...) or zoo.create_model(..., pretrained=True)."
        )
    if saved.preprocessing.get("kind") == "text":
        raise ValueError(f"{saved.name} is a language model: let it write with zoo.generate(model, prompt).")
    kind = _task_of(saved)
    if kind != "classification":
        raise ValueError(
            f"{saved.name} is a model for {kind.replace('_', ' ')}, not a classifier of pictures. Call the model on "
            f"tensors as {type(model).__name__} takes them."
        )
    if not saved.preprocessing:
        raise ValueError(
            f"{saved.name} does not know how its pictures were prepared: its data set says none. Call the model on "
            "tensors as it was trained on."
        )
    return Preprocessing.read(saved.preprocessing)


def _task_of(saved: Config) -> str:
    """The kind of task that a model was trained for, as its card's task is called."""
    return cards.card(saved.name).task.partition(":")[0].rpartition(".")[2]


def _pictures(images: Any) -> tuple[list[Any], bool]:
    """The pictures one by one, and whether several were asked about."""
    if isinstance(images, (str, Path)) and Path(images).is_dir():
        found = sorted(p for p in Path(images).rglob("*") if p.suffix.lower() in ENDINGS)
        if not found:
            raise ValueError(f"{images} holds no pictures; their names end in {', '.join(sorted(ENDINGS))}.")
        return list(found), True
    if isinstance(images, (list, tuple)):
        if not images:
            raise ValueError("No picture was given; the list is empty.")
        return list(images), True
    shape = tuple(getattr(images, "shape", ()))
    if len(shape) == 4:
        return list(images), True
    if len(shape) == 3 and not {shape[0], shape[-1]} & {1, 3}:
        raise ValueError(
            f"Neither a picture (H, W), (C, H, W) or (H, W, C), nor several (B, C, H, W): got {shape}. Give several "
            "pictures without an axis of channels as a list, predict(model, list(images))."
        )
    return [images], False


@dataclass(frozen=True)
class _Batch:
    """Prepared pictures (B, C, H, W), and of each picture of the batch its source and its error, if it had one."""

    pixels: Tensor | None
    sources: Sequence[str]
    errors: Sequence[str]


def _batches(
    pictures: Sequence[Any], size: int, prepare: Preprocessing, several: bool, on_error: str
) -> Iterator[_Batch]:
    for start in range(0, len(pictures), size):
        pixels, sources, errors = [], [], []
        for i, picture in enumerate(pictures[start : start + size], start):
            path = str(picture) if isinstance(picture, (str, Path)) else ""
            error = ""
            try:
                pixels.append(prepare(picture))
            except (ValueError, OSError, TypeError, SyntaxError) as cause:  # PIL's own for some broken files
                if not several:
                    raise
                why = sentence(cause)
                error = f"picture {i}{f', {path}' if path and path not in why else ''}: {why}"
                if on_error == "raise":
                    kind = OSError if isinstance(cause, OSError) else ValueError
                    raise kind(f"{error} With on_error='keep' the others are answered.") from cause
            sources.append(path)
            errors.append(error)
        yield _Batch(torch.cat(pixels) if pixels else None, sources, errors)


def _answers(model: nn.Module, batch: _Batch, classes: Sequence[str], top: int) -> list[Prediction]:
    rows = iter(_asked(model, batch.pixels) if batch.pixels is not None else [])
    out = []
    for source, error in zip(batch.sources, batch.errors, strict=True):
        if error:
            out.append(Prediction("", 0.0, (), False, source, error))
            continue
        chances, converged = next(rows)
        if classes and len(classes) != len(chances):
            raise ValueError(
                f"The model has {len(chances)} classes, its configuration names {len(classes)}; they do not belong "
                "together."
            )
        p, order = chances.topk(min(top, len(chances)))
        named = tuple((classes[i] if classes else str(i), float(v)) for i, v in zip(order.tolist(), p, strict=True))
        out.append(Prediction(named[0][0], named[0][1], named, converged, source))
    return out


def _asked(model: nn.Module, pixels: Tensor) -> list[tuple[Tensor, bool]]:
    """Of each picture the probabilities of its classes, and whether every solve converged on it."""
    parameter = next(model.parameters())
    with torch.inference_mode():
        logits = model(pixels.to(parameter.device, parameter.dtype))
    chances = logits.float().softmax(-1).cpu()
    converged = torch.ones(len(chances), dtype=torch.bool)
    for _, module in implicit_modules(model):
        if module.last is not None and len(module.last.stats.converged) == len(chances):
            converged &= module.last.stats.converged.bool().cpu()
    return list(zip(chances, converged.tolist(), strict=True))
