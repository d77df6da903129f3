"""Normalization of weights, and of groups of channels with errors that say what fits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn
from torch.nn.utils import parametrizations, parametrize

from zoo import _compat

M = TypeVar("M", bound=nn.Module)


def weight_norm(module: M, name: str = "weight") -> M:
    """Split a weight into magnitude and direction, ``w = g v / |v|``, one ``g`` for each output channel.

    The weight is computed from ``g`` and ``v`` at each use, so nothing goes stale: not after ``load_state_dict``, not
    in a deep copy. In the state dict ``g`` is ``parametrizations.<name>.original0`` and ``v`` is ``...original1``.
    Unlike torch's own, the module can be pickled, as ``torch.save(model)`` and spawned processes need.

    Args:
        module: a linear or convolution layer; it is changed in place.
        name: which of its parameters.

    Returns:
        the module.

    Raises:
        ValueError: the module has no such parameter, or it is normalized already.

    Reference: Salimans and Kingma, "Weight Normalization", 2016, https://arxiv.org/abs/1602.07868
    """
    check_free(module, name)
    parametrizations.weight_norm(module, name, dim=0)
    picklable(module, name, weight_norm)
    return module


def magnitudes(model: nn.Module) -> set[str]:
    """Return the names of the magnitudes ``g`` of normalized weights: scales, which weight decay leaves alone."""
    names = {n for n, _ in model.named_parameters()}
    return {n for n in names if n.endswith(".original0") and f"{n[:-1]}1" in names}


def check_free(module: nn.Module, name: str) -> None:
    """Raise ValueError where a module has no such parameter, or it is parametrized already."""
    if parametrize.is_parametrized(module, name):
        raise ValueError(f"The {name!r} of this {type(module).__name__} is parametrized already; normalize it once.")
    if name not in dict(module.named_parameters(recurse=False)):
        known = ", ".join(n for n, _ in module.named_parameters(recurse=False)) or "none"
        raise ValueError(f"{type(module).__name__} has no parameter {name!r} to normalize; it has: {known}.")


def picklable(module: nn.Module, name: str, again: Callable[[nn.Module, str], Any]) -> None:
    """Let a parametrized module be pickled: torch gives it a class of its own, which refuses; so it is built anew.

    Args:
        module: its parameter ``name`` is parametrized.
        again: parametrizes it as ``again(module, name)``; a function that can be pickled itself.
    """
    _compat.set_reduction(module, lambda self: (_rebuild, _parts(self, name, again)))


def _parts(module: nn.Module, name: str, again: Callable[[nn.Module, str], Any]) -> tuple[Any, ...]:
    """What `_rebuild` needs: the class before parametrization, the attributes, and the parameters of the weight."""
    table = module.parametrizations
    assert isinstance(table, nn.ModuleDict)
    parts = {k: p for k, p in table[name].named_parameters(recurse=False) if k.startswith("original")}
    state = _compat.state_without_parametrizations(module)
    return parametrize.type_before_parametrizations(module), state, name, parts, again


def _rebuild(
    kind: type[nn.Module],
    state: dict[str, Any],
    name: str,
    parts: dict[str, nn.Parameter],
    again: Callable[[nn.Module, str], Any],
) -> nn.Module:
    module = kind.__new__(kind)
    module.__dict__.update(state)
    like = parts[max(parts)]  # "original", or of weight norm the direction "original1"
    module.register_parameter(name, nn.Parameter(like.detach(), requires_grad=like.requires_grad))
    again(module, name)
    table = module.parametrizations
    assert isinstance(table, nn.ModuleDict)
    for key, part in parts.items():
        setattr(table[name], key, part)  # the parameters themselves, with what they share
    return module


def group_norm(groups: int, channels: int, *, affine: bool = True) -> nn.GroupNorm:
    """Return ``nn.GroupNorm``, with an error that names numbers of groups that fit.

    Raises:
        ValueError: the channels do not divide into the groups.
    """
    if groups < 1 or channels % groups:
        fits = ", ".join(str(g) for g in range(1, min(channels, 64) + 1) if channels % g == 0)
        raise ValueError(
            f"{channels} channels do not divide into {groups} groups of group normalization. "
            f"Choose channels that are a multiple of {max(groups, 1)}, or groups out of: {fits}."
        )
    return nn.GroupNorm(groups, channels, affine=affine)
