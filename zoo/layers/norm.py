"""Normalisation of weights, and of groups of channels with errors that say what fits."""

from __future__ import annotations

from typing import Any, TypeVar

from torch import nn
from torch.nn.utils import parametrizations, parametrize

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
        ValueError: the module has no such parameter, or it is normalised already.

    Reference: Salimans and Kingma, "Weight Normalization", 2016, https://arxiv.org/abs/1602.07868
    """
    if parametrize.is_parametrized(module, name):
        raise ValueError(f"The {name!r} of this {type(module).__name__} is parametrised already; normalise it once.")
    if name not in module._parameters:
        known = ", ".join(n for n, _ in module.named_parameters(recurse=False)) or "none"
        raise ValueError(f"{type(module).__name__} has no parameter {name!r} to normalise; it has: {known}.")
    parametrizations.weight_norm(module, name, dim=0)
    # torch gives the module a class of its own, and that class refuses to be pickled: teach it by rebuilding
    type(module).__reduce_ex__ = lambda self, protocol: (_rebuild, _parts(self, name))  # type: ignore[assignment,method-assign]
    return module


def is_weight_normed(module: nn.Module, name: str = "weight") -> bool:
    """Whether `weight_norm`, or another parametrisation, computes this weight."""
    return parametrize.is_parametrized(module, name)


def _parts(module: nn.Module, name: str) -> tuple[type, dict[str, Any], str, nn.ParameterDict]:
    """What `_rebuild` needs: the class before normalisation, the attributes, and ``g`` and ``v``."""
    state = dict(module.__dict__)
    state["_modules"] = {k: v for k, v in module._modules.items() if k != "parametrizations"}
    # torch's hook that reads older state dicts is a local function; `weight_norm` registers it anew
    hooks = module._load_state_dict_pre_hooks
    state["_load_state_dict_pre_hooks"] = type(hooks)((k, h) for k, h in hooks.items() if "<locals>" not in str(h.hook))
    parts = module.parametrizations[name]  # type: ignore[index]
    return parametrize.type_before_parametrizations(module), state, name, {"g": parts.original0, "v": parts.original1}


def _rebuild(kind: type, state: dict[str, Any], name: str, parts: dict[str, nn.Parameter]) -> nn.Module:
    module = kind.__new__(kind)
    module.__dict__.update(state)
    module._parameters[name] = nn.Parameter(parts["v"].detach(), requires_grad=parts["v"].requires_grad)
    weight_norm(module, name)
    module.parametrizations[name].original0 = parts["g"]  # the parameters themselves, with what they share
    module.parametrizations[name].original1 = parts["v"]
    return module


def group_norm(groups: int, channels: int, *, affine: bool = True) -> nn.GroupNorm:
    """``nn.GroupNorm``, with an error that names numbers of groups that fit.

    Raises:
        ValueError: the channels do not divide into the groups.
    """
    if groups < 1 or channels % groups:
        fits = ", ".join(str(g) for g in range(1, min(channels, 64) + 1) if channels % g == 0)
        raise ValueError(
            f"{channels} channels do not divide into {groups} groups of group normalisation. "
            f"Choose channels that are a multiple of {max(groups, 1)}, or groups out of: {fits}."
        )
    return nn.GroupNorm(groups, channels, affine=affine)
