"""Runs a comparison: one process for each model and seed, one line of JSON for each result. Imports no torch.

A crash, a time-out or a wrong name costs one row, which says so. Results are appended as they come; a comparison that
was stopped goes on where it was, and tries again what failed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from zoo.data import DATA
from zoo.hub import cards
from zoo.registry import UnknownName, unknown
from zoo.training.errors import UsageError

HALVINGS = 3  # of the batch, where memory runs out
KILLED = -9  # what the kernel does to a process that takes too much memory
LOADED = "the weights were loaded, not trained here"  # why a model that came trained has no time of training
SECTIONS = ("optim", "task", "trainer", "data", "model")


@dataclass(frozen=True)
class Job:
    """One model, trained once and measured.

    Attributes:
        model: the name as it was given.
        data: the data set.
        seed: of everything random.
        solver, adjoint: instead of the model's own; None: those.
        options: sections of options, the budget among them.
        error: why it cannot run; empty where it can.
    """

    model: str
    data: str
    seed: int = 0
    solver: str | None = None
    adjoint: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""

    @property
    def key(self) -> str:
        """The same for the same work."""
        work = {k: v for k, v in asdict(self).items() if k != "error"}
        return hashlib.sha256(json.dumps(work, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def label(self) -> str:
        parts = [self.model, *(p for p in (self.solver, self.adjoint) if p)]
        return f"{' '.join(parts)}, seed {self.seed}"

    @property
    def card_name(self) -> str:
        return "timm" if self.model.startswith("timm:") else self.model

    def model_options(self) -> dict[str, Any]:
        """The ``model`` section of a run: ``timm:NAME`` is the card `timm` with that architecture."""
        arch = self.model.partition(":")[2]
        given = dict(self.options.get("model", {}))
        return {"name": "timm", "arch": arch, **given} if arch else {"name": self.model, **given}


def budget_options(budget: str | int | None) -> dict[str, Any]:
    """The Trainer's options of a budget: "60s", "5m", "2h", "3 epochs", 3.

    Raises:
        UsageError: it is none of these.
    """
    if budget is None:
        return {}
    found = re.fullmatch(r"\s*(\d+)\s*([a-z]*)\s*", str(budget).lower())
    units = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "": 0, "epoch": 0, "epochs": 0}
    if found is None or found[2] not in units or int(found[1]) < 1:
        raise UsageError(f"--budget takes a time (60s, 5m, 2h) or a number of epochs (3 epochs); got {budget!r}")
    count, unit = int(found[1]), units[found[2]]
    if not unit:
        return {"max_epochs": count}
    minutes, seconds = divmod(count * unit, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return {"max_epochs": -1, "max_time": f"{days:02}:{hours:02}:{minutes:02}:{seconds:02}"}


def jobs_of(
    models: Sequence[str],
    data: str | None,
    seeds: Sequence[int],
    budget: str | int | None,
    solvers: Sequence[str],
    adjoints: Sequence[str],
    options: Mapping[str, Any],
) -> list[Job]:
    """What has to be run, seeds last: every model has its first result before any has its second.

    A model that is not known, or is for another kind of data, becomes a job that says why it cannot run.

    Raises:
        UsageError, UnknownName: nothing to compare, no such data set, budget or section of options.
    """
    if not models or not seeds:
        raise UsageError("nothing to compare: name at least one model and one seed")
    for section in options:
        if section not in SECTIONS:
            raise UnknownName(unknown("section of options", section, SECTIONS))
    if data is None:
        known = [m for m in models if not _problem(m, None)]
        data = cards.card(_card_name(known[0])).data[0] if known else DATA.names()[0]
    if data not in DATA:
        raise UnknownName(unknown("data set", data, DATA.names()))
    options = {k: dict(v) for k, v in options.items()}
    if budget is not None:
        options["trainer"] = {**options.get("trainer", {}), **budget_options(budget)}
    jobs = []
    for seed in seeds:
        for model in models:
            error = _problem(model, data)
            implicit = not error and bool(cards.card(_card_name(model)).solver)
            for solver in solvers if solvers and implicit else [None]:
                for adjoint in adjoints if adjoints and implicit else [None]:
                    jobs.append(Job(model, data, int(seed), solver, adjoint, options, error))
    return jobs


def run_all(
    jobs: Sequence[Job], folder: Path, *, timeout: float | None = None, say: Callable[[str], None] = print
) -> list[dict[str, Any]]:
    """Run what is missing; returns the newest row of each job, in their order.

    Raises:
        UsageError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "rows.jsonl").open("a"):
            pass
    except OSError as error:
        raise UsageError(f"cannot write results to {folder}: {error.strerror}; choose another --out") from error
    rows = read_rows(folder)
    begun = time.monotonic()
    for i, job in enumerate(jobs, 1):
        place = f"[{i}/{len(jobs)}] {job.label}"
        if rows.get(job.key, {}).get("status") == "finished":
            say(f"{place}: measured before")
            continue
        say(f"{place}: begins ({time.monotonic() - begun:.0f} s so far)")
        row = run_one(job, folder, timeout)
        rows[job.key] = row
        try:
            append(folder / "rows.jsonl", json.dumps(row))
        except OSError as error:  # a full disk: the row is shown all the same
            say(f"{place}: its row could not be saved ({error.strerror})")
        say(f"{place}: {_outcome(row)}")
    return [rows[job.key] for job in jobs]


def append(file: Path, line: str) -> None:
    """Add a line; where the last one was cut off in writing, it is ended first, so that it costs no other."""
    with file.open("ab+") as stream:
        if stream.seek(0, os.SEEK_END):
            stream.seek(-1, os.SEEK_END)
            line = line if stream.read(1) == b"\n" else f"\n{line}"
        stream.write(f"{line}\n".encode())


