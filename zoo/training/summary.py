"""The first and the last lines of a run."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from zoo.data import DATA
from zoo.data.registry import is_import_path
from zoo.hub import cards
from zoo.implicit import implicit_modules
from zoo.solvers import SOLVERS
from zoo.tasks.metrics import primary_metric
from zoo.training.results import Session, generated

TWIN = "resnet_tiny"  # the explicit model that a classifier is best compared with
FILES = ("training.png", "results.json", "metrics.csv", "config.yaml", "checkpoints")  # named if they are there


def closing(run: Session, results: Mapping[str, Any]) -> str:
    """The last lines of a run: what it reached, what it took, where it lies, what to try next."""
    test, train = results["test"], results["train"]
    lines = []
    best, shown = results["best"], primary_metric(results)
    if shown.key in test:
        score = best.get(f"val/{shown.key}")
        note = f"weights of epoch {best['epoch']}"
        if score is not None and math.isfinite(score):
            note += f", validation {shown.write(score)}"
        name = shown.key if len(shown.key) <= 10 else shown.short
        lines.append((f"test {name}", f"{shown.write(test[shown.key])}   ({note})"))
    took = f"{results['epochs']} epochs, {results['steps']} steps"
    lines.append(("training time", f"{format_duration(results['seconds'])}   ({took})"))
    if "nfe_forward" in test:
        ended = "reached the last time" if "accepted" in test and "residual" not in test else "converged"
        text = f"{test['nfe_forward']:.1f} forward at the test, {test['converged']:.0%} of the samples {ended}"
        if "nfe_forward" in train:
            back = f" + {train['nfe_backward']:.1f} backward" if "nfe_backward" in train else ""
            text = f"{train['nfe_forward']:.1f} forward{back} a training step; {text}"
        lines.append(("evaluations", text))
    files = [f"{p.name}/" if p.is_dir() else p.name for p in map(run.folder.joinpath, FILES) if _holds_something(p)]
    lines.append(("run folder", f"{run.folder}   ({', '.join(files)})"))
    lines += [("try next" if i == 0 else "", c) for i, c in enumerate(_commands(run, results))]
    return "\n" + "\n".join(f"{label:<16}{text}" for label, text in lines)


def _holds_something(path: Path) -> bool:
    """Whether it is a file, or a folder with something in it: an empty one is removed when the run ends."""
    return any(path.iterdir()) if path.is_dir() else path.exists()


def _commands(run: Session, results: Mapping[str, Any]) -> list[str]:
    """What to try next: another data set, another solver, more epochs, a comparison."""
    card, data = run.options.card, results["data"]
    if card is None or data not in DATA:
        return []  # an object cannot be named on a command line
    own = card.family == cards.OWN
    short = card.path if own else card.aliases[0] if card.aliases else card.name
    given = [k for k in sorted(run.options.given) if k.startswith("data.") and k != "data.name"]
    values = run.options.section("data")
    mine = [w for k in given for w in (f"--{k}", _word(values.get(k.removeprefix("data."))))]  # where your files are
    others = [d for d in card.data if d != data and not DATA.entry(d).path.startswith("zoo.data.own.")]
    words = [["--model", short, "--data", others[0]]] if others else []
    if results["solver"]:
        name = results["solver"]["name"]
        usual = ("dopri5", "tsit5") if name in SOLVERS.names(kind="ode") else ("anderson", "broyden")
        other = usual[0] if name != usual[0] else usual[1]
        words.append(["--model", short, "--data", data, *mine, "--solver", other])
    epochs = 2 * (run.trainer.max_epochs or 1)
    if epochs > 0 and run.keeper.last.exists():  # below 0: the clock ended the run
        named = [*(["--model", short] if own else []), *(["--data", data] if is_import_path(data) else [])]
        words.append(["--resume", str(run.folder), *named, "--trainer.max_epochs", str(epochs)])
    commands = [f"python -m zoo.fit {shlex.join(w)}" for w in words]
    pictures = hasattr(run.task.model, "in_chans")  # the twin looks at nothing else
    if own or is_import_path(data) or not pictures:
        return commands  # a comparison starts processes that do not know code of the user's own
    if "classification" in DATA.entry(data).kind.split() and results["model"] != TWIN and TWIN in cards.all_cards():
        commands.append(
            f"python -m zoo.compare --models {results['model']} {TWIN} {shlex.join(['--data', data, *mine])}"
        )
    return commands


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def format_duration(seconds: float) -> str:
    """A duration in words.

    >>> format_duration(7.25), format_duration(61), format_duration(3661)
    ('7.2 s', '1 min 1 s', '1 h 1 min')
    """
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{seconds:.1f} s"


def opening(run: Session) -> str:
    """The first lines of a run: the model, its data, how it is solved, and where the run goes."""
    options, trainer, model = run.options, run.trainer, run.task.model
    count = sum(p.numel() for p in model.parameters())
    solver, adjoint = options.spec("solver"), options.spec("adjoint")
    how = ""
    if solver and adjoint and implicit_modules(model):
        how = f", solver {solver['name']} (at most {solver.get('max_steps')} steps), adjoint {adjoint['name']}"
        how += ", compiled" if "compile" in run.request.switches else ""
    device = trainer.strategy.root_device.type
    where = f"{torch.get_num_threads()} CPU threads" if device == "cpu" else f"{trainer.world_size} x {device}"
    start = f"\nIt starts from the weights of {options.pretrained}" if options.pretrained else ""
    verb = f"continues from {run.request.resume}" if run.request.resume else f"goes to {run.folder}"
    first = f"{options.names['model']} on {options.names['data']}: {count:,} parameters{how}, {where}"
    report = generated(run.task, run.data)
    weights = f"\n{report}" if report else ""
    return f"{first}{weights}\nThe run {verb}{start}"


def interrupted(run: Session) -> str:
    """What a run that was stopped leaves, and the command that continues it."""
    keeper, trainer, folder = run.keeper, run.trainer, run.folder
    if not keeper.last.exists():
        return f"\nInterrupted before the first step was done; {folder} holds no checkpoint."
    when = "at this step" if keeper.stopping else "when it was last saved"
    return (
        f"\nInterrupted in epoch {trainer.current_epoch + 1}, step {trainer.global_step}; "
        f"{keeper.last} holds the state {when}.\n"
        f"continue with   {shlex.join(['python', '-m', 'zoo.fit', '--resume', str(folder)])}"
    )
