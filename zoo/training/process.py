"""What a process that computes is set to before torch is loaded; a setting of the user's own always stands.

Imports no torch.
"""

from __future__ import annotations

import ctypes
import os

TRIM, MAP = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of glibc's malloc.h


def prepare() -> None:
    """Threads that sleep while they wait, and an allocator that keeps what a step will need again.

    On a busy machine, threads that spin made a small model ten times slower or worse. And glibc gives the top of its
    heap back to the system whenever that much is free, only to ask for it in the next evaluation, page by page: one
    training step of a multiscale DEQ on 28x28 images took 2.5 million page faults in ten, and 14 % longer.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read once, when torch is loaded
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc
        return
    mallopt(TRIM, 2**31 - 1)
    mallopt(MAP, 2**25)  # the most that it takes; what is larger is mapped by itself, and given back
