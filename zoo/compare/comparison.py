"""Compare models from Python: `compare_models`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo.compare.runner import jobs_of, run_all
from zoo.compare.table import summarise


def compare_models(
    models: str | Sequence[str],
    data: str | None = None,
    *,
    seeds: Sequence[int] = (0,),
    budget: str | int | None = None,
    solvers: Sequence[str] = (),
    adjoints: Sequence[str] = (),
    out: str | Path | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    timeout: float | None = None,
    level: float | None = None,
    say: Callable[[str], None] | None = print,
) -> list[dict[str, Any]]:
    """Train and measure models side by side; returns a row a model (and solver, and adjoint), over its seeds.

    Each model and seed runs in its own process: a crash costs its row, which then says so. What was measured is kept
    in ``out``; calling again measures only what is missing or has failed.

    Args:
        models: names of `zoo.list_models`, or ``timm:NAME`` for a model of timm.
        data: a data set; None: the default of the first model.
        seeds: every model is trained once for each.
        budget: of training: "60s", "5m", or a number of epochs; None: what each model's recipe says.
        solvers, adjoints: measure each implicit model with each of these, instead of its own.
        out: folder of the results; None: ``runs/compare/<data>``.
        options: for every run: sections ``optim``, ``task``, ``trainer`` and ``data``, each a mapping of options.
        timeout: seconds that one process may take; None: ten times a budget in seconds and ten minutes, or no limit.
        level: a value of the validation measure; the seconds of training until it was reached are told too.
        say: called with each line of progress; None: silent.

    Returns:
        rows with ``model``, ``solver``, ``adjoint``, ``status``, ``error``, ``seeds``; ``values`` (means over seeds),
        ``std``, ``reasons`` (why a value is missing), ``recipe``, ``environments`` and ``curves``.

    Raises:
        UsageError: a budget that is none, or a folder that cannot be written.
    """
    models = [models] if isinstance(models, str) else list(models)
    jobs = jobs_of(models, data, seeds, budget, solvers, adjoints, options or {})
    folder = Path(out) if out is not None else Path("runs") / "compare" / jobs[0].data
    return summarise(run_all(jobs, folder, timeout=timeout, say=say or (lambda line: None)), level)