def read_rows(folder: Path) -> dict[str, dict[str, Any]]:
    """The newest row of each key, with its recipe; a line that was cut off in writing is left out."""
    rows = {}
    for line in (folder / "rows.jsonl").read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
            rows[row["key"]] = row
        except (json.JSONDecodeError, KeyError, TypeError):
            continue
    for row in rows.values():
        if row.get("status") == "finished" and "recipe" not in row:  # written before rows had one: its run knows
            row["recipe"] = _recipe_of_run(folder, row)
    return rows


def recipe(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a run's configuration says of its training, in a few words: optimiser, rate, batches, and when it ends."""
    optim, trainer = config.get("optim", {}), config.get("trainer", {})
    said = {
        "optimiser": optim.get("name"),
        "lr": optim.get("lr"),
        "batch_size": config.get("data", {}).get("batch_size"),
        "max_time": trainer.get("max_time"),
        "max_steps": trainer.get("max_steps"),
        "max_epochs": trainer.get("max_epochs"),
    }
    return {k: v for k, v in said.items() if v not in (None, -1)}


def _recipe_of_run(folder: Path, row: Mapping[str, Any]) -> dict[str, Any]:
    runs = sorted(run_folder(folder, row["model"], row["key"]).glob("*/config.yaml"))
    try:
        return recipe(yaml.safe_load(runs[-1].read_text(encoding="utf-8"))) if runs else {}
    except (OSError, yaml.YAMLError, AttributeError):
        return {}


def run_folder(folder: Path, model: str, key: str) -> Path:
    """Where a job's training is kept: a folder a try."""
    return folder / "runs" / f"{model.replace(':', '_')}_{key}"


def run_one(job: Job, folder: Path, timeout: float | None = None) -> dict[str, Any]:
    """Train and measure in a process of its own; where memory runs out, again with half the batch."""
    if job.error:
        return failure(job, job.error)
    key, notes = job.key, []
    row: dict[str, Any] = {}
    for _ in range(HALVINGS + 1):
        row = _process(job, folder, timeout or _patience(job))
        if row["status"] != "out of memory":
            break
        size = _batch_size(job)
        if size < 2:
            break
        notes.append(f"out of memory with batches of {size}")
        job = replace(job, options={**job.options, "data": {**job.options.get("data", {}), "batch_size": size // 2}})
    if notes:
        measured = [f"measured with {_batch_size(job)}"] if row["status"] == "finished" else []
        row["note"] = "; ".join([*notes, *measured])
    return {**row, "key": key}  # of what was asked for: halved batches are no other work


def failure(job: Job, error: str, status: str = "failed") -> dict[str, Any]:
    """The row of a job that gave no numbers."""
    return {"key": job.key, **asdict(job), "status": status, "error": error, "values": {}, "reasons": {}, "curves": {}}


def _process(job: Job, folder: Path, patience: float | None) -> dict[str, Any]:
    logs = folder / "logs"
    log, answer = logs / f"{job.key}.log", logs / f"{job.key}.json"
    command = [sys.executable, "-m", "zoo.compare.worker", json.dumps(asdict(job)), str(folder), str(answer)]
    environment = {k: v for k, v in os.environ.items() if k != "ZOO_RUN_FOLDER"}
    try:
        logs.mkdir(exist_ok=True)
        answer.unlink(missing_ok=True)
        with log.open("w", encoding="utf-8") as stream:
            done = subprocess.run(command, stdout=stream, stderr=subprocess.STDOUT, env=environment, timeout=patience)
    except subprocess.TimeoutExpired:
        return failure(job, f"stopped after {patience:.0f} s, which is --timeout; its output: {log}")
    except OSError as error:  # a full disk, or no room for another process
        return failure(job, f"could not be started with its log {log}: {error.strerror}; make room and call again")
    try:
        row = json.loads(answer.read_text(encoding="utf-8"))
        answer.unlink()
        return {**row, "key": job.key}
    except (OSError, json.JSONDecodeError):
        pass
    if done.returncode == KILLED:
        return failure(job, f"killed, most likely for want of memory; its output: {log}", "out of memory")
    ended = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
    said = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return failure(job, f"ended with {ended}{': ' + said[-1][:200] if said else ''}; its output: {log}")


def _problem(model: str, data: str | None) -> str:
    """Why a model cannot be compared on a data set; empty where it can."""
    try:
        card = cards.card(_card_name(model))
    except (UnknownName, cards.CardError) as error:
        return str(error)
    kind = card.task.partition(":")[0].rpartition(".")[2]
    if data in DATA and DATA.entries(data)[0].kind != kind:
        return f"{model} is for {kind}; {data} is for {DATA.entries(data)[0].kind}."
    return ""


def _card_name(model: str) -> str:
    return "timm" if model.startswith("timm:") else model


def _batch_size(job: Job) -> int:
    usual = cards.recipe(job.card_name, job.data).get("data", {}).get("batch_size", 64)
    return int(job.options.get("data", {}).get("batch_size", usual))


def _patience(job: Job) -> float | None:
    limit = job.options.get("trainer", {}).get("max_time")
    if limit is None:
        return None
    days, hours, minutes, seconds = (int(part) for part in limit.split(":"))
    return 600.0 + 10 * (86400 * days + 3600 * hours + 60 * minutes + seconds)


def _outcome(row: Mapping[str, Any]) -> str:
    if row["status"] != "finished":
        return f"{row['status']}: {row['error']}"
    score, name = row["values"].get("score"), row.get("metric", "score")
    if score is None:
        return "done"
    seconds = row["values"].get("seconds")
    return f"{name} {score:.4g}" + (f" in {seconds:.0f} s of training" if seconds is not None else "")
