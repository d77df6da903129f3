"""Any module as the target of a hypernetwork: its parameters become slots that generated tensors fill.

    y = target(weights, x)         one set of weights for all samples
    y = target.each(weights, x)    a set of weights for every sample

Injection is `torch.func.functional_call`: nothing is written into the module, so an exception leaves it as it was, and
gradients reach whatever made the weights. A batch of weight sets goes through `torch.func.vmap`, which costs about as
much as a batched matrix product or a grouped convolution written by hand (benchmarks/hypernet.py).
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

from zoo import _compat
from zoo.hypernet.products import exportable
from zoo.layers.autocast import vmap
from zoo.registry import unknown

_OBSTACLES = {
    "running statistics": "running statistics are updated in place, and sets of weights cannot share them: put "
    "nn.GroupNorm or nn.LayerNorm there, or call eval() on it.",
    "fused": "a fused kernel without a rule for batches of weights: write the cell with nn.Linear and a loop over "
    "time.",
    "power iteration": "its power iteration works in place: remove the parametrization, and bound the generated "
    "weights instead.",
}
Select = str | type[nn.Module] | Sequence[str | type[nn.Module]]

_CONV = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_NORM = (nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


class TargetError(ValueError):
    """A module, a selection or a set of weights that does not fit; the message says what would."""


class NotBatchable(TargetError):
    """A part of the target cannot take a batch of weight sets; the message names it and what to put in its place."""


@dataclass(frozen=True)
class Slot:
    """One parameter of the target that a generator fills.

    Attributes:
        name: dotted, as in ``module.named_parameters()``.
        shape: of the tensor.
        fan_in, fan_out: how many inputs make one output of the layer, and how many outputs one input takes part in.
            Those of the weight beside it for a bias; 1 for normalizations and embeddings.
        role: ``weight``, ``bias``, ``norm_scale``, ``norm_shift``, ``embedding`` or ``other``.
        layer: name of the class it belongs to ("Conv2d").
    """

    name: str
    shape: tuple[int, ...]
    fan_in: int
    fan_out: int
    role: str
    layer: str = ""

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


class HyperTarget(nn.Module):
    """A module whose selected parameters come from outside, one set of them or a batch of sets.

        >>> import torch
        >>> target = HyperTarget(nn.Linear(3, 2))
        >>> [(s.name, s.shape, s.role) for s in target.spec]
        [('weight', (2, 3), 'weight'), ('bias', (2,), 'bias')]
        >>> theta = {"weight": torch.randn(5, 2, 3), "bias": torch.randn(5, 2)}
        >>> target(theta, torch.randn(5, 7, 3), batched=True).shape    # five tasks of seven samples
        torch.Size([5, 7, 2])
        >>> target.each(theta, torch.randn(5, 3)).shape                # five samples, each with its own weights
        torch.Size([5, 2])

    The module is taken over: the selected parameters leave it (their values stay in ``initial``, for a generator's
    base), so that ``parameters()`` are those that still train as ordinary ones, and a call without weights fails
    instead of using stale ones. Buffers (running statistics) stay with the module.

    Args:
        module: any ``nn.Module``.
        select: which parameters to generate: a shell pattern on their dotted names ("*", "blocks.*.weight"), a class
            of layers (``nn.Conv2d``), or several of both.
        exclude: which of those to keep as ordinary parameters, given likewise.

    Attributes:
        spec: the slots, in the order of ``module.named_parameters()``.
        initial: the values that the selected parameters had, by name; detached. Not part of the state dict, and read
            only when a generator is made: ``initial.clear()`` frees their memory then.

    Raises:
        TargetError: a selection that matches nothing, a selected parameter that two layers share, one that is not
            floating point or not initialized yet, or no parameter at all.
    """

    spec: tuple[Slot, ...]
    initial: dict[str, Tensor]

    def __init__(self, module: nn.Module, select: Select = "*", exclude: Select = ()) -> None:
        super().__init__()
        owners = _owners(module)
        if not owners:
            raise TargetError(f"{type(module).__name__} has no parameters to generate.")
        names = _matching(module, owners, select, "select")
        names -= _matching(module, owners, exclude, "exclude")
        if not names:
            raise TargetError(f"exclude={exclude!r} leaves nothing of select={select!r} to generate.")
        _refuse_shared(module, names)
        for name in names:
            value = module.get_parameter(name)
            if isinstance(value, nn.UninitializedParameter):
                raise TargetError(f"{name!r} has no shape yet: run the lazy module on one batch first.")
            if not value.is_floating_point():
                raise TargetError(f"{name!r} is {value.dtype}; only floating point parameters can be generated.")
        chosen = [n for n in owners if n in names]
        self.spec = tuple(_slot(n, *owners[n]) for n in chosen)
        self.initial = {n: module.get_parameter(n).detach() for n in chosen}
        for name in chosen:  # a hole, not a stale value: the layer fails if it is called without its weights
            owner, local = owners[name]
            setattr(owner, local, None)
        self.module = module

    @property
    def numel(self) -> int:
        """How many numbers one set of weights has."""
        return sum(s.numel for s in self.spec)

    def forward(self, weights: Mapping[str, Tensor], *inputs: Any, batched: bool = False) -> Any:
        """Return the module's output with these weights.

        Args:
            weights: a tensor for every slot, of the slot's shape; with ``batched``, of shape (B, *shape).
            *inputs: the module's positional inputs. With ``batched`` every tensor has a leading axis B too, and set b
                meets ``inputs[b]``, which the module sees without that axis (a task of several samples). None and
                other values that are no tensors go to every call as they are.
            batched: whether there is a leading axis. Never guessed from shapes, so a batch of one is a batch.

        Raises:
            TargetError: a name is missing or unknown, or a shape does not fit.
            NotBatchable: see `preflight`.
        """
        sizes = self.check(weights, batched)
        if not batched:
            return self._call(dict(weights), inputs)
        for i, x in enumerate(inputs):
            if isinstance(x, Tensor) and (x.dim() == 0 or x.shape[0] != sizes):
                raise TargetError(
                    f"Input {i} of shape {tuple(x.shape)} does not pair with {sizes} sets of weights: its first axis "
                    f"must be {sizes}."
                )
        if problems := self.preflight():
            raise NotBatchable(" ".join(problems))
        names = [s.name for s in self.spec]
        # flat, and one number for all axes where that will do: vmap walks dictionaries and tuples leaf by leaf, which
        # costs small targets more than their layers
        flat = (*(weights[n] for n in names), *inputs)
        axes = tuple(0 if isinstance(x, Tensor) else None for x in flat)
        in_dims = axes if None in axes else 0

        def one(*x: Any) -> Any:
            with exportable():
                return self._call(dict(zip(names, x, strict=False)), x[len(names) :])

        try:
            return vmap(one, flat[0].device.type, in_dims=in_dims, randomness="different")(*flat)
        except RuntimeError as error:
            if not _compat.refused_by_vmap(error):
                raise
            raise NotBatchable(
                f"{type(self.module).__name__} cannot take a batch of weights, as torch.func.vmap cannot run it: "
                f"{str(error).splitlines()[0]} Use one set of weights at a time (batched=False), or rewrite that part "
                "without changing tensors in place and without reading numbers out of them."
            ) from error

    def _call(self, theta: dict[str, Tensor], inputs: tuple[Any, ...]) -> Any:
        # no slot is tied to another, as shared parameters are refused: torch need not walk the module to look for ties
        return functional_call(self.module, theta, inputs, tie_weights=False)

    def each(self, weights: Mapping[str, Tensor], *inputs: Any) -> Any:
        """Apply set b of the weights (B, *shape) to sample b of every input; the module sees batches of one.

        Returns:
            what the module returns for a batch of B samples: tensors, or nested tuples, lists and dictionaries of them.
        """
        out = self(weights, *(x.unsqueeze(1) if isinstance(x, Tensor) else x for x in inputs), batched=True)
        return _compat.pytree().tree_map(lambda y: y.squeeze(1) if isinstance(y, Tensor) else y, out)

    def check(self, weights: Mapping[str, Tensor], batched: bool) -> int:
        """Raise TargetError unless these weights fill every slot; returns how many sets there are."""
        wanted = {s.name: s.shape for s in self.spec}
        for name in weights:
            if name not in wanted:
                raise TargetError(unknown("slot", name, wanted))
        if missing := [n for n in wanted if n not in weights]:
            raise TargetError(f"The weights lack {', '.join(missing)}; every slot of the target must be filled.")
        first = weights[self.spec[0].name]
        lead = (first.shape[0],) if batched and first.dim() else ()
        for name, shape in wanted.items():
            if tuple(weights[name].shape) != (*lead, *shape) or (batched and not lead):
                want = ", ".join(map(str, ("B", *shape) if batched else shape))
                hint = "" if batched else " Say batched=True if the first axis counts sets of weights."
                raise TargetError(f"{name!r} has shape {tuple(weights[name].shape)}; expected ({want}).{hint}")
        return lead[0] if lead else 1

    def preflight(self) -> list[str]:
        """Return what keeps this target, as it is, from a batch of weights: a sentence for each kind, or none."""
        found: dict[str, list[str]] = {}
        for name, module in self.module.named_modules():
            if _compat.has_running_statistics(module) and module.training and module.track_running_stats:
                kind = "running statistics"
            elif isinstance(module, nn.RNNBase | nn.LSTMCell):
                kind = "fused"
            elif _compat.has_power_iteration(module):
                kind = "power iteration"
            else:
                continue
            found.setdefault(kind, []).append(f"{name or 'the module'} ({type(module).__name__})")
        return [
            f"{names[0]}{f' and {len(names) - 1} more' if names[1:] else ''}: {_OBSTACLES[kind]}"
            for kind, names in found.items()
        ]

    def extra_repr(self) -> str:
        return f"slots={len(self.spec)}, generated={self.numel:,}"


def _owners(module: nn.Module) -> dict[str, tuple[nn.Module, str]]:
    """Every parameter's name, also each name of a shared one, to the module that holds it and its name there."""
    return {
        f"{prefix}.{local}" if prefix else local: (owner, local)
        for prefix, owner in module.named_modules(remove_duplicate=False)
        for local, _ in owner.named_parameters(recurse=False, remove_duplicate=False)
    }


