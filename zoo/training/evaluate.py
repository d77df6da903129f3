"""Measure a trained model again, and compare with what its card says: `evaluate`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning import Trainer
from torch import nn

from zoo.callbacks.telemetry import SolverTelemetry
from zoo.callbacks.trust import TrustMonitor
from zoo.data import DATA
from zoo.deq.reasoner.base import Reasoner
from zoo.deq.reasoner.starts import random_starts
from zoo.hub import cards
from zoo.hub.failures import changed_steps
from zoo.hub.pretrained import load
from zoo.hub.trained import trained_config
from zoo.hub.values import check_values
from zoo.implicit import implicit_modules
from zoo.registry import UnknownName, option_names, unknown
from zoo.solvers.base import Solver
from zoo.storage.model_folder import MACHINE, Config, WeightsError
from zoo.training.console import quiet
from zoo.training.request import DERIVED

TOLERANCE = 0.002  # where neither the card nor the folder says one


def evaluate(
    name: str,
    *,
    data: str | None = None,
    root: str | Path | None = None,
    batch_size: int = 256,
    solver: str | Mapping[str, Any] | None = None,
    depth: int | None = None,
    starts: int | None = None,
    limit: int | None = None,
) -> dict[str, Any]:
    """Measure a trained model on a test split, and compare with what its card, or else its folder, says.

    Args:
        name: what `zoo.load` takes.
        data: name of the data set; None: the one it was trained on.
        root: folder of the data sets.
        batch_size: samples a batch. A converged sample does not depend on it.
        solver: another solver than the model was trained with.
        depth: steps that a solve may take, of a model that solves fixed points; None: as it was trained with.
        starts: of a reasoner, at most: the usual one and random ones, until a puzzle's solve converges; the one of
            least residual has the answer. None: the usual one.
        limit: only so many batches.

    Returns:
        ``name``, ``data``, ``metric``, ``measured``, ``card`` and ``tolerance`` (None where there is no number to
        compare with), ``holds`` (True, False, or None), ``samples``, ``seconds``, ``parameters``, ``test`` (all numbers
        of the test), ``depth`` and ``starts`` as asked for, and ``source`` of the number compared with. Of a model that
        solves fixed points and whose answers are right or wrong, ``test`` says how far the residual tells them apart,
        see `zoo.callbacks.trust.ResidualTrust`.

    Raises:
        ValueError: a depth below 1, or for a model that solves no fixed points; several starts of another model than a
            reasoner.
    """
    model = load(name, solver=solver)
    if depth is not None:
        set_depth(model, depth)
    if starts is not None and starts > 1 and not isinstance(model, Reasoner):
        raise ValueError(
            f"{type(model).__name__} begins every solve at one place, so it takes no starts; leave them out."
        )
    saved = trained_config(model)
    assert saved is not None  # `load` gives every model one
    variant, _, trained_on = saved.name.partition(".")
    c = cards.card(variant)
    with random_starts(1 if starts is None else starts):
        test, seconds, samples, metric = measure(
            model,
            c,
            data or trained_on,
            root=root,
            batch_size=batch_size,
            limit=limit,
            settings=recipe_of(saved)["data"] if data in (None, trained_on) else None,
        )
    promised: Mapping[str, Any] = saved.metrics
    source = "config.json"
    shipped = cards.card(name.partition(".")[0]).name == variant if cards.is_card_name(name) else False
    if shipped and trained_on in c.measured:
        promised, source = c.measured[trained_on], Path(c.source).name
    comparable = data in (None, trained_on) and limit is None and depth is None and starts is None
    number = _number(name, metric, promised.get(metric)) if comparable else None
    tolerance = _number(name, "tolerance", promised.get("tolerance", TOLERANCE)) if number is not None else None
    return {
        "name": saved.name,
        "data": data or trained_on,
        "depth": depth,
        "starts": starts,
        "metric": metric,
        "measured": test[metric],
        "card": number,
        "tolerance": tolerance,
        "holds": None if number is None or tolerance is None else abs(test[metric] - number) <= tolerance,
        "source": source if number is not None else None,
        "samples": samples,
        "seconds": round(seconds, 2),
        "parameters": sum(p.numel() for p in model.parameters()),
        "test": test,
    }


def set_depth(model: nn.Module, depth: int) -> None:
    """Let every solve for a fixed point within a model take ``depth`` steps at most, in evaluation.

    Raises:
        ValueError: a depth below 1, or a model that solves no fixed points.
    """
    if not any(isinstance(layer.solver, Solver) for _, layer in implicit_modules(model)):
        raise ValueError(f"{type(model).__name__} solves no fixed points, so it has no depth; leave the depth out.")
    changed_steps(model, depth)


def recipe_of(config: Config) -> dict[str, dict[str, Any]]:
    """The recipe that weights were trained by, as their configuration has it; its sections may be empty.

    Raises:
        WeightsError: it is none.
    """
    recipe = config.training.get("recipe", {})
    if not isinstance(recipe, Mapping) or not all(isinstance(v, Mapping) for v in recipe.values()):
        raise WeightsError(f"The configuration of {config.name!r} has no sections of options in training.recipe.")
    return {"data": {}, **{str(k): dict(v) for k, v in recipe.items()}}


def _number(name: str, key: str, value: Any) -> float | None:
    """A number that a card or a folder promises; None where it promises none."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
        raise WeightsError(f"{name}: its {key} must be a number; got {value!r}.")
    return value


