"""The second stage of ``python -m zoo.fit``: build what was named, train it, test it, and say how it went.

`fit` does the same from Python and returns the results.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer

from zoo.callbacks.checkpointing import BestAndLastCheckpoint, Interrupted
from zoo.callbacks.console_progress import ConsoleProgress
from zoo.callbacks.convergence_monitor import ConvergenceMonitor
from zoo.callbacks.missing_gradients import MissingGradients
from zoo.callbacks.per_step_seed import PerStepSeed
from zoo.callbacks.profile import Profile
from zoo.callbacks.telemetry import SolverTelemetry
from zoo.callbacks.warmup import UnrollWarmup
from zoo.storage.checkpoint import read_checkpoint
from zoo.storage.files import dump_yaml, write_json, write_yaml
from zoo.training.build import build_run, plain_options
from zoo.training.compile import compile_maps
from zoo.training.console import quiet, signals
from zoo.training.environment import environment
from zoo.training.errors import UsageError
from zoo.training.failures import FAILED, REFUSED, Lost, lost_process, not_compilable, sentence, torchrun_restarts
from zoo.training.metrics_log import MetricsLog
from zoo.training.options import Options
from zoo.training.request import PROG, Request
from zoo.training.results import Record, metrics
from zoo.training.run_folder import RUNS, new_folder, rank
from zoo.training.summary import interrupted, opening

FOLDER = "ZOO_RUN_FOLDER"  # tells the processes of one run the folder that the first one chose


def main(request: Request) -> int:
    """Run a request of the first stage; returns the exit code."""
    try:
        if {"help", "help-all"} & request.switches:
            print(Options(request).help(everything="help-all" in request.switches))
        elif "print_config" in request.switches:
            print(dump_yaml({**Options(request).config(), **plain_options(request)}), end="")
        else:
            run_training(request)
    except Interrupted as stop:
        return 128 + stop.signum
    except Lost:
        return 1
    except REFUSED:
        raise
    except FAILED as error:
        print(f"{PROG}: error: {sentence(error)}", file=sys.stderr)
        return 1
    except RuntimeError as error:
        help = not_compilable(error)
        if not help:
            raise
        print(f"{PROG}: error: {sentence(error)} {help}", file=sys.stderr)
        return 1
    return 0


def run_training(request: Request) -> dict[str, Any]:
    """Train, test, and write the run folder; returns what ``results.json`` holds."""
    options = Options(request)
    with quiet(PROG):
        try:
            task, data, derived = build_run(options, request.seed, fresh=not request.resume)
            if "compile" in request.switches:
                compile_maps(task.model)
        except ValueError as error:
            raise UsageError(sentence(error)) from error
        saved = {**options.config(derived), **plain_options(request)}
        task.save_hyperparameters({"config": json.loads(json.dumps(saved))}, logger=False)
        if rank() == 0:
            data.prepare_data()  # a file that is missing is said before a run folder is made
        folder = _folder(request, options)
        keeper = BestAndLastCheckpoint(folder / "checkpoints", task.monitor, task.maximise)
        before, step = _resumed(request, folder) if request.resume else (None, 0)
        log = MetricsLog(folder, before, step, keeper.elapsed)
        trainer = _trainer(options, request, folder, keeper, log)
        atexit.register(_leave)
        if rank() == 0:
            write_yaml(folder / "config.yaml", saved)
            write_json(folder / "environment.json", {"command": " ".join(sys.argv), **environment()})
            print(opening(task, data, options, trainer, folder, request), flush=True)
            if restarts := torchrun_restarts():
                print(f"{PROG}: warning: {restarts}", file=sys.stderr, flush=True)
        record = Record(folder, options, request, task, data, trainer, keeper, log)
        try:
            with signals(keeper):
                trainer.fit(task, datamodule=data, ckpt_path=request.resume, weights_only=True)
                record.training = metrics(trainer)
                trainer.test(task, datamodule=data, ckpt_path=keeper.best, weights_only=True, verbose=False)
            return record.finish("finished")
        except (Interrupted, KeyboardInterrupt, SystemExit):
            record.finish("interrupted")
            if rank() == 0:
                print(interrupted(folder, keeper, trainer), flush=True)
            raise Interrupted(keeper.stopping or signal.SIGINT) from None
        except Exception as error:
            lost = lost_process(error) if isinstance(error, RuntimeError) else ""
            if lost:  # said before anything else: Lightning kills this process within seconds of another's end
                print(f"{PROG}: error: {sentence(error)} {lost}", file=sys.stderr, flush=True)
            (folder / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")
            record.finish("failed", error)
            if lost:
                raise Lost(f"{sentence(error)} {lost}") from error
            raise


def _leave() -> None:
    """Close the processes' connections before the interpreter ends; Lightning does so for NCCL only.

    Left open, gloo's threads now and then abort a process that has done all its work.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _trainer(
    options: Options, request: Request, folder: Path, keeper: BestAndLastCheckpoint, log: MetricsLog
) -> Trainer:
    arguments = options.trainer()
    own: list[Callback] = [
        PerStepSeed(request.seed),
        UnrollWarmup(),
        SolverTelemetry(),
        ConvergenceMonitor(),
        MissingGradients(),
        keeper,
    ]
    if "profile" in request.switches:
        own.append(Profile(folder))
    if arguments.get("enable_progress_bar") is not False:
        own.append(ConsoleProgress())
    extra = arguments.pop("callbacks", None) or []
    arguments["callbacks"] = own + (extra if isinstance(extra, list) else [extra])
    if arguments.get("logger") in (None, True):
        arguments["logger"] = [log, *_tensorboard(folder)]
    return Trainer(default_root_dir=folder, **arguments)


def _tensorboard(folder: Path) -> list[Any]:
    try:
        from lightning.pytorch.loggers import TensorBoardLogger

        return [TensorBoardLogger(folder, name="", version="tensorboard")]
    except ImportError:  # neither tensorboard nor tensorboardX is installed: metrics.csv holds the same numbers
        return []


def _folder(request: Request, options: Options) -> Path:
    """The run folder, made and found writable before anything is computed; the same one in every process."""
    if rank() != 0 and FOLDER in os.environ:
        return Path(os.environ[FOLDER])
    if request.out is None and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("several processes share one run: say where with --out DIR")
    name = f"{options.names['model']}_{options.names['data']}"
    folder = request.out or new_folder(RUNS, name)
    try:
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe{rank()}"  # one for each process: another's must not be taken away
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UsageError(f"cannot write the run to {folder}: {error.strerror}; choose another --out") from error
    os.environ[FOLDER] = str(folder)
    return folder


def _resumed(request: Request, folder: Path) -> tuple[Path, int]:
    """Check the checkpoint and bring the best one along; returns the metrics' file, and the step to take them up to."""
    try:
        step = int(read_checkpoint(request.resume).get("global_step", 0))  # type: ignore[arg-type]
    except ValueError as error:
        raise UsageError(f"cannot resume: {sentence(error)}") from error
    was = request.resume.parents[1]  # type: ignore[union-attr]
    if was.resolve() != folder.resolve() and (was / "checkpoints" / "best.ckpt").is_file():
        shutil.copy2(was / "checkpoints" / "best.ckpt", folder / "checkpoints" / "best.ckpt")
    return was / "metrics.csv", step
