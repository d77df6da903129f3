"""Compare models from Python: `compare_models`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.compare.jobs import Job, jobs_of
from zoo.compare.rows import read_rows
from zoo.compare.runner import run_all
from zoo.compare.table import summarize

NAME = "compare"  # of the files of a report


@dataclass(frozen=True)
class Comparison:
    """What a comparison found.

    Attributes:
        asked: rows of the jobs that were asked for, each over its seeds.
        rows: rows of the report: all that the folder has on this data set.
        files: the report.
    """

    asked: list[dict[str, Any]]
    rows: list[dict[str, Any]]
    files: list[Path]


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
    """Train and measure models side by side; return a row a model (and solver, and adjoint), over its seeds.

    Each model and seed runs in its own process: a crash costs its row, which then says so. What was measured is kept
    in ``out``, beside what was measured there before, and a report of it all (``compare.html``, ``.md``, ``.csv``,
    ``.json``); calling again measures only what is missing or has failed.

    Args:
        models: names of `zoo.list_models`, or ``timm:NAME`` for a model of timm.
        data: a data set; None: the default of the first model.
        seeds: every model is trained once for each.
        budget: of training: "60s", "5m", or a number of epochs; None: what each model's recipe says.
        solvers, adjoints: measure each implicit model with each of these, instead of its own.
        out: folder of the results; None: ``runs/compare/<data>``.
        options: for every run, by section (``optim``, ``task``, ``trainer``, ``data``, ...) a mapping of options.
        timeout: seconds that one process may take; None: ten times a budget in seconds and ten minutes, or no limit.
        level: a value of the validation measure; the seconds of training until it was reached are measured too.
        say: called with each line of progress; None: silent.

    Returns:
        rows with ``model``, ``solver``, ``adjoint``, ``status``, ``error``, ``seeds``; ``values`` (means over seeds),
        ``std``, ``reasons`` (why a value is missing), ``recipe``, ``environments`` and ``curves``.

    Raises:
        UsageError, UnknownName: a name, an option or a budget that is none, a model of another kind than the data, or a
            folder that cannot be written; nothing was trained then.
    """
    models = [models] if isinstance(models, str) else list(models)
    jobs = jobs_of(models, data, seeds, budget, solvers, adjoints, options or {})
    folder = Path(out) if out is not None else default_folder(jobs)
    quiet: Callable[[str], None] = lambda line: None  # noqa: E731
    return compare_jobs(jobs, folder, timeout=timeout, level=level, say=say or quiet).asked


def default_folder(jobs: Sequence[Job]) -> Path:
    """Where results go unless ``out`` says otherwise."""
    return Path("runs") / "compare" / jobs[0].data


def compare_jobs(
    jobs: Sequence[Job],
    folder: Path,
    *,
    name: str = NAME,
    timeout: float | None = None,
    level: float | None = None,
    say: Callable[[str], None] = print,
) -> Comparison:
    """Run what is missing, and write the report of all that the folder has on the data set."""
    from zoo.compare.report import write_report

    found = run_all(jobs, folder, timeout=timeout, say=say)
    kept = {row["key"]: row for row in read_rows(folder).values() if row.get("data") == jobs[0].data}
    rows = summarize(list({**kept, **{row["key"]: row for row in found}}.values()), level)
    return Comparison(summarize(found, level), rows, write_report(rows, folder, name))
