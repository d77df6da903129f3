"""Trials by Optuna: each is suggested, trained as ``python -m zoo.fit`` does, pruned by its validation, and kept."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning import Callback, LightningModule, Trainer

from zoo.callbacks.checkpointing import Interrupted
from zoo.registry import UnknownName, sentence, unknown
from zoo.sweep.search import Dimension
from zoo.training.build import build_run
from zoo.training.errors import UsageError
from zoo.training.options import Options
from zoo.training.request import Request, request_of
from zoo.training.run import run_training

if TYPE_CHECKING:
    import optuna

FILE = "study.db"  # the study in the sweep's folder, unless another storage is named
Say = Callable[[str], None]


@dataclass(frozen=True)
class Sweep:
    """What is searched.

    Attributes:
        model, data: names.
        space: the options that are searched.
        fixed: options of every trial, as words by ``section.option``.
        folder: of the trainings, the report, and the study unless ``storage`` is named.
        name: of the study.
        storage: a URL of Optuna's; empty: SQLite in the folder.
        seed: of the sampler and of every training.
        sampler: "tpe" or "random".
        pruner: "median", "hyperband" or "none".
    """

    model: str
    data: str
    space: Sequence[Dimension]
    folder: Path
    name: str
    fixed: Mapping[str, str] = field(default_factory=dict)
    storage: str = ""
    seed: int = 0
    sampler: str = "tpe"
    pruner: str = "median"

    def request(self, values: Mapping[str, str], out: Path | None = None, callback: Callback | None = None) -> Request:
        """The training with these values of the searched options."""
        sections: dict[str, Any] = {"model": self.model, "data": self.data}
        names = {k: v for k, v in {**self.fixed, **values}.items() if k.endswith(".name")}
        sections |= {k.partition(".")[0]: v for k, v in names.items()}
        flags = [(k, v) for k, v in {**self.fixed, **values}.items() if k not in names]
        sections["trainer"] = {"enable_progress_bar": False, **({"callbacks": [callback]} if callback else {})}
        return request_of(sections, flags=flags, out=out, seed=self.seed)


class Reporting(Callback):
    """Tells a trial of each validation, and ends a training that its study prunes.

    Attributes:
        values: the monitored metric after each validation.
        pruned: whether the study has ended it.
    """

    def __init__(self, trial: optuna.trial.Trial, monitor: str) -> None:
        self.trial, self.monitor, self.pruned = trial, monitor, False
        self.values: list[float] = []

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or self.monitor not in trainer.callback_metrics:
            return
        value = float(trainer.callback_metrics[self.monitor])
        self.values.append(value)
        self.trial.report(value, step=len(self.values))
        if math.isnan(value) or self.trial.should_prune():
            self.pruned = trainer.should_stop = True


def check(sweep: Sweep) -> tuple[str, bool]:
    """Build one training of each end of the search; return the monitored metric, and whether more of it is better.

    Raises:
        UsageError, UnknownName: an option that does not exist, or a value that it does not take; nothing was trained.
    """
    known = Options(request_of({"model": sweep.model, "data": sweep.data})).option_keys()
    known += [f"{section}.name" for section in ("solver", "adjoint", "optim")]
    for key in [*(d.key for d in sweep.space), *sweep.fixed]:
        own = any(d.key == f"{key.partition('.')[0]}.name" for d in sweep.space)  # options of another solver, say
        if key not in known and not own:
            raise UnknownName(unknown("option", key, known))
    first = {d.key: d.example for d in sweep.space}
    for values in [first, *({**first, d.key: v} for d in sweep.space for v in d.values[1:])]:
        try:
            task, _, _ = build_run(Options(sweep.request(values)), sweep.seed)
        except (ValueError, TypeError) as error:
            told = ", ".join(f"{k}={v}" for k, v in values.items())
            raise UsageError(f"the trial {told} cannot run: {sentence(error)}") from error
    return task.monitor, task.maximise


def open_study(sweep: Sweep, maximise: bool) -> optuna.study.Study:
    """The study, as it was left, or a new one.

    Raises:
        UsageError: the storage cannot be opened, or its study searches in the other direction.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sweep.folder.mkdir(parents=True, exist_ok=True)
    samplers = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}
    pruners = {
        "median": lambda: optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=1),
        "hyperband": optuna.pruners.HyperbandPruner,
        "none": optuna.pruners.NopPruner,
    }
    direction = "maximize" if maximise else "minimize"
    try:
        study = optuna.create_study(
            study_name=sweep.name,
            storage=sweep.storage or f"sqlite:///{(sweep.folder / FILE).resolve()}",
            direction=direction,
            load_if_exists=True,
            sampler=samplers[sweep.sampler](seed=None if sweep.storage else sweep.seed),
            pruner=pruners[sweep.pruner](),
        )
    except Exception as error:  # of the database's own kinds
        raise UsageError(f"the storage of the study cannot be opened: {sentence(error)}") from error
    if study.direction.name.lower() != direction:
        raise UsageError(f"the study {sweep.name!r} is there already, to {study.direction.name.lower()}; name another")
    return study


def run(
    sweep: Sweep,
    *,
    trials: int,
    timeout: float | None = None,
    say: Say = print,
    every: Callable[[], None] | None = None,
) -> optuna.study.Study:
    """Run what is missing of so many trials.

    Args:
        sweep: what is searched.
        trials: finished ones that the study shall have, those of other workers among them.
        timeout: seconds after which no trial begins.
        say: called with each line of progress.
        every: called after each trial.

    Raises:
        UsageError, UnknownName: the search cannot run; nothing was trained.
    """
    import optuna

    monitor, maximise = check(sweep)
    study = open_study(sweep, maximise)
    done, begun = optuna.trial.TrialState.COMPLETE, time.monotonic()
    ended = (done, optuna.trial.TrialState.PRUNED, optuna.trial.TrialState.FAIL)
    while (count := len(study.get_trials(deepcopy=False, states=ended))) < trials:
        if timeout is not None and time.monotonic() - begun > timeout:
            say(f"{count} of {trials} trials after {timeout:g} s")
            break
        trial = study.ask()
        values = {d.key: d.suggest(trial) for d in sweep.space}
        told = ", ".join(f"{k}={v}" for k, v in values.items())
        watch = Reporting(trial, monitor)
        try:
            place = sweep.folder / "trials" / f"{trial.number:04}"
            found = run_training(sweep.request(values, place, watch))
            trial.set_user_attr("folder", str(found.folder))
        except (KeyboardInterrupt, Interrupted):
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            study.enqueue_trial(trial.params)  # the same values are the first of the next call
            raise KeyboardInterrupt from None
        except Exception as error:  # it costs one trial
            trial.set_user_attr("error", sentence(error))
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            say(f"[{trial.number}] {told}: failed: {sentence(error)}")
            continue
        finite = [v for v in watch.values if math.isfinite(v)]
        if watch.pruned or not finite:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            say(f"[{trial.number}] {told}: pruned after {len(watch.values)} of its validations")
        else:
            value = max(finite) if maximise else min(finite)
            study.tell(trial, value)
            say(f"[{trial.number}] {told}: {monitor} {value:.5g} (best {study.best_value:.5g})")
        if every is not None:
            every()
    return study
