"""Trained models: load one from a folder, a run or a hub, and ask it.

zoo.load("mdeq_tiny.digits")            weights that come with the package, by name
zoo.load("runs/mdeq_tiny_digits/...")   a training run of your own, or a folder that zoo.export made
zoo.load("hf-hub:org/name@revision")    a folder on the Hugging Face Hub
zoo.predict("mdeq_tiny.digits", "two.png").label
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from zoo import folder, hub
from zoo.checkpoint import read_checkpoint
from zoo.data import DATA
from zoo.download import download
from zoo.folder import CONFIG, MACHINE, PICKLES, WEIGHTS, Config, WeightsError
from zoo.implicit import implicit_modules
from zoo.preprocess import Preprocessing
from zoo.restore import build, restore


def transfer(model: nn.Module, source: str | Path, *, data: str = "") -> list[str]:
    """Start a model from trained weights. A classifier that was trained for other classes is left as it is.

    Args:
        model: of the same architecture; its weights are overwritten.
        source: as `load` takes it.
        data: the data set that the model is for; the classifier is taken along only if the weights are for it too.

    Returns:
        the names that were left as they are: the classifier's, or none.

    Raises:
        WeightsError: a weight is missing on either side, or has another shape; then nothing was copied.
    """
    trained = load(source)
    state, own = trained.state_dict(), model.state_dict()
    same = isinstance(trained.pretrained, Config) and trained.pretrained.name.partition(".")[2] == data
    fresh: list[str] = []
    if not same and callable(getattr(model, "get_classifier", None)):
        classifier = model.get_classifier()  # type: ignore[operator]
        names = [f"{n}." for n, m in model.named_modules() if m is classifier]
        fresh = [k for k in own if any(k.startswith(n) for n in names)]
    folder.check({k: v for k, v in own.items() if k not in fresh},
                 {k: v for k, v in state.items() if k not in fresh}, str(source))  # fmt: skip
    model.load_state_dict({k: own[k] if k in fresh else state[k] for k in own})
    if isinstance(trained.pretrained, Config) and trained.pretrained.preprocessing.get("kind") == "text":
        model.pretrained = trained.pretrained  # type: ignore[assignment]  # so that its task refuses other symbols
    return fresh


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


def load(
    source: str | Path,
    *,
    solver: str | Mapping[str, Any] | Any = None,
    adjoint: str | Mapping[str, Any] | Any = None,
    throw: bool = False,
    **overrides: Any,
) -> nn.Module:
    """A trained model, in evaluation mode; its ``pretrained`` holds its configuration, with the preprocessing.

    Args:
        source: a name of ``list_models(pretrained=True)``; a model folder (``local-dir:`` may stand in front); a run
            folder, of which the best weights are taken, or a ``.ckpt`` in one; ``hf-hub:org/name``, with ``@revision``.
        solver, adjoint: replace those it was trained with.
        throw: raise `zoo.SolveError` where a solve does not reach its end, instead of saying so in ``last``.
        **overrides: arguments of the model's class; another ``num_classes`` gives it a new classifier, not trained.

    Raises:
        WeightsError: the source is missing, damaged, of a form that may run code, or made for another model.
        UnknownName: no such name, solver, adjoint or argument.
    """
    options = {"solver": solver, "adjoint": adjoint, "throw": throw, **overrides}
    text = str(source)
    if text.startswith("hf-hub:"):
        return restore(download(text.removeprefix("hf-hub:")), **options).eval()
    place = Path(text.removeprefix("local-dir:")).expanduser()
    if not text.startswith("local-dir:") and not place.exists():
        if "/" in text or "\\" in text:
            raise WeightsError(
                f"{text} does not exist. For a repository on the hub say 'hf-hub:{text}'; for weights that come with "
                f"the package, a name: {', '.join(hub.list_models(pretrained=True)) or 'none yet'}."
            )
        return hub.create_model(text, pretrained=True, **options).eval()
    if place.is_file() and place.name == WEIGHTS:
        place = place.parent
    if place.is_file() and place.suffix != ".ckpt":
        why = "is a pickle, which may run code when it is read" if place.suffix in PICKLES else "is no model"
        raise WeightsError(f"{place} {why}; give the folder of a {WEIGHTS} with its {CONFIG}, or a training run.")
    if place.is_file() or (place / "config.yaml").is_file():
        return _from_run(place, **options).eval()
    return restore(place, **options).eval()


def _from_run(place: Path, *, solver: Any, adjoint: Any, throw: bool, **overrides: Any) -> nn.Module:
    """The model of a run folder or of one of its checkpoints."""
    file = place if place.is_file() else place / "checkpoints" / "best.ckpt"
    run = file.parents[1]
    try:
        config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
        arguments = dict(config["model"])
        name, data = arguments.pop("name"), config["data"]["name"]
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise WeightsError(
            f"{run} is no run folder: its config.yaml is missing or does not say how the model was made."
        ) from error
    checkpoint = read_checkpoint(file)
    state = checkpoint["state_dict"]
    metrics = _measured(run) if file.name == "best.ckpt" else {}
    weights = {k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")}
    specs = {k: config.get(k) or {} for k in ("solver", "adjoint")}
    saved = Config(
        name=f"{hub.card(name).name}.{data}",
        model=arguments,
        weights={"sha256": ""},
        preprocessing=checkpoint.get("preprocessing") or preprocessing_of(data),
        metrics=metrics,
        training={"recipe": {"data": {k: v for k, v in config["data"].items() if k not in MACHINE}}},
        **specs,
    )
    return build(saved, weights, str(file), solver=solver, adjoint=adjoint, throw=throw, **overrides)


def _measured(run: Path) -> dict[str, Any]:
    """The numbers of the test at the end of a run, which used the best weights; empty where it did not get there."""
    try:
        return dict(json.loads((run / "results.json").read_text(encoding="utf-8"))["test"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def preprocessing_of(data: str) -> dict[str, Any]:
    """The preprocessing of a data set of images by name; empty for other kinds of data."""
    kind = DATA[data]
    return Preprocessing.of(kind, data).as_dict() if hasattr(kind, "image_size") else {}


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
