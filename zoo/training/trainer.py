"""The Trainer of a run: the zoo's own callbacks and loggers, beside those of the user."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from zoo.callbacks.checkpointing import BestAndLastCheckpoint
from zoo.callbacks.console_progress import ConsoleProgress
from zoo.callbacks.convergence_monitor import ConvergenceMonitor
from zoo.callbacks.epoch_means import EpochMeans
from zoo.callbacks.missing_gradients import MissingGradients
from zoo.callbacks.optimizer_options import OptimizerOptions
from zoo.callbacks.per_step_seed import PerStepSeed
from zoo.callbacks.profile import Profile
from zoo.callbacks.telemetry import SolverTelemetry
from zoo.callbacks.warmup import UnrollWarmup
from zoo.callbacks.weight_ema import WeightEMA
from zoo.registry import sentence
from zoo.training.errors import UsageError
from zoo.training.metrics_log import MetricsLog
from zoo.training.options import Options
from zoo.training.request import Request


def make_trainer(
    options: Options, request: Request, folder: Path, keeper: BestAndLastCheckpoint, log: MetricsLog
) -> Trainer:
    """Make the Trainer; a logger or a callback of the user stands beside the zoo's own, never in their place.

    Raises:
        UsageError: an option is out of its range, or asks for hardware or a package that is not there.
    """
    try:
        average = WeightEMA(**options.section("ema"))
        arguments = options.trainer(folder)
    except (ImportError, ValueError, TypeError, OSError, RuntimeError) as error:
        raise UsageError(
            f"a callback, logger or other part of the Trainer cannot be made: {sentence(error)}"
        ) from error
    own: list[Callback] = [
        PerStepSeed(request.seed),
        UnrollWarmup(),
        SolverTelemetry(),
        ConvergenceMonitor(),
        MissingGradients(),
        EpochMeans(),
        *([OptimizerOptions()] if request.resume else []),
        *([average] if average.decay else []),
        keeper,
    ]
    if "profile" in request.switches:
        own.append(Profile(folder))
    if arguments.get("enable_progress_bar") is not False:
        own.append(ConsoleProgress())
    arguments["callbacks"] = own + _list(arguments.pop("callbacks", None))
    given = arguments.pop("logger", None)
    loggers: list[Logger] = [log]
    if given is not False:
        loggers += _tensorboard(folder)
    arguments["logger"] = loggers + _list(None if isinstance(given, bool) else given)
    _check_devices(arguments.get("accelerator"), arguments.get("devices"))
    try:
        return Trainer(default_root_dir=folder, **arguments)
    except (MisconfigurationException, ValueError, TypeError) as error:
        raise UsageError(f"the Trainer refuses its options: {sentence(error)}") from error


def _check_devices(accelerator: Any, devices: Any) -> None:
    """Refuse a list of GPUs where there is none; Lightning fails on it without a word."""
    numbers = devices if isinstance(devices, list) else None
    if numbers is not None and accelerator in (None, "auto") and not torch.accelerator.is_available():
        raise UsageError(
            f"--trainer.devices {numbers} names devices by their numbers, but this machine has no accelerator; give a "
            "count of processes, --trainer.devices 1"
        )


def _list(given: Any) -> list[Any]:
    if given is None:
        return []
    return list(given) if isinstance(given, (list, tuple)) else [given]


def _tensorboard(folder: Path) -> list[Logger]:
    try:
        return [TensorBoardLogger(folder, name="", version="tensorboard")]
    except ImportError:  # neither tensorboard nor tensorboardX is installed: metrics.csv holds the same numbers
        return []
