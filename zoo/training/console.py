"""What a command shows and what stops it: Lightning's chatter left out, warnings as one line, signals obeyed."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from zoo.callbacks.checkpointing import BestAndLastCheckpoint
from zoo.callbacks.convergence_monitor import SolverWarning
from zoo.training.run_folder import rank


@contextlib.contextmanager
def signals(keeper: BestAndLastCheckpoint) -> Iterator[Callable[[], None]]:
    """Ctrl-C and SIGTERM stop the run after the running step; a second Ctrl-C stops it now.

    Lightning sets a handler of its own for SIGTERM when it starts, which talks to the other processes from within
    whatever this one is in the midst of, a collective too, and then all of them hang. What is yielded sets ours again.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    asked: list[int] = []

    def stop(signum: int, frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(signum)
        keeper.stop(signum)
        if rank() == 0:
            print("\nStopping after this step; press Ctrl-C again to stop now.", file=sys.stderr, flush=True)

    def install() -> None:
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, stop)

    old = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    install()
    try:
        yield install
    finally:
        for s, handler in old.items():
            signal.signal(s, handler)


class _Output:
    """Standard output that may be closed by its reader, as in ``| head``: what follows is lost, the run is not."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            return self._lost(len(text))

    def flush(self) -> None:
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._lost(0)

    def _lost(self, count: int) -> int:
        with contextlib.suppress(OSError, ValueError):  # later writes, and that of the interpreter's end, go nowhere
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
        return count

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def lasting_output() -> Iterator[None]:
    """Let a reader close standard output without an error here."""
    stream = sys.stdout
    sys.stdout = _Output(stream)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.stdout.flush()
        sys.stdout = stream


@contextlib.contextmanager
def quiet(prog: str) -> Iterator[None]:
    """Leave out what Lightning says to everybody; show our own warnings as one line each."""
    names = ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero")
    levels = {n: logging.getLogger(n).level for n in names}
    for n in names:
        logging.getLogger(n).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        for text in (
            ".*does not have many workers.*",
            ".*litlogger.*",
            ".*LeafSpec.*",
            ".*number of training batches.*",
            ".*across ranks is zero.*",
            ".*IProgress not found.*",
            ".*functional.all_gather is deprecated.*",
        ):
            warnings.filterwarnings("ignore", message=text)
        warnings.filterwarnings("always", category=SolverWarning)
        shown = warnings.showwarning

        def show(message: Any, category: Any, *rest: Any, **more: Any) -> None:
            if issubclass(category, SolverWarning):
                print(f"{prog}: warning: {message}", file=sys.stderr, flush=True)
            else:
                shown(message, category, *rest, **more)

        warnings.showwarning = show
        try:
            yield
        finally:
            for n, level in levels.items():
                logging.getLogger(n).setLevel(level)
