"""Give a model its solver and adjoint: those of its card, or those that replace them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from zoo.implicit import implicit_layers


def configure(
    model: nn.Module, defaults: Mapping[str, Any], solver: Any = None, adjoint: Any = None, *, throw: bool = False
) -> None:
    """Give an implicit model its solver and adjoint: the card's, or what replaces them.

    A model that is no `ImplicitMixin` itself, but has implicit layers, gives them to each of its layers.

    Args:
        model: the model.
        defaults: specs of the card under ``solver`` and ``adjoint``.
        solver, adjoint: in their place; a solver's tolerances carry over where they are left open.
        throw: raise where a solve does not reach its end.

    Raises:
        ValueError: a solver, an adjoint or ``throw`` for an explicit model, or one that does not fit the model.
        UnknownName: no such solver, adjoint or option; the nearest is named.
    """
    layers = implicit_layers(model)
    specs = {"solver": solver, "adjoint": adjoint}
    given = {k: v for k, v in specs.items() if v is not None}
    if not layers and (given or throw):
        asked = [*given, *(["throw"] if throw else [])]
        raise ValueError(
            f"{type(model).__name__} is an explicit model: it takes no {' and no '.join(asked)}. A model that solves "
            "has a layer on zoo.ImplicitMixin, zoo.deq.DEQ for instance."
        )
    usual = {k: defaults[k] for k in specs if defaults.get(k)}
    for layer in layers:
        if usual:
            layer.configure_implicit(**usual)
        if given:
            layer.configure_implicit(**given)
        if throw:
            layer.configure_implicit(throw=True)
