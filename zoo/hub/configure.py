"""Give a model its solver and adjoint: those of its card, or those that replace them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from zoo.implicit import implicit_modules


def configure(
    model: nn.Module, defaults: Mapping[str, Any], solver: Any = None, adjoint: Any = None, *, throw: bool = False
) -> None:
    """Give an implicit model its solver and adjoint: the card's, or what replaces them. Explicit models refuse both.

    With ``throw`` each of its implicit modules raises where a solve does not reach its end.
    """
    specs = {"solver": solver, "adjoint": adjoint}
    if not hasattr(model, "configure_implicit"):
        given = [k for k, v in {**specs, "throw": throw or None}.items() if v is not None]
        if given:
            raise ValueError(f"{type(model).__name__} is an explicit model: it takes no {' and no '.join(given)}.")
        return
    model.configure_implicit(**{k: defaults.get(k) or None for k in specs})
    model.configure_implicit(**specs)  # which carries the tolerances over
    if throw:
        for _, module in implicit_modules(model):
            module.throw = True
