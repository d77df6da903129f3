"""The first and the last lines of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer

from zoo.callbacks.checkpointing import BestAndLastCheckpoint
from zoo.data import DATA
from zoo.hypernet.compression import BatchSize, Compression, compression
from zoo.implicit import implicit_modules
from zoo.solvers import SOLVERS
from zoo.tasks.base import Task
from zoo.tasks.metrics import primary_metric
from zoo.training.options import Options
from zoo.training.request import Request

TWIN = "resnet_tiny"  # the explicit model that a classifier is best compared with


def closing(results: Mapping[str, Any], folder: Path, short: str, others: Sequence[str], epochs: int) -> str:
    """The last lines of a run: what it reached, what it took, where it lies, what to try next.

    Args:
        results: the content of ``results.json``.
        folder: the run folder.
        short: the name to call the model by.
        others: other data sets that it trains on.
        epochs: a number of epochs to continue to; below 1 where the clock ended the run.
    """
    test, train, data = results["test"], results["train"], results["data"]
    lines = []
    best, shown = results["best"], primary_metric(results)
    if shown.key in test:
        score = best.get(f"val/{shown.key}")
        note = f"weights of epoch {best['epoch']}"
        if score is not None and math.isfinite(score):
            note += f", validation {shown.write(score)}"
        name = shown.key if len(shown.key) <= 10 else shown.short
        lines.append((f"test {name}", f"{shown.write(test[shown.key])}   ({note})"))
    lines.append(
        ("training time", f"{spell(results['seconds'])}   ({results['epochs']} epochs, {results['steps']} steps)")
    )
    if "nfe_forward" in test:
        ended = "reached the last time" if "accepted" in test and "residual" not in test else "converged"
        text = f"{test['nfe_forward']:.1f} forward at the test, {test['converged']:.0%} of the samples {ended}"
        if "nfe_forward" in train:
            back = f" + {train['nfe_backward']:.1f} backward" if "nfe_backward" in train else ""
            text = f"{train['nfe_forward']:.1f} forward{back} a training step; {text}"
        lines.append(("evaluations", text))
    lines.append(("run folder", f"{folder}   (training.png, results.json, metrics.csv, config.yaml, checkpoints/)"))
    commands = [f"--model {short} --data {others[0]}"] if others else []
    if results["solver"]:
        name = results["solver"]["name"]
        usual = ("dopri5", "tsit5") if name in SOLVERS.names(kind="ode") else ("anderson", "broyden")
        other = usual[0] if name != usual[0] else usual[1]
        commands.append(f"--model {short} --data {data} --solver {other}")
    if epochs > 0:
        commands.append(f"--resume {folder} --trainer.max_epochs {epochs}")
    commands = [f"python -m zoo.fit {c}" for c in commands]
    if DATA.entry(data).kind == "classification" and results["model"] != TWIN:
        commands.append(f"python -m zoo.compare --models {results['model']} {TWIN} --data {data}")
    lines += [("try next" if i == 0 else "", c) for i, c in enumerate(commands)]
    return "\n" + "\n".join(f"{label:<16}{text}" for label, text in lines)


def spell(seconds: float) -> str:
    """A time as a person says it."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{seconds:.1f} s"


def opening(task: Task, data: Any, options: Options, trainer: Trainer, folder: Path, request: Request) -> str:
    count = sum(p.numel() for p in task.model.parameters())
    solver, adjoint = options.spec("solver"), options.spec("adjoint")
    how = ""
    if solver and adjoint and implicit_modules(task.model):
        how = f", solver {solver['name']} (at most {solver.get('max_steps')} steps), adjoint {adjoint['name']}"
        how += ", compiled" if "compile" in request.switches else ""
    device = trainer.strategy.root_device.type
    where = f"{torch.get_num_threads()} CPU threads" if device == "cpu" else f"{trainer.world_size} x {device}"
    start = f"\nIt starts from the weights of {options.pretrained}" if options.pretrained else ""
    verb = f"continues from {request.resume}" if request.resume else f"goes to {folder}"
    first = f"{options.names['model']} on {options.names['data']}: {count:,} parameters{how}, {where}"
    report = generated(task, data)
    weights = f"\n{report}" if report else ""
    return f"{first}{weights}\nThe run {verb}{start}"


def interrupted(folder: Path, keeper: BestAndLastCheckpoint, trainer: Trainer) -> str:
    if not keeper.last.exists():
        return f"\nInterrupted before the first step was done; {folder} holds no checkpoint."
    when = "at this step" if keeper.stopping else "when it was last saved"
    return (
        f"\nInterrupted in epoch {trainer.current_epoch + 1}, step {trainer.global_step}; "
        f"{keeper.last} holds the state {when}.\ncontinue with   python -m zoo.fit --resume {folder}"
    )


def generated(task: Task, data: Any) -> Compression | None:
    """What a hypernetwork saves, and the memory of what it writes for a training batch of one process."""
    size = {"samples": "batch_size", "steps": "length", "ways": "train_ways"}
    batch = BatchSize(**{k: getattr(data, name, 1) for k, name in size.items()})
    return compression(task.model, batch)