def measure(
    model: nn.Module,
    card: cards.ModelCard,
    data: str,
    *,
    root: str | Path | None = None,
    batch_size: int = 256,
    limit: int | None = None,
    settings: Mapping[str, Any] | None = None,
) -> tuple[dict[str, float], float, int, str]:
    """Run the card's task over a test split.

    Args:
        settings: options of the data set that the model was trained with, which say what its samples are.

    Returns:
        the numbers, the seconds, the number of samples, and the name of the metric that models are chosen by.
    """
    if data not in DATA:
        raise UnknownName(unknown("data set", data, DATA.names()))
    known = option_names(DATA[data])
    if root is not None and "root" not in known:
        raise ValueError(f"The data set {data} is made, not read from files: leave data.root out.")
    wanted = {"batch_size": batch_size, **({"root": None if root is None else str(root)} if "root" in known else {})}
    wanted = {k: v for k, v in wanted.items() if k in known}  # a class of the user's own may take neither
    kept = {k: v for k, v in (settings or {}).items() if k not in (*wanted, *MACHINE) and k in known}
    try:
        check_values(f"option of data set {data!r}", DATA[data], kept)
        module = DATA[data](**kept, **wanted)
    except (TypeError, ValueError) as error:
        raise WeightsError(f"The data set {data} cannot be made as it was in training: {error}") from error
    for key in DERIVED:
        if hasattr(module, key) and hasattr(model, key) and getattr(model, key) != getattr(module, key):
            raise WeightsError(
                f"The model has {key} {getattr(model, key, None)}, {data} has {getattr(module, key)}: they cannot be "
                "measured together."
            )
    kind = card.load_task()
    with quiet("zoo.evaluate"):
        trainer = Trainer(
            accelerator="auto",
            devices=1,
            logger=False,
            callbacks=[SolverTelemetry(), TrustMonitor()],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            limit_test_batches=limit,
        )
        task = kind(model)
        start = time.perf_counter()
        found = trainer.test(task, datamodule=module, verbose=False)[0]
        seconds = time.perf_counter() - start
    test = {k.removeprefix("test/"): float(v) for k, v in found.items()}
    total = module.sizes["test"] if hasattr(module, "sizes") else 0
    samples = min(total, limit * batch_size) if limit else total
    return test, seconds, samples, task.monitor.partition("/")[2]
