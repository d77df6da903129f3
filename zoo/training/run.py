"""Train: build what was asked for, train it, test it, and write the run folder.

`main` does so for a command line, `run_training` for Python.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from zoo.callbacks.checkpointing import BestAndLastCheckpoint, Interrupted
from zoo.registry import sentence
from zoo.storage.files import dump_yaml, write_json, write_yaml
from zoo.training.build import build_run, plain_options
from zoo.training.compile import compile_maps
from zoo.training.console import lasting_output, quiet, signals
from zoo.training.environment import environment
from zoo.training.errors import UsageError
from zoo.training.failures import FAILED, REFUSED, Lost, lost_process, not_compilable, torchrun_restarts
from zoo.training.finished import Run
from zoo.training.loaders import has_test
from zoo.training.metrics_log import MetricsLog
from zoo.training.options import Options
from zoo.training.options_help import options_help
from zoo.training.request import PROG, Request
from zoo.training.results import Session, metrics, write_results
from zoo.training.resume import Checkpoint, check_loops, check_resume
from zoo.training.run_folder import RUNS, locked, new_folder, rank
from zoo.training.summary import closing, interrupted, opening
from zoo.training.trainer import make_trainer

FOLDER = "ZOO_RUN_FOLDER"  # tells the processes of one run the folder that the first one chose


def main(request: Request) -> int:
    """Run a request of the command line; return the exit code."""
    try:
        if {"help", "help-all"} & request.switches:
            with lasting_output():
                print(options_help(Options(request), everything="help-all" in request.switches))
        elif "print_config" in request.switches:
            with lasting_output():
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


def run_training(request: Request) -> Run:
    """Train, test, and write the run folder.

    Raises:
        UsageError, UnknownName: the request cannot be run; nothing was written.
        Interrupted: a signal stopped the run; its state was saved.
    """
    options = Options(request)
    with quiet(PROG), lasting_output():
        try:
            task, data, derived = build_run(options, request.seed, fresh=not request.resume)
            if "compile" in request.switches:
                compile_maps(task.model)
        except ValueError as error:
            raise UsageError(sentence(error)) from error
        saved = {**options.config(derived), **plain_options(request)}
        task.save_hyperparameters({"config": json.loads(json.dumps(saved))}, logger=False)
        before = check_resume(request.resume, task, saved) if request.resume else None
        if rank() == 0 and "data" not in options.instances:
            data.prepare_data()  # a file that is missing is named before a run folder is made
        with _run_folder(request, options) as folder:
            keeper = BestAndLastCheckpoint(folder / "checkpoints", task.monitor, task.maximise)
            log = _log(folder, before, keeper)
            trainer = make_trainer(options, request, folder, keeper, log)
            run = Session(folder, options, request, task, data, trainer, keeper, log)
            return _train(run, before, saved)


def _train(run: Session, before: Checkpoint | None, saved: dict[str, Any]) -> Run:
    """Fit and test; what is written at the end says how it went."""
    atexit.unregister(_leave)
    atexit.register(_leave)

    def begin() -> None:
        if not run.begun:
            run.begun = True
            _begin(run, before, saved)

    trainer, keeper = run.trainer, run.keeper
    if before is None:
        begin()
    else:  # nothing of the run is replaced before its state has been taken up
        check_loops(before.content["loops"].get("fit_loop", {}), trainer.fit_loop.state_dict())
    try:
        with signals(keeper) as install:
            started = _WhenTrainingBegins(install, begin)
            trainer.callbacks.insert(0, started)  # type: ignore[attr-defined]  # Lightning's class sets it elsewhere
            trainer.fit(run.task, datamodule=run.data, ckpt_path=before.file if before else None, weights_only=True)
            run.training = metrics(trainer)
            if has_test(run.data) and trainer.strategy.broadcast(keeper.best.is_file()):
                trainer.test(run.task, datamodule=run.data, ckpt_path=keeper.best, weights_only=True, verbose=False)
        results = write_results(run, "finished")
        if rank() == 0 and run.begun:
            print(closing(run, results), flush=True)
        return Run(results, run.folder, run.task, run.data, named=not run.options.instances)
    except (Interrupted, KeyboardInterrupt, SystemExit):
        write_results(run, "interrupted")
        if rank() == 0:
            print(interrupted(run), flush=True)
        raise Interrupted(keeper.stopping or signal.SIGINT) from None
    except Exception as error:
        lost = lost_process(error) if isinstance(error, RuntimeError) else ""
        if lost:  # said before anything else: Lightning kills this process within seconds of another's end
            print(f"{PROG}: error: {sentence(error)} {lost}", file=sys.stderr, flush=True)
        if not run.begun and not lost:
            raise UsageError(
                f"cannot resume: {before.file if before else ''} is damaged or of another version "
                f"({type(error).__name__}: {sentence(error)}); nothing of the run was changed"
            ) from error
        (run.folder / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")
        write_results(run, "failed", error)
        if lost:
            raise Lost(f"{sentence(error)} {lost}") from error
        raise


def _begin(run: Session, before: Checkpoint | None, saved: dict[str, Any]) -> None:
    """Write what the run is, and say so; from here on the folder's records are this run's."""
    if rank() != 0:
        return
    if before is not None:
        before.bring_best(run.folder)
    run.log.begin()
    write_yaml(run.folder / "config.yaml", saved)
    write_json(run.folder / "environment.json", {"command": " ".join(sys.argv), **environment()})
    flat = flatten({k: v for k, v in saved.items() if k != "trainer"})
    for logger in run.trainer.loggers:
        logger.log_hyperparams(flat)
    print(opening(run), flush=True)
    if restarts := torchrun_restarts():
        print(f"{PROG}: warning: {restarts}", file=sys.stderr, flush=True)


def flatten(tree: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Nested options as one mapping of dotted names, as loggers take hyperparameters.

    >>> flatten({"optim": {"lr": 0.1}, "seed": 0})
    {'optim.lr': 0.1, 'seed': 0}
    """
    out: dict[str, Any] = {}
    for key, value in tree.items():
        out |= flatten(value, f"{above}{key}.") if isinstance(value, dict) else {f"{above}{key}": value}
    return out


