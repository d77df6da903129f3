"""Trained models: load one from a folder, a run or a hub, and ask it.

zoo.load("mdeq_tiny.digits")            weights that come with the package, by name
zoo.load("runs/mdeq_tiny_digits/...")   a training run of your own, or a folder that zoo.export made
zoo.load("hf-hub:org/name@revision")    a folder on the Hugging Face Hub
zoo.predict("mdeq_tiny.digits", "two.png").label
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from zoo.data import DATA
from zoo.hub import cards
from zoo.hub.factory import create_model
from zoo.hub.restore import build, restore
from zoo.storage.checkpoint import read_checkpoint
from zoo.storage.huggingface import download
from zoo.storage.model_folder import CONFIG, MACHINE, PICKLES, WEIGHTS, Config, WeightsError
from zoo.storage.preprocessing import Preprocessing


def load(
    source: str | Path,
    *,
    solver: str | Mapping[str, Any] | Any = None,
    adjoint: str | Mapping[str, Any] | Any = None,
    throw: bool = False,
    **overrides: Any,
) -> nn.Module:
    """Load a trained model, in evaluation mode; its ``pretrained`` holds its configuration, with the preprocessing.

        >>> load("mdeq_tiny.digits").pretrained.name
        'mdeq_tiny.digits'

    Args:
        source: a name of ``list_models(pretrained=True)``; a model folder (``local-dir:`` may stand before it); a run
            folder, of which the best weights are taken, or a ``.ckpt`` of a run, wherever it lies; ``hf-hub:org/name``,
            with ``@revision``.
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
                f"the package, a name: {', '.join(cards.list_models(pretrained=True)) or 'none yet'}."
            )
        return create_model(text, pretrained=True, **options).eval()
    if place.is_file() and place.name == WEIGHTS:
        place = place.parent
    if place.is_file() and place.suffix != ".ckpt":
        why = "is a pickle, which may run code when it is read" if place.suffix in PICKLES else "is no model"
        raise WeightsError(f"{place} {why}; give the folder of a {WEIGHTS} with its {CONFIG}, or a training run.")
    if place.is_file() or (place / "config.yaml").is_file() or (place / "checkpoints").is_dir():
        return _from_run(place, **options).eval()
    return restore(place, **options).eval()


def _from_run(place: Path, *, solver: Any, adjoint: Any, throw: bool, **overrides: Any) -> nn.Module:
    """Return the model of a run folder, of one of its checkpoints, or of one that was moved away from its run."""
    file = place if place.is_file() else place / "checkpoints" / "best.ckpt"
    checkpoint = read_checkpoint(file)
    config = _config_of(file, checkpoint)
    arguments = dict(config["model"])
    name, data = arguments.pop("name"), config["data"]["name"]
    weights = {k.removeprefix("model."): v for k, v in checkpoint["state_dict"].items() if k.startswith("model.")}
    saved = Config(
        name=f"{cards.card(name).name}.{data}",
        model=arguments,
        weights={"sha256": ""},
        preprocessing=checkpoint.get("preprocessing") or preprocessing_of(data),
        metrics=_measured(run_of(file)) if file.name == "best.ckpt" else {},
        training={"recipe": {"data": {k: v for k, v in config["data"].items() if k not in MACHINE}}},
        solver=config.get("solver") or {},
        adjoint=config.get("adjoint") or {},
    )
    return build(saved, weights, str(file), solver=solver, adjoint=adjoint, throw=throw, paths=True, **overrides)


def run_of(checkpoint: Path) -> Path:
    """The run folder that a checkpoint lies in, or would lie in."""
    return checkpoint.absolute().parent.parent


def _config_of(file: Path, checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """How the run of a checkpoint made its model: what the checkpoint says itself, else the ``config.yaml`` of its run.

    Raises:
        WeightsError: neither does.
    """
    kept = checkpoint.get("hyper_parameters")
    config: Any = kept.get("config") if isinstance(kept, Mapping) else None
    if config is None:
        try:
            config = yaml.safe_load((run_of(file) / "config.yaml").read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError, yaml.YAMLError):
            config = None
    try:
        whole = {k: dict(config[k] or {}) for k in ("model", "data", "solver", "adjoint") if k in config}
        if isinstance(whole["model"]["name"], str) and isinstance(whole["data"]["name"], str):
            return whole
    except (KeyError, TypeError, ValueError):
        pass
    raise WeightsError(
        f"{file} does not say how its model was made: it was not written by zoo.fit, and no config.yaml of a run is "
        f"there. Build the model with zoo.create_model and load the file's 'state_dict' into it."
    )


def _measured(run: Path) -> dict[str, Any]:
    """The numbers of the test at the end of a run, which used the best weights; empty where it did not get there."""
    try:
        return dict(json.loads((run / "results.json").read_text(encoding="utf-8"))["test"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def preprocessing_of(data: str) -> dict[str, Any]:
    """The preprocessing of a data set of images by name; empty for other kinds of data."""
    if data not in DATA:  # code of the user's own, which a file cannot name
        return {}
    kind = DATA[data]
    return Preprocessing.of(kind, data).as_dict() if hasattr(kind, "in_chans") and hasattr(kind, "std") else {}
