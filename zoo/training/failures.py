"""The errors that end a run, and what each tells its reader to do next."""

from __future__ import annotations

import os

import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch._dynamo.exc import TorchDynamoException

from zoo.callbacks.convergence_monitor import SolverStopped
from zoo.data.files import DataError
from zoo.hub import cards
from zoo.registry import UnknownName
from zoo.solvers.base import SolveError
from zoo.storage.model_folder import WeightsError
from zoo.tasks.base import NonFiniteError
from zoo.training.errors import UsageError

FAILED = (
    DataError,
    WeightsError,
    SolverStopped,
    NonFiniteError,
    SolveError,
    MisconfigurationException,
    ValueError,
    OSError,
    torch.OutOfMemoryError,
)


class Lost(RuntimeError):
    """Another process of the run, or one that loads data, has ended; it has been said."""


def lost_process(error: RuntimeError) -> str:
    """What to do where another process broke this one; empty where the error is our own."""
    text = str(error)
    if "DataLoader worker" in text:
        return "A worker that loads data crashed; --data.num_workers 0 loads in this process and says why."
    closed = any(word in text for word in ("closed by peer", "reset by peer", "Broken pipe", "Socket closed"))
    if closed or isinstance(error, torch.distributed.DistError):
        return (
            "A process of the run ended, so that the others cannot go on. The newest checkpoint is whole: the same "
            "command with --resume last (or auto) continues."
        )
    return ""


def not_compilable(error: RuntimeError) -> str:
    """What to do where ``--compile`` did not work out; empty where it is not to blame."""
    if isinstance(error, TorchDynamoException):
        return "The map could not be compiled on this machine; leave --compile out."
    if "does not currently support double backward" in str(error):
        return "The solver or adjoint differentiates the map twice, and compiled code only once: leave --compile out."
    return ""


def torchrun_restarts() -> str:
    """What would keep torchrun from starting the processes again; empty where nothing does.

    Its agent keeps one store for all attempts, so that a process that is started again may find, and wait for, the
    address of one that has died.
    """
    shared = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if not shared or os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") == "0":
        return ""
    return (
        "after a restart by torchrun the processes may wait for each other for ever, as its store keeps the addresses "
        "of those before; start torchrun with TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in its environment"
    )


REFUSED = (UsageError, UnknownName, cards.CardError)
