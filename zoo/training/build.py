"""Build the task, the model and the data module of a run; open a finished run again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning import seed_everything

from zoo.data import DATA
from zoo.hub.factory import create_model
from zoo.hub.finetune import transfer
from zoo.registry import option_names
from zoo.storage.checkpoint import read_checkpoint
from zoo.tasks.base import Task
from zoo.tasks.optim import Optim
from zoo.tasks.regularization import StabilityConfig
from zoo.training.errors import UsageError
from zoo.training.options import Options
from zoo.training.request import DERIVED, Request, resolve


def build_run(options: Options, seed: int, *, fresh: bool = True) -> tuple[Task, Any, dict[str, Any]]:
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
        kit = {k: settings.pop(k) for k in option_names(StabilityConfig)}
        settings["stability"] = StabilityConfig(**kit)
    task = factory(model, optim, **settings)
    return task, data, derived


def plain_options(request: Request) -> dict[str, Any]:
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
    task, _, _ = build_run(Options(replace(request, out=None)), request.seed, fresh=False)
    saved = read_checkpoint(folder / "checkpoints" / f"{which}.ckpt")
    task.load_state_dict(saved["state_dict"])
    return task.eval()
