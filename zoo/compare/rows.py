"""The rows of a comparison on disk: a line of JSON for each result, kept in ``rows.jsonl``. Imports no torch."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from zoo.compare.jobs import Job

ROWS = "rows.jsonl"
LOADED = "the weights were loaded, not trained here"  # why a model that came trained has no time of training


def append(file: Path, line: str) -> None:
    """Add a line; where the last one was cut off in writing, it is ended first, so that it costs no other."""
    with file.open("ab+") as stream:
        if stream.seek(0, os.SEEK_END):
            stream.seek(-1, os.SEEK_END)
            line = line if stream.read(1) == b"\n" else f"\n{line}"
        stream.write(f"{line}\n".encode())


def read_rows(folder: Path) -> dict[str, dict[str, Any]]:
    """The newest row of each key, with its recipe, in the order of the first; a line that was cut off is left out."""
    rows: dict[str, dict[str, Any]] = {}
    if not (folder / ROWS).is_file():
        return rows
    for line in (folder / ROWS).read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
            rows[row["key"]] = row
        except (json.JSONDecodeError, KeyError, TypeError):
            continue
    for row in rows.values():
        if row.get("status") == "finished" and "recipe" not in row:  # written before rows had one: its run knows
            row["recipe"] = _recipe_of_run(folder, row)
    return rows


def failure(job: Job, error: str, status: str = "failed") -> dict[str, Any]:
    """The row of a job that gave no numbers."""
    return {"key": job.key, **asdict(job), "status": status, "error": error, "values": {}, "reasons": {}, "curves": {}}


def recipe(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a run's configuration says of its training, in a few words: optimizer, rate, batches, and when it ends."""
    optim, trainer = config.get("optim", {}), config.get("trainer", {})
    found = {
        "optimiser": optim.get("name"),
        "lr": optim.get("lr"),
        "batch_size": config.get("data", {}).get("batch_size"),
        "max_time": trainer.get("max_time"),
        "max_steps": trainer.get("max_steps"),
        "max_epochs": trainer.get("max_epochs"),
    }
    return {k: v for k, v in found.items() if v not in (None, -1)}


def run_folder(folder: Path, model: str, key: str) -> Path:
    """Where a job's training is kept: a folder a try."""
    return folder / "runs" / f"{model.replace(':', '_')}_{key}"


def _recipe_of_run(folder: Path, row: Mapping[str, Any]) -> dict[str, Any]:
    runs = sorted(run_folder(folder, row["model"], row["key"]).glob("*/config.yaml"))
    try:
        return recipe(yaml.safe_load(runs[-1].read_text(encoding="utf-8"))) if runs else {}
    except (OSError, yaml.YAMLError, AttributeError):
        return {}
