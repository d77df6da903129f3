"""Names for what a solve does, in the traces of torch's profiler; nothing while no profiler is on."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from torch.autograd.profiler import record_function

from zoo._compat import profiler_is_on


def profile_scope(name: str) -> AbstractContextManager[object]:
    """A scope that a trace shows as ``zoo: name``."""
    return record_function(f"zoo: {name}") if profiler_is_on() else nullcontext()
