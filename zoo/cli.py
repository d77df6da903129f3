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
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer, seed_everything
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch._dynamo.exc import TorchDynamoException

from zoo.callbacks.checkpointing import Interrupted, Keeper
from zoo.callbacks.console_progress import EpochLines
from zoo.callbacks.convergence_monitor import ResidualGuard, SolverStopped
from zoo.callbacks.missing_gradients import GradientCheck
from zoo.callbacks.per_step_seed import StepSeed
from zoo.callbacks.profile import Profile
from zoo.callbacks.telemetry import SolverTelemetry
from zoo.callbacks.warmup import UnrollWarmup
from zoo.compile import compile_maps
from zoo.data import DATA
from zoo.data.files import DataError
from zoo.fit import DERIVED, PROG, Request, UsageError, resolve
from zoo.hub.finetune import transfer
from zoo.implicit import implicit_modules
from zoo.options import Options
from zoo.places import RUNS, rank
from zoo.record import REFUSED, Record, generated, metrics, sentence
from zoo.registry import option_names
from zoo.run import MetricsLog, environment, new_folder
from zoo.solvers.base import SolveError
from zoo.storage.checkpoint import read_checkpoint
from zoo.storage.files import dump_yaml, write_json, write_yaml
from zoo.storage.model_folder import WeightsError
from zoo.tasks.base import NonFiniteError, Task
from zoo.tasks.optim import Optim
from zoo.tasks.regularization import Stability
from zoo.terminal import quiet, signals

FOLDER = "ZOO_RUN_FOLDER"  # tells the processes of one run the folder that the first one chose
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


def main(request: Request) -> int:
    """Run a request of the first stage; returns the exit code."""
    try:
        if {"help", "help-all"} & request.switches:
            print(Options(request).help(everything="help-all" in request.switches))
        elif "print_config" in request.switches:
            print(dump_yaml({**Options(request).config(), **_plain(request)}), end="")
        else:
            run(request)
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
        help = _uncompiled(error)
        if not help:
            raise
        print(f"{PROG}: error: {sentence(error)} {help}", file=sys.stderr)
        return 1
    return 0


def _lost(error: RuntimeError) -> str:
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


def _uncompiled(error: RuntimeError) -> str:
    """What to do where ``--compile`` did not work out; empty where it is not to blame."""
    if isinstance(error, TorchDynamoException):
        return "The map could not be compiled on this machine; leave --compile out."
    if "does not currently support double backward" in str(error):
        return "The solver or adjoint differentiates the map twice, and compiled code only once: leave --compile out."
    return ""


