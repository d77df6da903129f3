"""Build the task, the model and the data module of a run; open a finished run again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning import LightningDataModule, seed_everything
from torch import nn

from zoo.data.base import InMemoryDataModule
from zoo.hub.configure import configure
from zoo.hub.factory import create_model
from zoo.hub.finetune import transfer
from zoo.registry import option_names
from zoo.storage.checkpoint import read_checkpoint
from zoo.tasks.base import Task
from zoo.tasks.optim import Optim
from zoo.tasks.regularization import StabilityConfig
from zoo.training.errors import UsageError
from zoo.training.loaders import data_module
from zoo.training.options import Options
from zoo.training.request import DERIVED, Request, request_of


def build_run(options: Options, seed: int, *, fresh: bool = True) -> tuple[Task, LightningDataModule, dict[str, Any]]:
    """Build the task around its model, and the data module; say what the data set decided of the model.

    Args:
        options: of the run.
        seed: of the weights.
        fresh: whether the run begins, and so takes the weights that it is to start from.

    Raises:
        ValueError: an option is out of its range; the class says which.
    """
    data = _data(options, seed)
    seed_everything(seed, verbose=False)
    if "task" in options.instances:
        task = options.instances["task"]
        if not isinstance(task, Task):
            raise UsageError(
                f"the task must be a zoo.tasks.base.Task; got a {type(task).__name__}. Give its network as the model, "
                "with task='classification' or another name, or derive the class from Task"
            )
        derived: dict[str, Any] = {}
    else:
        model, derived = _model(options, data)
        optim = Optim(**options.section("optim"))
        optim.build(model)  # an optimizer that does not exist is named now
        task = _task(options, model, optim)
    if options.pretrained and fresh:
        transfer(task.model, options.pretrained, data=options.names["data"])
    return task, data, derived


def model_arguments(data: LightningDataModule) -> dict[str, Any]:
    """Return what a data set decides of a model; of a data module of the user's the sizes that it has as attributes."""
    if isinstance(data, InMemoryDataModule):
        return data.model_arguments()
    found = {k: getattr(data, k) for k in DERIVED if hasattr(data, k)}
    return {k: tuple(map(int, v)) if isinstance(v, list | tuple) else int(v) for k, v in found.items()}


def _data(options: Options, seed: int) -> LightningDataModule:
    if "data" in options.instances:
        return data_module(options.instances["data"])
    settings = options.section("data")
    if "seed" in settings and "data.seed" not in options.given:
        settings["seed"] = seed
    return options.factories["data"](**settings)


def _model(options: Options, data: LightningDataModule) -> tuple[nn.Module, dict[str, Any]]:
    specs = {k: options.spec(k) for k in ("solver", "adjoint")}
    if "model" in options.instances:
        model = options.instances["model"]
        if not isinstance(model, nn.Module):
            raise UsageError(f"model takes a name, a mapping of options, or a torch.nn.Module; got {model!r:.80}")
        if any(specs.values()):
            configure(model, {}, specs["solver"], specs["adjoint"])
        return model, {}
    factory, arguments, sizes = options.factories["model"], options.section("model"), model_arguments(data)
    taken = {k: v for k, v in sizes.items() if k in option_names(factory)}
    derived = {k: v for k, v in taken.items() if f"model.{k}" not in options.given}
    for k, size in taken.items():
        given = derived.get(k, arguments[k])
        given = tuple(given) if isinstance(given, list) else given
        may_be_larger = k in ("num_classes", "vocab_size", "symbols")
        if given is not None and (given < size or (given != size and not may_be_larger)):
            raise UsageError(f"--model.{k} {given} does not fit {options.names['data']}, which has {size}")
    model = create_model(
        options.names["model"], solver=specs["solver"], adjoint=specs["adjoint"], **arguments | derived
    )
    return model, derived


def _task(options: Options, model: nn.Module, optim: Optim) -> Task:
    factory, settings = options.factories["task"], options.section("task")
    if "stability" in option_names(factory):
        stability = {k: settings.pop(k) for k in option_names(StabilityConfig)}
        settings["stability"] = StabilityConfig(**stability)
    return factory(model, optim, **settings)


def plain_options(request: Request) -> dict[str, Any]:
    """What a configuration holds beside its sections."""
    pretrained = {"pretrained": request.pretrained} if request.pretrained else {}
    return {"seed": request.seed, **pretrained, **({"compile": True} if "compile" in request.switches else {})}


def load_run(path: str | Path, which: str = "best", **objects: Any) -> Task:
    """The task of a run folder, re-created by name from its ``config.yaml``, with the weights of a checkpoint.

    Args:
        path: the run folder.
        which: "best" or "last".
        **objects: the ``model``, ``task`` or ``data`` of a run that was given objects, which a file cannot hold.

    Raises:
        UsageError, WeightsError: the folder is no run, or its weights cannot be read.
    """
    folder = Path(path)
    request = request_of(objects, files=[folder / "config.yaml"])
    task, _, _ = build_run(Options(replace(request, out=None)), request.seed, fresh=False)
    load_weights(task, folder / "checkpoints" / f"{which}.ckpt")
    return task.eval()


def load_weights(task: Task, file: Path) -> Mapping[str, Any]:
    """Give a task the weights of a checkpoint, which is returned.

    Raises:
        WeightsError: the file is missing, damaged, or may run code.
    """
    saved = read_checkpoint(file)
    task.load_state_dict(saved["state_dict"])
    return saved
