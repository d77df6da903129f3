"""What a backward pass must find as the forward pass left it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch


def recall_autocast(device: str) -> Callable[[], AbstractContextManager[None]]:
    """A context, to be entered as often as needed, in which autocast is as it is now."""
    enabled, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    return lambda: torch.autocast(device, dtype=dtype, enabled=enabled)
