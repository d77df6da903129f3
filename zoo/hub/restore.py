"""Build a model as it was trained, from its configuration and weights, with another solver or classifier if asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo.hub import cards
from zoo.hub.configure import configure
from zoo.registry import UnknownName, check_options
from zoo.storage import model_folder
from zoo.storage.model_folder import Config, WeightsError


def restore(
    place: Path, *, sha256: str = "", solver: Any = None, adjoint: Any = None, throw: bool = False, **overrides: Any
) -> nn.Module:
    """The model of a folder of `zoo.storage.model_folder`, with its weights; ``sha256`` is what a card says of them.

    Raises:
        WeightsError: the folder is damaged, of a newer format, or made for another model; nothing is loaded.
    """
    saved = model_folder.read(place)
    try:
        cards.card(saved.name)  # converted weights of sizes that no card has are named by their family
    except UnknownName as error:
        raise WeightsError(f"{place / model_folder.CONFIG}: name: {error}") from error
    state = model_folder.read_weights(place, saved, sha256)
    return build(saved, state, str(place), solver=solver, adjoint=adjoint, throw=throw, **overrides)


def build(
    saved: Config,
    state: Mapping[str, Tensor],
    what: str,
    *,
    solver: Any = None,
    adjoint: Any = None,
    throw: bool = False,
    **overrides: Any,
) -> nn.Module:
    """A model as it was trained, but for what is overridden; another ``num_classes`` gives it a new classifier.

    The model's ``pretrained`` is ``saved``, which holds its preprocessing and its measured numbers.
    """
    c = cards.card(saved.name)
    factory = c.load()
    check_options(f"argument of {c.name!r}", factory, overrides)
    classes = overrides.pop("num_classes", None)
    arguments = {**saved.model, **overrides}
    try:
        check_options(f"argument of {c.name!r}", factory, saved.model)
        model_folder.check(
            _shapes(factory, arguments), state, what
        )  # before memory is taken for what the file asks for
        model = factory(**arguments)
        configure(model, {"solver": saved.solver, "adjoint": saved.adjoint})
    except WeightsError:
        raise
    except (UnknownName, TypeError, ValueError, RuntimeError, OverflowError, MemoryError) as error:
        if overrides:
            raise
        raise WeightsError(f"{what}: the configuration cannot be built: {error}") from error
    model_folder.fill(model, state, what)
    configure(model, {}, solver, adjoint, throw=throw)
    if classes is not None and classes != saved.model.get("num_classes"):
        if not hasattr(model, "reset_classifier"):
            raise ValueError(f"{type(model).__name__} has no classifier, so num_classes={classes} says nothing.")
        model.reset_classifier(classes)
        saved = replace(saved, preprocessing={k: v for k, v in saved.preprocessing.items() if k != "classes"})
    model.pretrained = saved  # type: ignore[assignment]
    return model


def _shapes(factory: Callable[..., nn.Module], arguments: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state of a model without memory behind it; empty where its class computes with values when it is made."""
    try:
        with torch.device("meta"):
            return factory(**arguments).state_dict()
    except (NotImplementedError, RuntimeError):
        return {}