def fit(
    model: str | Mapping[str, Any],
    data: str | Mapping[str, Any] | None = None,
    *,
    solver: str | Mapping[str, Any] | None = None,
    adjoint: str | Mapping[str, Any] | None = None,
    config: str | Path | None = None,
    out: str | Path | None = None,
    resume: str | Path | None = None,
    pretrained: str | Path | None = None,
    seed: int | None = None,
    compile: bool = False,
    **options: Mapping[str, Any],
) -> dict[str, Any]:
    """Train as the command line does, and return the content of ``results.json``.

        >>> fit("mdeq", "digits", solver={"name": "anderson", "rtol": 1e-4}, trainer={"max_epochs": 1})

    Args:
        model, data, solver, adjoint: a name, or a mapping of a ``name`` and options; None: what the card says.
        config: a YAML file of options.
        out: the run folder; None: a new one under ``runs/``.
        resume: "last", a run folder, or a checkpoint.
        pretrained: trained weights to start from, as `zoo.load` takes them.
        seed: seed of everything random.
        compile: compile the cell or field of the implicit layers, see `zoo.compile`.
        **options: the other sections, ``optim``, ``task`` and ``trainer``, each a mapping of options.

    Raises:
        UsageError, UnknownName: a name or an option that does not exist.
        Interrupted: a signal stopped the run; its state was saved.
    """
    plain = dict(config=config, out=out, resume=resume, pretrained=pretrained, seed=seed)
    argv = [f"--{k}={v}" for k, v in plain.items() if v is not None] + ["--compile"] * compile
    for section, given in {"model": model, "data": data, "solver": solver, "adjoint": adjoint, **options}.items():
        values = {"name": given} if isinstance(given, str) else given or {}
        if not isinstance(values, Mapping):
            raise UsageError(f"{section} takes a mapping of options; got {values!r}")
        argv += [f"--{section}.{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in values.items()]
    return run(resolve(argv))


def build(options: Options, seed: int, *, fresh: bool = True) -> tuple[Task, Any, dict[str, Any]]:
    """The task around its model, the data module, and what the data set decided of the model.

    Args:
        options: of the run.
        seed: of the weights.
        fresh: whether the run begins, and so takes the weights that it is to start from.

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
        may_be_larger = k in ("num_classes", "vocab_size")
        if given < getattr(data, k) or (given != getattr(data, k) and not may_be_larger):
            raise UsageError(f"--model.{k} {given} does not fit {options.names['data']}, which has {getattr(data, k)}")
    arguments |= derived
    specs = {k: options.spec(k) for k in ("solver", "adjoint")}
    optim = Optim(**options.section("optim"))
    seed_everything(seed, verbose=False)
    model = create_model(options.names["model"], **specs, **arguments)
    if options.pretrained and fresh:
        transfer(model, options.pretrained, data=options.names["data"])
    optim.build(model)  # an optimiser that does not exist is said now
    factory, settings = options.card.load_task(), options.section("task")
    if "stability" in option_names(factory):
        kit = {k: settings.pop(k) for k in option_names(Stability)}
        settings["stability"] = Stability(**kit)
    task = factory(model, optim, **settings)
    return task, data, derived


def _plain(request: Request) -> dict[str, Any]:
    """What a configuration holds beside its sections."""
    pretrained = {"pretrained": request.pretrained} if request.pretrained else {}
    return {"seed": request.seed, **pretrained, **({"compile": True} if "compile" in request.switches else {})}


def load_run(path: str | Path, which: str = "best") -> Task:
    """The task of a run folder, re-created by name from its ``config.yaml``, with the weights of a checkpoint.

    Args:
        path: the run folder.
        which: "best" or "last".
    """
    folder = Path(path)
    request = resolve([f"--config={folder / 'config.yaml'}"])
    task, _, _ = build(Options(replace(request, out=None)), request.seed, fresh=False)
    saved = read_checkpoint(folder / "checkpoints" / f"{which}.ckpt")
    task.load_state_dict(saved["state_dict"])
    return task.eval()


def run(request: Request) -> dict[str, Any]:
    """Train, test, and write the run folder; returns what ``results.json`` holds."""
    options = Options(request)
    with quiet(PROG):
        try:
            task, data, derived = build(options, request.seed, fresh=not request.resume)
            if "compile" in request.switches:
                compile_maps(task.model)
        except ValueError as error:
            raise UsageError(sentence(error)) from error
        saved = {**options.config(derived), **_plain(request)}
        task.save_hyperparameters({"config": json.loads(json.dumps(saved))}, logger=False)
        if rank() == 0:
            data.prepare_data()  # a file that is missing is said before a run folder is made
        folder = _folder(request, options)
        keeper = Keeper(folder / "checkpoints", task.monitor, task.maximise)
        before, step = _resumed(request, folder) if request.resume else (None, 0)
        log = MetricsLog(folder, before, step, keeper.elapsed)
        trainer = _trainer(options, request, folder, keeper, log)
        atexit.register(_leave)
        if rank() == 0:
            write_yaml(folder / "config.yaml", saved)
            write_json(folder / "environment.json", {"command": " ".join(sys.argv), **environment()})
            print(_opening(task, data, options, trainer, folder, request), flush=True)
            if restarts := _restarts():
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
                print(_interrupted(folder, keeper, trainer), flush=True)
            raise Interrupted(keeper.stopping or signal.SIGINT) from None
        except Exception as error:
            lost = _lost(error) if isinstance(error, RuntimeError) else ""
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


def _restarts() -> str:
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


def _trainer(options: Options, request: Request, folder: Path, keeper: Keeper, log: MetricsLog) -> Trainer:
    arguments = options.trainer()
    own: list[Callback] = [
        StepSeed(request.seed),
        UnrollWarmup(),
        SolverTelemetry(),
        ResidualGuard(),
        GradientCheck(),
        keeper,
    ]
    if "profile" in request.switches:
        own.append(Profile(folder))
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


def _opening(task: Task, data: Any, options: Options, trainer: Trainer, folder: Path, request: Request) -> str:
    count = sum(p.numel() for p in task.model.parameters())
    solver, adjoint = options.spec("solver"), options.spec("adjoint")
    how = ""
    if solver and adjoint and implicit_modules(task.model):
        how = f", solver {solver['name']} (at most {solver.get('max_steps')} steps), adjoint {adjoint['name']}"
        how += ", compiled" if "compile" in request.switches else ""
    device = trainer.strategy.root_device.type
    where = f"{torch.get_num_threads()} CPU threads" if device == "cpu" else f"{trainer.world_size} x {device}"
    start = f"\nIt starts from the weights of {options.pretrained}" if options.pretrained else ""
    verb = f"continues from {request.resume}" if request.resume else f"goes to {folder}"
    first = f"{options.names['model']} on {options.names['data']}: {count:,} parameters{how}, {where}"
    report = generated(task, data)
    weights = f"\n{report}" if report else ""
    return f"{first}{weights}\nThe run {verb}{start}"


def _interrupted(folder: Path, keeper: Keeper, trainer: Trainer) -> str:
    if not keeper.last.exists():
        return f"\nInterrupted before the first step was done; {folder} holds no checkpoint."
    when = "at this step" if keeper.stopping else "when it was last saved"
    return (
        f"\nInterrupted in epoch {trainer.current_epoch + 1}, step {trainer.global_step}; "
        f"{keeper.last} holds the state {when}.\ncontinue with   python -m zoo.fit --resume {folder}"
    )