class _WhenTrainingBegins(Callback):
    """Call functions once the state of a resumed run has been taken up, before anything is trained or validated."""

    def __init__(self, *calls: Callable[[], None]) -> None:
        self._calls = calls

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for call in self._calls:
            call()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for call in self._calls:
            call()


def _log(folder: Path, before: Checkpoint | None, keeper: BestAndLastCheckpoint) -> MetricsLog:
    if before is None:
        return MetricsLog(folder, clock=keeper.elapsed)
    return MetricsLog(folder, before.folder / "metrics.csv", before.step, keeper.elapsed)


def _leave() -> None:
    """Close the processes' connections before the interpreter ends; Lightning does so for NCCL only.

    Left open, gloo's threads now and then abort a process that has done all its work.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@contextlib.contextmanager
def _run_folder(request: Request, options: Options) -> Iterator[Path]:
    """The run folder, made and found writable before anything is computed; the same one in every process.

    Folders that were made and stayed empty go again, where the run could not begin.
    """
    if rank() != 0 and FOLDER in os.environ:
        yield Path(os.environ[FOLDER])
        return
    if request.out is None and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("several processes share one run: say where with --out DIR")
    name = "_".join(options.names[k].replace(":", "_").replace(" ", "_") for k in ("model", "data"))
    folder = request.out or new_folder(RUNS, name)
    made = [p for p in (folder / "checkpoints", folder, *folder.parents) if not p.exists()]
    try:
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe{rank()}"  # one for each process: another's must not be taken away
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UsageError(f"cannot write the run to {folder}: {error.strerror}; choose another --out") from error
    os.environ[FOLDER] = str(folder)
    try:
        with locked(folder) if rank() == 0 else contextlib.nullcontext():
            yield folder
    finally:
        os.environ.pop(FOLDER, None)
        for place in made:
            with contextlib.suppress(OSError):  # it holds something by now
                place.rmdir()
