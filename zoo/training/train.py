"""Train from Python: `train`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning import LightningDataModule
from torch import nn

from zoo.tasks.base import Task
from zoo.training.finished import Run
from zoo.training.request import request_of
from zoo.training.run import run_training

if TYPE_CHECKING:
    from zoo.adjoints.base import Adjoint
    from zoo.solvers.base import Solver
    from zoo.solvers.ode.base import ODESolver
    from zoo.tasks.optim import Optim

Loader = Iterable[Any]


def train(
    model: str | Mapping[str, Any] | nn.Module,
    data: str | Mapping[str, Any] | LightningDataModule | Loader | Sequence[Loader] | None = None,
    *,
    solver: str | Mapping[str, Any] | Solver | ODESolver | None = None,
    adjoint: str | Mapping[str, Any] | Adjoint | None = None,
    optim: str | Mapping[str, Any] | Optim | None = None,
    ema: float | Mapping[str, Any] | None = None,
    task: str | Mapping[str, Any] | Task | None = None,
    trainer: Mapping[str, Any] | None = None,
    config: str | Path | None = None,
    out: str | Path | None = None,
    resume: str | Path | None = None,
    pretrained: str | Path | None = None,
    seed: int | None = None,
    compile: bool = False,
) -> Run:
    """Train as ``python -m zoo.fit`` does, by the same words, with names or with objects of your own.

        run = zoo.train("mdeq", "digits", solver={"name": "anderson", "rtol": 1e-4}, trainer={"max_epochs": 1})
        run = zoo.train(network, (train_loader, val_loader, test_loader), task="classification")
        run.metrics["accuracy"], run.model, run.folder

    Args:
        model: a name of `zoo.list_models`, a mapping of a ``name`` and options, a network (any `nn.Module`), or a task
            of `zoo.tasks` around one.
        data: a name, a mapping, a LightningDataModule, or DataLoaders (train, val, test; val and test may be left out);
            None: what the model's card says. Only the zoo's own data resume within an epoch to the last bit.
        solver, adjoint: a name, a mapping of a ``name`` and options, or an instance; None: the model's own.
        optim: the optimizer's name, a mapping of its options, or an `Optim`.
        ema: decay of an average of the weights, which is then evaluated and kept, see
            `zoo.callbacks.weight_ema.WeightEMA`; None: what the recipe says, which mostly is no average.
        task: for a network of your own the kind of task (``"classification"``, ...), with options as a mapping, or a
            task around it; for a model by name the options of its task.
        trainer: options of Lightning's Trainer; ``callbacks`` and ``logger`` may be objects, and stand beside the
            zoo's own.
        config: a YAML file of options.
        out: the run folder; None: a new one under ``runs/``.
        resume: ``"last"``, a run folder, or a checkpoint.
        pretrained: trained weights to start from, as `zoo.load` takes them.
        seed: seed of everything random; None: 0.
        compile: compile the cell or field of the implicit layers, see `zoo.training.compile`.

    Returns:
        the run: its results, folder and best model.

    Raises:
        UsageError, UnknownName: a name or an option that does not exist, or that does not fit; nothing was written.
        Interrupted: a signal stopped the run; its state was saved.
    """
    sections: dict[str, Any] = {
        "model": model,
        "data": data,
        "solver": solver,
        "adjoint": adjoint,
        "optim": optim,
        "ema": {"decay": ema} if isinstance(ema, (int, float)) else ema,
        "task": task,
        "trainer": trainer,
    }
    if isinstance(model, Task) and task is None:
        sections |= {"model": None, "task": model}
    elif isinstance(task, Task) and task.model is model:
        sections["model"] = None
    request = request_of(
        sections,
        files=[config] if config is not None else [],
        out=out,
        resume=resume,
        pretrained=pretrained or "",
        seed=seed,
        switches=["compile"] if compile else [],
    )
    return run_training(request)
