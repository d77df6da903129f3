"""The process of one row: train as ``python -m zoo.fit`` does, then measure. Started by `zoo.compare.runner`."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from zoo.compare.jobs import CHOSEN, Job
from zoo.compare.measure import measure, training_curves
from zoo.compare.rows import LOADED, failure, recipe, run_folder
from zoo.hub import cards
from zoo.hub.factory import create_model
from zoo.hub.trained import trained_config
from zoo.registry import UnknownName, sentence
from zoo.storage.files import write_json
from zoo.tasks.base import Task
from zoo.training.build import build_run, load_weights
from zoo.training.environment import environment
from zoo.training.errors import UsageError
from zoo.training.evaluate import measure as tested
from zoo.training.evaluate import recipe_of
from zoo.training.options import Options
from zoo.training.process import prepare
from zoo.training.request import Request, request_of
from zoo.training.run import run_training
from zoo.training.run_folder import new_folder

TRAINER = {"enable_progress_bar": True}  # lines of each epoch, which the runner shows


def work(job: Job, folder: Path) -> dict[str, Any]:
    """Train (or load the weights that ``name.data`` stands for) and measure; the row of a comparison."""
    options = Options(request(job))
    curves: dict[str, Any] = {}
    if job.loads:
        task, data, _ = build_run(options, job.seed)
        task.model = create_model(job.model, pretrained=True, **{k: getattr(job, k) for k in CHOSEN})
        saved = trained_config(task.model)
        trained_by: Mapping[str, Any] = recipe_of(saved) if saved is not None else {}
        test, _, _, _ = tested(task.model, cards.card(job.model), job.data, root=None, batch_size=256, limit=None)
        values: dict[str, Any] = {}
        reasons = dict.fromkeys(("seconds", "epochs"), LOADED)
    else:
        run, results = trained(job, folder)
        test, values, reasons = results["test"], {"seconds": results["seconds"], "epochs": results["epochs"]}, {}
        # afresh: the task that was trained keeps what training left in it (memories, a warm-up's solver)
        task, data, _ = build_run(options, job.seed, fresh=False)
        load_best(task, run)
        curves, trained_by = training_curves(run / "metrics.csv", task.monitor), options.config()
    metric = task.monitor.partition("/")[2]
    values["score"], values["test_loss"] = test.get(metric), test.get("loss")
    print("measuring", flush=True)
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


def request(job: Job, **how: Any) -> Request:
    """The run of a job. Options that are text are read as those of a command line."""
    sections = job.sections()
    sections["trainer"] = {**TRAINER, **sections.get("trainer", {})}
    text = [(s, k) for s, values in sections.items() for k, v in values.items() if isinstance(v, str) and k != "name"]
    flags = [(f"{s}.{k}", sections[s].pop(k)) for s, k in text]
    return request_of(sections, flags=flags, seed=job.seed, **how)


def trained(job: Job, folder: Path) -> tuple[Path, Mapping[str, Any]]:
    """The run folder of a job and its results: trained before, gone on with, or trained now."""
    place = run_folder(folder, job.model, job.key)
    tries = sorted(p.parent.parent for p in place.glob("*/checkpoints/last.ckpt"))
    newest = tries[-1] if tries else None
    before = _results(newest) if newest is not None else {}
    if newest is not None and before.get("status") == "finished":
        return newest, before
    if newest is not None and before.get("status", "interrupted") == "interrupted":
        try:
            done = run_training(request(job, resume=newest))
            return done.folder, done.results
        except (UsageError, UnknownName, ValueError) as error:
            print(f"{newest} cannot be continued ({sentence(error)}); the training begins anew", flush=True)
    run = new_folder(place.parent, place.name)
    done = run_training(request(job, out=run))
    return done.folder, done.results


def load_best(task: Task, run: Path) -> None:
    """Give a task the best weights of a run, or its last ones where it kept no best."""
    files = [run / "checkpoints" / f"{name}.ckpt" for name in ("best", "last")]
    load_weights(task, next((f for f in files if f.is_file()), files[0]))


def problem(job: Job) -> str:
    """Why a job cannot run, found by building its model and asking for its data; empty where it can."""
    try:
        _, data, _ = build_run(Options(request(job)), job.seed)
        if job.loads:
            create_model(job.model, pretrained=True, **{k: getattr(job, k) for k in CHOSEN})
        data.prepare_data()
    except (MemoryError, torch.OutOfMemoryError):
        return ""  # its row will say so, or be measured with smaller batches
    except Exception as error:
        return sentence(error)
    return ""


def _results(run: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((run / "results.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _row(job: Job, folder: Path) -> dict[str, Any]:
    try:
        return work(job, folder)
    except (torch.OutOfMemoryError, MemoryError) as error:
        return failure(job, sentence(error), "out of memory")
    except Exception as error:
        traceback.print_exc()
        full = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
        return failure(job, sentence(error), "out of memory" if full else "failed")


def main(argv: list[str]) -> int:
    """Do what a file of the runner asks for, and write the answer where it says."""
    prepare()
    asked = json.loads(Path(argv[0]).read_text(encoding="utf-8"))
    answer = Path(asked["answer"])
    if "check" in asked:
        write_json(answer, {"problems": [problem(Job(**job)) for job in asked["check"]]})
    else:
        write_json(answer, _row(Job(**asked["job"]), Path(asked["folder"])))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
