"""Private touches of torch, tried on 2.14.1. It is imported inside the functions: names and help need no torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

F = TypeVar("F", bound=Callable[..., Any])


def has_running_statistics(module: Any) -> bool:
    """Whether a module is a batch or instance normalization. Tried on torch 2.14.1 (their base, `_NormBase`)."""
    from torch.nn.modules.batchnorm import _NormBase

    return isinstance(module, _NormBase)


def has_power_iteration(module: Any) -> bool:
    """Whether a module updates the vectors of a spectral norm at each call, in either form. Tried on torch 2.14.1."""
    from torch.nn.utils.parametrizations import _SpectralNorm
    from torch.nn.utils.spectral_norm import SpectralNorm

    hooks = module._forward_pre_hooks.values()
    return isinstance(module, _SpectralNorm) or any(isinstance(hook, SpectralNorm) for hook in hooks)


def refused_by_vmap(error: RuntimeError) -> bool:
    """Whether `torch.func.vmap` has no rule for an operation, which the text alone says. Tried on torch 2.14.1."""
    return any(sign in str(error).lower() for sign in ("vmap", "batching rule", "batchedtensor"))


def under_transform(tensor: Any) -> bool:
    """Whether a tensor is one of `torch.func`'s, without values of its own. Tried on torch 2.14.1."""
    import torch

    return bool(torch._C._functorch.is_functorch_wrapped_tensor(tensor))


def pytree() -> Any:
    """Return torch's functions on nested lists, tuples and dictionaries. Tried on torch 2.14.1 (`_pytree`)."""
    from torch.utils import _pytree

    return _pytree


def set_reduction(module: Any, reduce: Any) -> None:
    """Have a parametrized module, whose class refuses it, pickled by ``reduce(module)``. Tried on torch 2.14.1."""

    def reduced(self: Any, protocol: Any) -> Any:
        return reduce(self)

    kind: Any = type(module)
    kind.__reduce_ex__ = reduced


def state_without_parametrizations(module: Any) -> dict[str, Any]:
    """Return a module's attributes, less its parametrizations and the hook that they hung on it. Tried on torch 2.14.1.

    The hook, which reads older state dicts of weight norm, is a local function: parametrizing again registers it.
    """
    hooks = module._load_state_dict_pre_hooks
    kept = type(hooks)((k, h) for k, h in hooks.items() if "<locals>" not in str(h.hook))
    modules = {k: m for k, m in module._modules.items() if k != "parametrizations"}
    return {**module.__dict__, "_modules": modules, "_load_state_dict_pre_hooks": kept}


def eager_call(module: Any) -> Any:
    """How a module is called where it was not compiled: with its hooks. Tried on torch 2.14.1 (`nn.Module`)."""
    return module._call_impl


def compiled_call(module: Any) -> Any:
    """How a module is called after `nn.Module.compile`. Tried on torch 2.14.1."""
    return module._compiled_call_impl


def set_compiled_call(module: Any, call: Any) -> None:
    """Have a module that was compiled be called by another function. Tried on torch 2.14.1.

    `nn.Module.__call__` looks for this attribute, and a copy or a saved module leaves it out.
    """
    module._compiled_call_impl = call


def allow_variants(count: int) -> None:
    """Let compiled code have so many variants of one function, and recorded evaluations be used more than once.

    The spectral radius takes many products with one recorded evaluation, whose tensors no product may overwrite. Tried
    on torch 2.14.1 (`torch._dynamo.config`, `torch._functorch.config`).
    """
    import torch._dynamo.config
    import torch._functorch.config

    torch._functorch.config.donated_buffer = False
    torch._dynamo.config.recompile_limit = max(count, torch._dynamo.config.recompile_limit)


def refuses_saved_tensor_hooks(error: RuntimeError) -> bool:
    """Return whether torch.func says that it cannot run within saved-tensor hooks, which its text only tells.

    Tried on torch 2.14.1.
    """
    return "saved tensor hooks" in str(error)


def will_execute(node: Any) -> bool:
    """Whether the backward pass that runs now will reach a node of the graph. Tried on torch 2.10 to 2.14.1.

    torch's own ``register_multi_grad_hook`` asks the same. False outside of a backward pass.
    """
    import torch

    try:
        return bool(torch._C._will_engine_execute_node(node))
    except RuntimeError:
        return False


def inside_transform() -> bool:
    """Whether a transform of torch.func (grad, vjp, vmap, ...) is at work. Tried on torch 2.14.1."""
    import torch

    return torch._C._functorch.peek_interpreter_stack() is not None


def forward_mode_is_on() -> bool:
    """Whether tangents of torch.autograd.forward_ad are carried along now. Tried on torch 2.14.1."""
    from torch.autograd import forward_ad

    return forward_ad._current_level >= 0


def profiler_is_on() -> bool:
    """Whether a profiler of torch records; torch promises no name for it. Tried on torch 2.14.1."""
    import torch

    return bool(torch.autograd._profiler_enabled())


def opaque(f: F) -> F:
    """A function that `torch.compile` leaves as it is: what is compiled around it breaks off there, and goes on after.

    The public ``torch.compiler.disable`` imports Dynamo at once, which takes a second; this one waits until the first
    call, as torch's own checkpointing has it. Tried on torch 2.14.1.
    """
    import torch

    return cast(F, torch._disable_dynamo(f))
