"""What a comparison has to run: a job for each model, solver, adjoint and seed. Imports no torch."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from zoo.adjoints import ADJOINTS
from zoo.data import DATA
from zoo.hub import cards
from zoo.registry import UnknownName, unknown
from zoo.solvers import SOLVERS
from zoo.tasks import TASKS
from zoo.training.errors import UsageError

CHOSEN = ("solver", "adjoint")  # a job has one of each, or the model's own
BATCH = 64  # samples of a data set that no recipe says


@dataclass(frozen=True)
class Job:
    """One model, trained once and measured.

    Attributes:
        model: the name as it was given.
        data: the data set.
        seed: of everything random.
        solver, adjoint: instead of the model's own; None: those.
        options: sections of options, the budget among them.
    """

    model: str
    data: str
    seed: int = 0
    solver: str | None = None
    adjoint: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The same for the same work."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]

    @property
    def label(self) -> str:
        """What the job is called in lines of progress."""
        parts = [self.model, *(p for p in (self.solver, self.adjoint) if p)]
        return f"{' '.join(parts)}, seed {self.seed}"

    @property
    def loads(self) -> bool:
        """Whether it loads the trained weights that its name has after a dot, and trains nothing."""
        return "." in self.model

    @property
    def batch_size(self) -> int:
        """Samples of a training batch."""
        usual = cards.recipe(self.model, self.data).get("data", {}).get("batch_size", BATCH)
        return int(self.options.get("data", {}).get("batch_size", usual))

    @property
    def patience(self) -> float | None:
        """Seconds after which its process hangs, by its budget; None where it has none in seconds."""
        limit = self.options.get("trainer", {}).get("max_time")
        if limit is None:
            return None
        days, hours, minutes, seconds = (int(part) for part in limit.split(":"))
        return 600.0 + 10 * (86400 * days + 3600 * hours + 60 * minutes + seconds)

    def sections(self) -> dict[str, dict[str, Any]]:
        """The sections of names and options of its run, as `zoo.train` takes them."""
        chosen = {k: {"name": getattr(self, k)} for k in CHOSEN if getattr(self, k)}
        named = {"model": {"name": self.model.partition(".")[0]}, "data": {"name": self.data}, **chosen}
        return {s: {**named.get(s, {}), **self.options.get(s, {})} for s in {**named, **self.options}}


def budget_options(budget: str | int | None) -> dict[str, Any]:
    """The Trainer's options of a budget: "60s", "5m", "2h", "3 epochs", 3.

        >>> budget_options("90 min")
        {'max_epochs': -1, 'max_time': '00:01:30:00'}

    Raises:
        UsageError: it is none of these.
    """
    if budget is None:
        return {}
    found = re.fullmatch(r"\s*(\d+)\s*([a-z]*)\s*", str(budget).lower())
    units = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "": 0, "epoch": 0, "epochs": 0}
    if found is None or found[2] not in units or int(found[1]) < 1:
        raise UsageError(f"a budget is a time (60s, 5m, 2h) or a number of epochs (3 epochs); got {budget!r}")
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

    Raises:
        UsageError, UnknownName: nothing to compare; a model, data set, solver, adjoint, budget or section that does not
            exist; a model of another kind than the data.
    """
    if not models or not seeds:
        raise UsageError("nothing to compare: name at least one model and one seed")
    for section in options:
        if section not in cards.SECTIONS:
            raise UnknownName(unknown("section of options", section, cards.SECTIONS))
    for name in solvers:
        SOLVERS.entry(name)
    for name in adjoints:
        ADJOINTS.entry(name)
    data = cards.card(models[0]).data[0] if data is None else data
    DATA.entry(data)
    for model in models:
        check_pair(model, data)
    options = {k: dict(v) for k, v in options.items() if v}
    if budget is not None:
        options["trainer"] = {**options.get("trainer", {}), **budget_options(budget)}
    jobs = []
    for seed in seeds:
        for model in models:
            implicit = bool(cards.card(model).solver)
            own = {k: v for k, v in options.items() if implicit or k not in CHOSEN}
            for solver in solvers if solvers and implicit else [None]:
                for adjoint in adjoints if adjoints and implicit else [None]:
                    jobs.append(Job(model, data, int(seed), solver, adjoint, own))
    return jobs


def check_pair(model: str, data: str) -> None:
    """Refuse a model that does not exist, weights that it does not have, and data of another kind.

    Raises:
        UsageError, UnknownName: one sentence.
    """
    card = cards.card(model)
    tag = model.partition(".")[2]
    if tag:
        cards.weights_of(card, tag)
    kind = next((e.name for e in TASKS.entries() if e.path == card.task), None)  # None: a task of another package
    if kind is not None and DATA.entry(data).kind != kind:
        raise UsageError(f"{model} is for {kind}; {data} is for {DATA.entry(data).kind}. Compare models of one kind.")
