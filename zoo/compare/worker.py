"""The process of one row: train as ``python -m zoo.fit`` does, then measure. Started by `zoo.compare.runner`."""

from __future__ import annotations

import json
import sys
import traceback
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from zoo.compare.measure import measure, training_curves
from zoo.compare.runner import LOADED, Job, failure, recipe, run_folder
from zoo.hub import cards
from zoo.hub.factory import create_model
from zoo.storage.files import write_json
from zoo.training.build import build_run
from zoo.training.environment import environment
from zoo.training.evaluate import measure as tested
from zoo.training.options import Options
from zoo.training.process import prepare
from zoo.training.request import Request, resolve
from zoo.training.run import run_training
from zoo.training.run_folder import new_folder


def work(job: Job, folder: Path) -> dict[str, Any]:
    """Train (or load the weights that ``name.tag`` stands for) and measure; the row of a comparison."""
    trained = job.model in cards.list_models(pretrained=True)
    request = request_of(job)
    options = Options(request)
    curves: dict[str, Any] = {}
    if trained:
        task, data, _ = build_run(options, job.seed)
        specs = {k: getattr(job, k) for k in ("solver", "adjoint") if getattr(job, k)}
        task.model = create_model(job.model, pretrained=True, **specs)
        trained_by = task.model.pretrained.training.get("recipe", {})  # type: ignore[union-attr]
        test, _, _, _ = tested(task.model, cards.card(job.model), job.data, root=None, batch_size=256, limit=None)
        values: dict[str, Any] = {}
        reasons = dict.fromkeys(("seconds", "epochs"), LOADED)
    else:
        place = run_folder(folder, job.model, job.key)
        run = new_folder(place.parent, place.name)
        results = run_training(replace(request, out=run))
        test, values, reasons = results["test"], {"seconds": results["seconds"], "epochs": results["epochs"]}, {}
        task, data, _ = build_run(options, job.seed)
        best = run / "checkpoints" / "best.ckpt"
        saved = best if best.is_file() else run / "checkpoints" / "last.ckpt"
        if saved.is_file():
            state = torch.load(saved, map_location="cpu", weights_only=True)["state_dict"]
            task.load_state_dict(state)
        curves, trained_by = training_curves(run / "metrics.csv", task.monitor), options.config()
    metric = task.monitor.partition("/")[2]
    values["score"], values["test_loss"] = test.get(metric), test.get("loss")
    measured, why, shapes = measure(task, data)
    return {
        "key": job.key,
        **asdict(job),
        "status": "finished",
        "error": "",
        "metric": metric,
        "maximise": task.maximise,
        "values": {k: v for k, v in {**values, **measured}.items() if v is not None},
        "reasons": {**reasons, **why},
        "curves": {**curves, **shapes},
        "recipe": recipe(trained_by),
        "environment": environment(),
    }


def request_of(job: Job) -> Request:
    """The run of a job, as the command line would give it."""
    sections = {"model": job.model_options(), "data": {"name": job.data}}
    sections |= {k: {"name": getattr(job, k)} for k in ("solver", "adjoint") if getattr(job, k)}
    for section, values in job.options.items():
        sections[section] = {**sections.get(section, {}), **values}
    sections.setdefault("trainer", {}).setdefault("enable_progress_bar", True)
    argv = [f"--seed={job.seed}"]
    for section, values in sections.items():
        argv += [f"--{section}.{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in values.items()]
    return resolve(argv)


def main(argv: list[str]) -> int:
    prepare()
    job, folder, answer = Job(**json.loads(argv[0])), Path(argv[1]), Path(argv[2])
    try:
        row = work(job, folder)
    except (torch.OutOfMemoryError, MemoryError) as error:
        row = failure(job, str(error).splitlines()[0], "out of memory")
    except Exception as error:
        traceback.print_exc()
        full = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
        text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        row = failure(job, text, "out of memory" if full else "failed")
    write_json(answer, row)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
