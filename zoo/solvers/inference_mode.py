"""Derivatives within ``torch.inference_mode``, in which Lightning tests and predictions are made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def derivatives(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Scope in which derivatives can be taken even within ``torch.inference_mode``.

    There, forward mode finds no tangents, *without a word*, and reverse mode refuses the tensors.

    Yields:
        the tensors, or copies of them that take part in derivatives.
    """
    if not (torch.is_inference_mode_enabled() or any(x.is_inference() for x in tensors)):
        yield tensors
        return
    grad = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.set_grad_enabled(grad):  # leaving inference mode would record a graph
        yield tuple(x.clone() if x.is_inference() else x for x in tensors)