def _matching(module: nn.Module, owners: Mapping[str, tuple[nn.Module, str]], what: Select, argument: str) -> set[str]:
    """The names that a selection means; every part of it must match something."""
    parts = list(what) if isinstance(what, list | tuple | set) else [what]
    found: set[str] = set()
    for part in parts:
        if isinstance(part, str):
            hits = {n for n in owners if fnmatch.fnmatchcase(n, part)}
            if not hits:
                raise TargetError(f"{argument}={part!r} matches none: {unknown('parameter', part, owners)}")
        elif isinstance(part, type) and issubclass(part, nn.Module):
            hits = {n for n, (owner, _) in owners.items() if isinstance(owner, part)}
            if not hits:
                kinds = sorted({type(owner).__name__ for owner, _ in owners.values()})
                raise TargetError(
                    f"{argument}={part.__name__} matches none: {type(module).__name__} has parameters in "
                    f"{', '.join(kinds)}."
                )
        else:
            raise TargetError(f"{argument} takes patterns of names and classes of layers; got {part!r}.")
        found |= hits
    return found


def _refuse_shared(module: nn.Module, names: set[str]) -> None:
    """A generator fills slots one by one: two slots that are one tensor would come apart."""
    by_tensor: dict[int, list[str]] = {}
    for name, value in module.named_parameters(remove_duplicate=False):
        by_tensor.setdefault(id(value), []).append(name)
    for group in by_tensor.values():
        if len(group) > 1 and names & set(group):
            raise TargetError(
                f"{' and '.join(group)} are one shared parameter, which would come apart if it were generated: untie "
                f"it, or leave it an ordinary parameter with exclude={group!r}."
            )


