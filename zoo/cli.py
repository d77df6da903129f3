"""The second stage of ``python -m zoo.fit``: build what was named, train it, test it, and say how it went.

`fit` does the same from Python and returns the results.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer, seed_everything
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from zoo import hub
from zoo.callbacks.guard import ResidualGuard, SolverWarning
from zoo.callbacks.keeper import Interrupted, Keeper
from zoo.callbacks.progress import EpochLines
from zoo.callbacks.seeding import StepSeed
from zoo.callbacks.telemetry import SolverTelemetry
from zoo.callbacks.warmup import UnrollWarmup
from zoo.checkpoint import read_checkpoint
from zoo.data import DATA
from zoo.data.files import DataError
from zoo.figure import training_figure
from zoo.fit import DERIVED, PROG, RUNS, Request, UsageError, rank, resolve
from zoo.implicit import implicit_modules
from zoo.options import Options
from zoo.registry import UnknownName, option_names
from zoo.run import (
    MetricsLog,
    closing,
    dump_yaml,
    environment,
    hardware,
    new_folder,
    read_metrics,
    write_json,
    write_yaml,
)
from zoo.solvers.base import SolveError
from zoo.tasks.base import NonFiniteError, Task
from zoo.tasks.optim import Optim

FOLDER = "ZOO_RUN_FOLDER"  # tells the processes of one run the folder that the first one chose
REFUSED = (UsageError, UnknownName, hub.CardError)
FAILED = (DataError, NonFiniteError, SolveError, MisconfigurationException, ValueError, OSError, torch.OutOfMemoryError)


def main(request: Request) -> int:
    """Run a request of the first stage; returns the exit code."""
    try:
        if {"help", "help-all"} & request.switches:
            print(Options(request).help(everything="help-all" in request.switches))
        elif "print_config" in request.switches:
            print(dump_yaml({**Options(request).config(), "seed": request.seed}), end="")
        else:
            run(request)
    except Interrupted as stop:
        return 128 + stop.signum
    except REFUSED:
        raise
    except FAILED as error:
        print(f"{PROG}: error: {_sentence(error)}", file=sys.stderr)
        return 1
    return 0


def fit(
    model: str | Mapping[str, Any],
    data: str | Mapping[str, Any] | None = None,
    *,
    solver: str | Mapping[str, Any] | None = None,
    adjoint: str | Mapping[str, Any] | None = None,
    config: str | Path | None = None,
    out: str | Path | None = None,
    resume: str | Path | None = None,
    seed: int | None = None,
    **options: Mapping[str, Any],
) -> dict[str, Any]:
    """Train as the command line does, and return the content of ``results.json``.

        >>> fit("mdeq", "digits", solver={"name": "anderson", "rtol": 1e-4}, trainer={"max_epochs": 1})

    Args:
        model, data, solver, adjoint: a name, or a mapping of a ``name`` and options; None: what the card says.
        config: a YAML file of options.
        out: the run folder; None: a new one under ``runs/``.
        resume: "last", a run folder, or a checkpoint.
        seed: seed of everything random.
        **options: the other sections, ``optim``, ``task`` and ``trainer``, each a mapping of options.

    Raises:
        UsageError, UnknownName: a name or an option that does not exist.
        Interrupted: a signal stopped the run; its state was saved.
    """
    argv = [f"--{k}={v}" for k, v in dict(config=config, out=out, resume=resume, seed=seed).items() if v is not None]
    for section, given in {"model": model, "data": data, "solver": solver, "adjoint": adjoint, **options}.items():
        values = {"name": given} if isinstance(given, str) else given or {}
        if not isinstance(values, Mapping):
            raise UsageError(f"{section} takes a mapping of options; got {values!r}")
        argv += [f"--{section}.{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in values.items()]
    return run(resolve(argv))


def build(options: Options, seed: int) -> tuple[Task, Any, dict[str, Any]]:
    """The task around its model, the data module, and what the data set decided of the model.

    Raises:
        ValueError: an option is out of its range; the class says which.
    """
    factory = options.card.load()
    settings = options.section("data")
    if "seed" in settings and "data.seed" not in options.given:
        settings["seed"] = seed
    data = DATA[options.names["data"]](**settings)
    arguments = options.section("model")
    taken = [k for k in DERIVED if k in option_names(factory) and hasattr(data, k)]
    derived = {k: getattr(data, k) for k in taken if f"model.{k}" not in options.given}
    for k in taken:
        given = arguments[k] if k not in derived else derived[k]
        if (k == "num_classes" and given < getattr(data, k)) or (k == "in_chans" and given != getattr(data, k)):
            raise UsageError(f"--model.{k} {given} does not fit {options.names['data']}, which has {getattr(data, k)}")
    arguments |= derived
    specs = {k: options.spec(k) for k in ("solver", "adjoint")}
    optim = Optim(**options.section("optim"))
    seed_everything(seed, verbose=False)
    model = hub.create_model(options.names["model"], **specs, **arguments)
    optim.build(model)  # an optimiser that does not exist is said now
    task = options.card.load_task()(model, optim, **options.section("task"))
    return task, data, derived


def load_run(path: str | Path, which: str = "best") -> Task:
    """The task of a run folder, re-created by name from its ``config.yaml``, with the weights of a checkpoint.

    Args:
        path: the run folder.
        which: "best" or "last".
    """
    folder = Path(path)
    request = resolve([f"--config={folder / 'config.yaml'}"])
    task, _, _ = build(Options(replace(request, out=None)), request.seed)
    saved = read_checkpoint(folder / "checkpoints" / f"{which}.ckpt")
    task.load_state_dict(saved["state_dict"])
    return task.eval()


def run(request: Request) -> dict[str, Any]:
    """Train, test, and write the run folder; returns what ``results.json`` holds."""
    options = Options(request)
    with _quiet():
        try:
            task, data, derived = build(options, request.seed)
        except ValueError as error:
            raise UsageError(_sentence(error)) from error
        saved = {**options.config(derived), "seed": request.seed}
        task.save_hyperparameters({"config": json.loads(json.dumps(saved))}, logger=False)
        folder = _folder(request, options)
        keeper = Keeper(folder / "checkpoints", task.monitor, task.maximise)
        before = _resumed(request, folder) if request.resume else []
        log = MetricsLog(folder, before)
        trainer = _trainer(options, request, folder, keeper, log)
        if rank() == 0:
            write_yaml(folder / "config.yaml", saved)
            write_json(folder / "environment.json", {"command": " ".join(sys.argv), **environment()})
            print(_opening(task, options, trainer, folder, request), flush=True)
        record = _Record(folder, options, request, task, data, trainer, keeper, log)
        try:
            with _signals(keeper):
                trainer.fit(task, datamodule=data, ckpt_path=request.resume, weights_only=True)
                record.training = _metrics(trainer)
                trainer.test(task, datamodule=data, ckpt_path=keeper.best, weights_only=True, verbose=False)
            return record.finish("finished")
        except (Interrupted, KeyboardInterrupt, SystemExit):
            record.finish("interrupted")
            if rank() == 0:
                print(_interrupted(folder, keeper, trainer), flush=True)
            raise Interrupted(keeper.stopping or signal.SIGINT) from None
        except Exception as error:
            (folder / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")
            record.finish("failed", error)
            raise


class _Record:
    """What is written at the end of a run, however it ends."""

    def __init__(self, folder: Path, options: Options, request: Request, task: Task, data: Any, trainer: Trainer,
                 keeper: Keeper, log: MetricsLog) -> None:  # fmt: skip
        self.folder, self.options, self.request, self.task = folder, options, request, task
        self.data, self.trainer, self.keeper, self.log = data, trainer, keeper, log
        self.training: dict[str, float] = {}

    def finish(self, status: str, error: BaseException | None = None) -> dict[str, Any]:
        m = {**(self.training or _metrics(self.trainer)), **_metrics(self.trainer)}
        test = {k.removeprefix("test/"): v for k, v in m.items() if k.startswith("test/")}
        parameters = [p for p in self.task.model.parameters() if p.requires_grad]
        env = environment()
        fingerprint = getattr(self.data, "fingerprint", None)
        results = {
            "status": status,
            "model": self.options.names["model"],
            "data": self.options.names["data"],
            "solver": self.options.spec("solver"),
            "adjoint": self.options.spec("adjoint"),
            "test": test,
            "val": {k.removeprefix("val/"): v for k, v in m.items() if k.startswith("val/")},
            "train": {k.removeprefix("train/"): v for k, v in m.items() if k.startswith("train/")},
            "best": {"epoch": self.keeper.best_epoch + 1, self.task.monitor: self.keeper.best_score},
            "seconds": round(self.keeper.elapsed(), 2),
            "epochs": self.trainer.current_epoch,
            "steps": self.trainer.global_step,
            "parameters": sum(p.numel() for p in parameters),
            "seed": self.request.seed,
            "data_sha256": fingerprint() if callable(fingerprint) and status == "finished" else None,
            "commit": env["commit"],
            "versions": env["versions"],
            "hardware": hardware(),
            "time": env["time"],
        }
        if error is not None:
            results["error"] = _sentence(error)
        if rank() != 0:
            return results
        self.log.save()
        write_json(self.folder / "results.json", results)
        accuracy = f", test accuracy {test['accuracy']:.2%}" if "accuracy" in test else f", {status}"
        title = f"{results['model']} on {results['data']}{accuracy}"
        if self.log.rows:
            training_figure(self.log.rows, self.folder / "training.png", title)
        if status == "finished":
            card, names = self.options.card, self.options.names
            others = [d for d in card.data if d != names["data"]]
            short = card.aliases[0] if card.aliases else card.name
            print(closing(results, self.folder, short, others, 2 * (self.trainer.max_epochs or 1)), flush=True)
        return results


def _trainer(options: Options, request: Request, folder: Path, keeper: Keeper, log: MetricsLog) -> Trainer:
    arguments = options.trainer()
    own = [
        StepSeed(request.seed),
        UnrollWarmup(),
        SolverTelemetry(),
        ResidualGuard(),
        keeper,
    ]
    if arguments.get("enable_progress_bar") is not False:
        own.append(EpochLines())
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
        probe = folder / ".probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UsageError(f"cannot write the run to {folder}: {error.strerror}; choose another --out") from error
    os.environ[FOLDER] = str(folder)
    return folder


def _resumed(request: Request, folder: Path) -> list[dict[str, float]]:
    """Check the checkpoint, bring the best one along, and return the metrics up to it."""
    try:
        step = int(read_checkpoint(request.resume).get("global_step", 0))  # type: ignore[arg-type]
    except ValueError as error:
        raise UsageError(f"cannot resume: {_sentence(error)}") from error
    was = request.resume.parents[1]  # type: ignore[union-attr]
    if was.resolve() != folder.resolve() and (was / "checkpoints" / "best.ckpt").is_file():
        shutil.copy2(was / "checkpoints" / "best.ckpt", folder / "checkpoints" / "best.ckpt")
    return read_metrics(was / "metrics.csv", below=step)


@contextlib.contextmanager
def _signals(keeper: Keeper) -> Iterator[None]:
    """Ctrl-C and SIGTERM stop the run behind the running step; a second Ctrl-C stops it at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked: list[int] = []

    def stop(signum: int, frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(signum)
        keeper.stop(signum)
        if rank() == 0:
            print("\nStopping behind this step; again to stop at once.", file=sys.stderr, flush=True)

    old = {s: signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for s, handler in old.items():
            signal.signal(s, handler)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
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
        ):
            warnings.filterwarnings("ignore", message=text)
        warnings.filterwarnings("always", category=SolverWarning)
        shown = warnings.showwarning

        def show(message: Any, category: Any, *rest: Any, **more: Any) -> None:
            if issubclass(category, SolverWarning):
                print(f"{PROG}: warning: {message}", file=sys.stderr, flush=True)
            else:
                shown(message, category, *rest, **more)

        warnings.showwarning = show
        try:
            yield
        finally:
            for n, level in levels.items():
                logging.getLogger(n).setLevel(level)


def _metrics(trainer: Trainer) -> dict[str, float]:
    return {k: float(v) for k, v in trainer.callback_metrics.items() if "/" in k}


def _sentence(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return (
        " ".join(text.split())
        if isinstance(error, (*REFUSED, DataError, NonFiniteError, OSError))
        else text.splitlines()[0]
    )


def _opening(task: Task, options: Options, trainer: Trainer, folder: Path, request: Request) -> str:
    count = sum(p.numel() for p in task.model.parameters())
    solver, adjoint = options.spec("solver"), options.spec("adjoint")
    how = ""
    if solver and adjoint and implicit_modules(task.model):
        how = f", solver {solver['name']} (at most {solver.get('max_steps')} steps), adjoint {adjoint['name']}"
    device = trainer.strategy.root_device.type
    where = f"{torch.get_num_threads()} CPU threads" if device == "cpu" else f"{trainer.world_size} x {device}"
    verb = f"continues from {request.resume}" if request.resume else f"goes to {folder}"
    return f"{options.names['model']} on {options.names['data']}: {count:,} parameters{how}, {where}\nThe run {verb}"


def _interrupted(folder: Path, keeper: Keeper, trainer: Trainer) -> str:
    if not keeper.last.exists():
        return f"\nInterrupted before the first step was done; {folder} holds no checkpoint."
    when = "at this step" if keeper.stopping else "when it was last saved"
    return (
        f"\nInterrupted in epoch {trainer.current_epoch + 1}, step {trainer.global_step}; "
        f"{keeper.last} holds the state {when}.\ncontinue with   python -m zoo.fit --resume {folder}"
    )
