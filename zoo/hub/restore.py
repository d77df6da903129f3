"""Build a model as it was trained, from its configuration and weights, with another solver or classifier if asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from zoo.adjoints import ADJOINTS
from zoo.hub import cards
from zoo.hub.configure import configure
from zoo.hub.sizes import shapes
from zoo.hub.trained import set_trained_config
from zoo.hub.values import check_spec, check_values
from zoo.registry import Registry, UnknownName, check_options, sentence
from zoo.solvers import SOLVERS
from zoo.storage import model_folder
from zoo.storage.model_folder import Config, WeightsError

SPECS: dict[str, Registry[Any]] = {"solver": SOLVERS, "adjoint": ADJOINTS}


def restore(
    place: Path, *, sha256: str = "", solver: Any = None, adjoint: Any = None, throw: bool = False, **overrides: Any
) -> nn.Module:
    """Return the model of a folder of `zoo.storage.model_folder`, with its weights.

    Args:
        place: the folder.
        sha256: what a card says of the weights; empty: what the folder says.
        solver, adjoint, throw, overrides: as `zoo.load` takes them.

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
    paths: bool = False,
    **overrides: Any,
) -> nn.Module:
    """Return a model as it was trained, but for what is overridden; `trained_config` of it is ``saved``.

    Args:
        saved: how it was made.
        state: its weights.
        what: the name of the source, for error messages.
        solver, adjoint, throw: in place of those that it was trained with.
        paths: whether its solver may name a file, as that of one's own run may.
        **overrides: arguments of its class; another ``num_classes`` gives it a new classifier, not trained.

    Raises:
        WeightsError: the configuration makes no model, or another one than the weights are of.
    """
    c = cards.card(saved.name)
    factory = c.load()
    check_options(f"argument of {c.name!r}", factory, overrides)
    classes = overrides.pop("num_classes", None)
    model = _filled(factory, saved, state, what, overrides, paths)
    configure(model, {}, solver, adjoint, throw=throw)
    if classes is not None and classes != saved.model.get("num_classes"):
        reset: Any = getattr(model, "reset_classifier", None)
        if reset is None:
            raise ValueError(f"{type(model).__name__} has no classifier, so num_classes={classes} says nothing.")
        reset(classes)
        saved = replace(saved, preprocessing={k: v for k, v in saved.preprocessing.items() if k != "classes"})
    set_trained_config(model, saved)
    return model


def _filled(
    factory: Callable[..., nn.Module],
    saved: Config,
    state: Mapping[str, Tensor],
    what: str,
    overrides: Mapping[str, Any],
    paths: bool,
) -> nn.Module:
    """The model with its weights; what the configuration asks for is checked before memory is taken for it."""
    arguments = {**saved.model, **overrides}
    try:
        check_values(f"argument of {saved.name.partition('.')[0]!r}", factory, saved.model)
        for key, table in SPECS.items():
            check_spec(table, getattr(saved, key), paths=paths)
        model_folder.check(shapes(factory, arguments, state), state, what)
        model = factory(**arguments)
        configure(model, {key: getattr(saved, key) for key in SPECS})
    except WeightsError:
        raise
    except (
        UnknownName, TypeError, ValueError, ArithmeticError, IndexError, RuntimeError, MemoryError, AttributeError
    ) as error:  # fmt: skip
        if overrides:
            raise
        raise WeightsError(f"{what}: the configuration cannot be built: {sentence(error)}") from error
    model_folder.fill(model, state, what)
    return model
