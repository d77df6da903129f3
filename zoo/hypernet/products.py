"""Convolutions as matrix products, for programs whose batch of generated weights is of any size.

`torch.func.vmap` makes one grouped convolution of a batch of kernels, with as many groups as there are samples; an
exported program would keep that number. As products of patches, ``W @ unfold(x)``, the batch is an axis like others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

NAMES = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")


class ConvolutionsAsProducts(TorchFunctionMode):
    """Scope in which plain 2-d convolutions are computed as products; others stay as they are."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = {**dict(zip(NAMES, args, strict=False)), **(kwargs or {})}
        plain = func is torch.conv2d or func is F.conv2d
        if plain and given.get("groups", 1) == 1 and not isinstance(given.get("padding", 0), str):
            with torch._C.DisableTorchFunction():
                return product(**given)
        return func(*args, **(kwargs or {}))


def product(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """``F.conv2d`` of (B, C, H, W) with one kernel (O, C, h, w), as a product with its patches; ``groups`` is 1."""
    pads, gaps, steps = [(v, v) if isinstance(v, int) else tuple(v) for v in (padding, dilation, stride)]
    x = F.pad(input, (pads[1], pads[1], pads[0], pads[0]))
    rows, columns = [
        [slice(i * d, n - (k - 1 - i) * d, s) for i in range(k)]
        for n, k, d, s in zip(x.shape[-2:], weight.shape[-2:], gaps, steps, strict=True)
    ]
    patches = torch.stack([x[..., row, column] for row in rows for column in columns], -3)  # (B, C, h w, H', W')
    out = weight.flatten(1) @ patches.flatten(-2).flatten(-3, -2)
    return (out if bias is None else out + bias[:, None]).unflatten(-1, patches.shape[-2:])


def exportable() -> Any:
    """The scope in which a batch of weights is applied: of products, where a program is exported."""
    return ConvolutionsAsProducts() if torch.compiler.is_exporting() else nullcontext()
