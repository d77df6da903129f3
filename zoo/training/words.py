"""The command line of a run, sorted by kind: names, flags, files, switches. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from zoo.hub import cards
from zoo.registry import unknown
from zoo.tasks.optim import Optim
from zoo.training.errors import UsageError

SECTIONS = cards.SECTIONS
NAMED = ("model", "data", "solver", "adjoint")  # --model NAME is short for --model.name NAME
VALUES = ("resume", "out", "seed", "pretrained")  # options of no section
SWITCHES = ("help", "help-all", "version", "print_config", "profile", "compile")
OWN = "own"  # --pretrained without a source: the weights of --model NAME.DATA


@dataclass
class Words:
    """A command line, sorted by kind.

    Attributes:
        names: of the model, the data set, the solver and the adjoint.
        inner: the linear solver inside the adjoint.
        flags: the options of sections, as ``section.option`` and text.
        files: configuration files, in order.
        values: ``resume``, ``out``, ``seed`` and ``pretrained`` as text.
        switches: the switches that were set.
        allow_import: packages that options may name classes of.
        cards: card files, in order.
    """

    names: dict[str, str] = field(default_factory=dict)
    inner: str = ""
    flags: list[tuple[str, str]] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    values: dict[str, str] = field(default_factory=dict)
    switches: set[str] = field(default_factory=set)
    allow_import: list[str] = field(default_factory=list)
    cards: list[str] = field(default_factory=list)

    def sections(self) -> dict[str, Any]:
        """The names as sections of a configuration; the flags stay text, which the parser of the options reads."""
        out: dict[str, Any] = {k: {"name": v} for k, v in self.names.items()}
        if self.inner:
            out.setdefault("adjoint", {})["solver"] = {"name": self.inner}
        return out


def split(argv: Sequence[str]) -> Words:
    """Sort a command line into names, flags, files and the rest.

    Raises:
        UsageError: a word that is no flag, a flag without a value, or a flag that does not exist.
    """
    words = Words()
    rest = list(argv)
    while rest:
        word = {"-h": "--help", "-c": "--config"}.get(rest[0], rest[0])
        rest.pop(0)
        if not word.startswith("--"):
            raise UsageError(f"unexpected argument {word!r}; options look like --model NAME or --solver.rtol 1e-4")
        key, eq, value = word[2:].partition("=")
        if key in SWITCHES:
            if eq:
                raise UsageError(f"--{key} takes no value; got {value!r}. Leave it out to leave it off.")
            words.switches.add(key)
            continue
        _check_flag(key)
        if not eq:
            if not rest or (rest[0].startswith("-") and not _number(rest[0])):
                if key != "pretrained":
                    raise UsageError(f"--{key} needs a value")
                rest.insert(0, OWN)
            value = rest.pop(0)
        _put(words, key, value)
    return words


def _put(words: Words, key: str, value: str) -> None:
    if key.endswith(".name") and key[:-5] in NAMED:
        key = key[:-5]
    if key in NAMED:
        words.names[key] = value
    elif key in ("adjoint.solver", "adjoint.solver.name"):
        words.inner = value
    elif key == "config":
        words.files.append(value)
    elif key == "card":
        words.cards.append(value)
    elif key == "allow-import":
        words.allow_import += value.split(",")
    elif key in VALUES:
        words.values[key] = value
    else:
        words.flags.append((key, value))


def _check_flag(key: str) -> None:
    """Refuse a flag that does not exist; the options of a section are checked when its class is known."""
    section, _, option = key.partition(".")
    if option and section not in SECTIONS:
        raise UsageError(unknown("option", f"--{key}", [f"--{s}.{option}" for s in SECTIONS]))
    known = [*NAMED, *VALUES, "config", "card", "allow-import", *SWITCHES]
    if not option and key not in known:
        raise UsageError(unknown("option", f"--{key}", _hints(key) or [f"--{k}" for k in known]))


def _hints(key: str) -> list[str]:
    """``--lr`` most likely means ``--optim.lr``."""
    every = {f: f"--optim.{f}" for f in Optim.__dataclass_fields__}
    every |= {"ema": "--ema.decay", "ema_decay": "--ema.decay"}
    every |= {"batch_size": "--data.batch_size", "num_workers": "--data.num_workers", "root": "--data.root"}
    usual = ("max_epochs", "max_steps", "max_time", "accelerator", "devices", "strategy", "precision", "fast_dev_run")
    every |= {k: f"--trainer.{k}" for k in (*usual, "logger", "callbacks")}
    every |= {k: f"--solver.{k}" for k in cards.CARRIED if k not in usual}
    every |= {k: f"--{section}.{name}" for (section, k), name in SYNONYMS.items()}
    return [every[key]] if key in every else []


SYNONYMS = {  # (section, what other packages call it) -> what it is called here
    ("optim", "learning_rate"): "lr",
    ("optim", "optimizer"): "name",
    ("optim", "scheduler"): "schedule",
    ("optim", "wd"): "weight_decay",
    ("optim", "warmup_ratio"): "warmup",
    ("trainer", "epochs"): "max_epochs",
    ("trainer", "num_epochs"): "max_epochs",
    ("trainer", "steps"): "max_steps",
    ("trainer", "gpus"): "devices",
    ("trainer", "grad_clip"): "gradient_clip_val",
    ("data", "batchsize"): "batch_size",
    ("data", "workers"): "num_workers",
    ("data", "dir"): "root",
    ("data", "data_dir"): "root",
    ("solver", "tol"): "rtol",
    ("solver", "max_iter"): "max_steps",
    ("solver", "f_max_iter"): "max_steps",
}


def _number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
