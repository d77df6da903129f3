"""Train from Python: `train`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo.training.errors import UsageError
from zoo.training.request import resolve
from zoo.training.run import run_training


def train(
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

        >>> zoo.train("mdeq", "digits", solver={"name": "anderson", "rtol": 1e-4}, trainer={"max_epochs": 1})

    Args:
        model, data, solver, adjoint: a name, or a mapping of a ``name`` and options; None: what the card says.
        config: a YAML file of options.
        out: the run folder; None: a new one under ``runs/``.
        resume: "last", a run folder, or a checkpoint.
        pretrained: trained weights to start from, as `zoo.load` takes them.
        seed: seed of everything random.
        compile: compile the cell or field of the implicit layers, see `zoo.training.compile`.
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
    return run_training(resolve(argv))
