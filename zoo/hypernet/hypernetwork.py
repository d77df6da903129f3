"""A generator and its target as one module, and how to pay little memory for them.

    y = target(generator(code), x)

A batch of weight sets is large, B times the target, and the backward pass wants all of it. Rematerialized, only codes
and inputs are kept, and the weights are generated again when the backward pass comes by; in microbatches, only some
sets exist at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from zoo import _compat
from zoo.hypernet.generators.base import Generator
from zoo.hypernet.target import HyperTarget, TargetError


class HyperNetwork(nn.Module):
    """``code, x -> target(generator(code), x)``.

        >>> target = HyperTarget(nn.Linear(3, 2))
        >>> net = HyperNetwork(target, Generator(target, code_size=4))
        >>> net(torch.randn(4), torch.randn(7, 3)).shape                          # one code for all samples
        torch.Size([7, 2])
        >>> net(torch.randn(5, 4), torch.randn(5, 7, 3), batched=True).shape      # five tasks of seven samples
        torch.Size([5, 7, 2])
        >>> net.each(torch.randn(5, 4), torch.randn(5, 3)).shape                  # a code for every sample
        torch.Size([5, 2])

    Args:
        target, generator: the two; the generator was made for this target.
        rematerialise: generate and apply once more in the backward pass instead of keeping weights and activations.
        microbatch: how many codes to treat at a time; 0 for all. It bounds the memory of the moment, and with
            ``rematerialise`` that of the whole step.

    Raises:
        ValueError: the generator fills other slots than the target has, or a negative microbatch.
    """

    def __init__(
        self, target: HyperTarget, generator: Generator, *, rematerialise: bool = False, microbatch: int = 0
    ) -> None:
        super().__init__()
        if generator.slots != target.spec:
            raise ValueError("This generator was made for another target: it fills other slots.")
        if microbatch < 0:
            raise ValueError(f"microbatch must be at least 0; got {microbatch}.")
        self.target, self.generator = target, generator
        self.rematerialise, self.microbatch = rematerialise, microbatch

    def forward(self, code: Tensor | None, *inputs: Any, batched: bool = False) -> Any:
        """Apply the target with the weights of a code (C,); with ``batched``, those of codes[b] of (B, C) to inputs[b].

        Raises:
            TargetError: see `HyperTarget`; or a target that updates running statistics would be run twice.
        """
        if not batched:
            if code is not None and code.dim() != 1:
                raise TargetError(
                    f"One code of shape (C,) makes one set of weights; got {tuple(code.shape)}. Say batched=True for "
                    "a code for each of the inputs' first axis, or use each() for a code for every sample."
                )
            return self._run(lambda c, *x: self.target(self.generator(c), *x), code, *inputs)
        return self._parts(lambda c, *x: self.target(self.generator(c), *x, batched=True), code, inputs)

    def each(self, code: Tensor, *inputs: Any) -> Any:
        """Apply the weights of code b of (B, C) to sample b of the inputs."""
        return self._parts(lambda c, *x: self.target.each(self.generator(c), *x), code, inputs)

    def _parts(self, call: Callable[..., Any], code: Tensor | None, inputs: tuple[Any, ...]) -> Any:
        """A call for each microbatch of codes, put together."""
        if code is None or code.dim() != 2:
            got = "none" if code is None else tuple(code.shape)
            raise TargetError(f"A batch of codes has the shape (B, C); got {got}.")
        size = self.microbatch or len(code)
        if len(code) <= size:
            return self._run(call, code, *inputs)
        parts = []
        for k in range(0, len(code), size):
            cut = [x[k : k + size] if isinstance(x, Tensor) else x for x in inputs]
            parts.append(_compat.pytree().tree_flatten(self._run(call, code[k : k + size], *cut)))
        leaves = [torch.cat(same) for same in zip(*(p[0] for p in parts), strict=True)]
        return _compat.pytree().tree_unflatten(leaves, parts[0][1])

    def _run(self, call: Callable[..., Any], *arguments: Any) -> Any:
        if not (self.rematerialise and torch.is_grad_enabled()):
            return call(*arguments)
        for name, module in self.target.named_modules():
            if self.training and _compat.has_running_statistics(module) and module.track_running_stats:
                raise TargetError(
                    f"{name} ({type(module).__name__}) would update its running statistics twice, as a rematerialized "
                    "target runs again in the backward pass: put nn.GroupNorm in its place, or set rematerialise=False."
                )
        return checkpoint(call, *arguments, use_reentrant=False)

    def extra_repr(self) -> str:
        return f"rematerialise={self.rematerialise}, microbatch={self.microbatch}"