def _slot(name: str, owner: nn.Module, local: str) -> Slot:
    """What a generator and its initialization need to know of a parameter."""
    shape = tuple(owner.get_parameter(local).shape)
    layer = type(owner).__name__
    if isinstance(owner, _NORM) or _compat.has_running_statistics(owner):
        return Slot(name, shape, 1, 1, "norm_shift" if local == "bias" else "norm_scale", layer)
    if isinstance(owner, nn.Embedding | nn.EmbeddingBag):
        return Slot(name, shape, 1, 1, "embedding", layer)
    if local.startswith("bias") or local.endswith("_bias"):
        beside = dict(owner.named_parameters(recurse=False)).get(local.replace("bias", "weight"))
        fans = _fans(owner, tuple(beside.shape)) if beside is not None and beside.dim() > 1 else (1, 1)
        return Slot(name, shape, *fans, "bias", layer)
    if len(shape) > 1 and math.prod(shape) > shape[0]:  # not the magnitudes (out, 1, 1) of weight normalization
        return Slot(name, shape, *_fans(owner, shape), "weight", layer)
    return Slot(name, shape, 1, 1, "other", layer)


def _fans(owner: nn.Module, shape: tuple[int, ...]) -> tuple[int, int]:
    """fan_in and fan_out of a weight (out, in, *kernel), or (in, out, *kernel) of a transposed convolution."""
    kernel = math.prod(shape[2:])
    if isinstance(owner, _TRANSPOSED):
        return shape[0] // owner.groups * kernel, shape[1] * kernel
    groups = owner.groups if isinstance(owner, _CONV) else 1
    return shape[1] * kernel, shape[0] // groups * kernel
