"""Build a model by the name of its card: `create_model`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from zoo.hub.cards import card, overlay, recipe, weights_of
from zoo.hub.configure import configure
from zoo.hub.restore import restore
from zoo.registry import UnknownName, check_options, unknown


def create_model(
    name: str,
    *,
    pretrained: bool = False,
    solver: str | Mapping[str, Any] | Any = None,
    adjoint: str | Mapping[str, Any] | Any = None,
    throw: bool = False,
    **overrides: Any,
) -> nn.Module:
    """Build the model of a card.

    Args:
        name: a name of `list_models`, or with a data set after a dot: "mdeq_tiny.fashion_mnist".
        pretrained: load the weights that were trained on that data set (the first that has weights, if none is named).
        solver: replaces the card's; its ``rtol``, ``atol`` and ``max_steps`` carry over where they are left open.
        adjoint: replaces the card's.
        throw: raise `zoo.SolveError` where a solve does not reach its end, instead of saying so in ``last``.
        **overrides: arguments of the model's class.

    Raises:
        UnknownName: no such model, option, solver, adjoint or weights; the nearest is named.
        ValueError: a solver, an adjoint or ``throw`` for an explicit model, or those that do not fit the model.
        WeightsError: the weights are damaged, or do not fit the overridden model.
    """
    c = card(name)
    tag = name.partition(".")[2]
    if tag and tag not in c.weights and tag not in c.data:
        raise UnknownName(unknown(f"data set of {c.name!r}", tag, [*c.data, *c.weights]))
    if pretrained:
        place, sha256 = weights_of(c, tag)
        return restore(place, sha256=sha256, solver=solver, adjoint=adjoint, throw=throw, **overrides)
    factory = c.load()
    specs = recipe(c.name, tag) if tag else {}
    config = {**c.model, **specs.get("model", {})}
    check_options(f"argument of {c.name!r}", factory, overrides)
    model = factory(**config | overrides)
    configure(model, overlay({"solver": c.solver, "adjoint": c.adjoint}, specs), solver, adjoint, throw=throw)
    return model
