"""The first stage of a run: names, recipe, files and flags become one `Request`. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from zoo.adjoints import ADJOINTS
from zoo.data import DATA
from zoo.hub import cards
from zoo.registry import Registry, UnknownName, unknown
from zoo.solvers import SOLVERS
from zoo.tasks.optim import Optim
from zoo.training.errors import UsageError
from zoo.training.run_folder import AUTO, check_out, find_checkpoint, rank

PROG = "zoo.fit"
SECTIONS = cards.SECTIONS
DERIVED = ("num_classes", "in_chans", "vocab_size", "features", "targets")  # the data set decides these unless given
NAMED = ("model", "data", "solver", "adjoint")  # --model NAME is short for --model.name NAME
VALUES = {"resume": None, "out": None, "seed": 0, "pretrained": ""}  # plain options and what they are when left out
PLAIN = ("seed", "out", "pretrained", "compile")  # what a file may hold of them and of the switches
SWITCHES = ("help", "help-all", "print_config", "profile", "compile")
TRAINER = {"max_epochs": 10, "log_every_n_steps": 10, "num_sanity_val_steps": 0, "enable_model_summary": False}
OWN = "own"  # --pretrained without a source: the weights of --model NAME.DATA


@dataclass(frozen=True)
class Request:
    """What the first stage understood.

    Attributes:
        config: sections of names and options: the recipe, overlaid by the files, with the names that flags gave.
        given: dotted keys that files or flags set (not the card): ``model.num_classes``, ...
        flags: the other flags, as ``section.option`` and text.
        out: the run folder, or None for a new one under ``runs/``.
        resume: the checkpoint to continue from, or None.
        pretrained: the trained weights to start from, as `zoo.load` takes them; empty: none.
        seed: seed of everything random.
        switches: the switches that were set.
        allow_import: packages that YAML may name classes of, beside zoo, lightning and torch.
    """

    config: dict[str, Any]
    given: frozenset[str] = frozenset()
    flags: tuple[tuple[str, str], ...] = ()
    out: Path | None = None
    resume: Path | None = None
    pretrained: str = ""
    seed: int = 0
    switches: frozenset[str] = frozenset()
    allow_import: tuple[str, ...] = ()


@dataclass
class _Words:
    """The command line, sorted by kind."""

    names: dict[str, str] = field(default_factory=dict)
    inner: str = ""  # the linear solver inside the adjoint
    flags: list[tuple[str, str]] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    values: dict[str, str] = field(default_factory=dict)
    switches: set[str] = field(default_factory=set)
    allow_import: list[str] = field(default_factory=list)


def split(argv: Sequence[str]) -> _Words:
    """Sort the command line into names, flags, files and the rest.

    Raises:
        UsageError: a word that is no flag, a flag without a value, or a flag that does not exist.
    """
    words = _Words()
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if word == "-h":
            word = "--help"
        if word == "-c":
            word = "--config"
        if not word.startswith("--"):
            raise UsageError(f"unexpected argument {word!r}; options look like --model NAME or --solver.rtol 1e-4")
        key, eq, value = word[2:].partition("=")
        if key in SWITCHES:
            if eq:
                raise UsageError(f"--{key} takes no value; got {value!r}. Leave it out to leave it off.")
            words.switches.add(key)
            continue
        section, _, option = key.partition(".")
        known = [*NAMED, *VALUES, "config", "allow-import", *SWITCHES]
        if option and section not in SECTIONS:
            raise UsageError(_unknown_flag(key, [f"--{s}.{option}" for s in SECTIONS]))
        if not option and key not in known:
            raise UsageError(_unknown_flag(key, _hints(key) or [f"--{k}" for k in known]))
        if not eq:
            if not rest or (rest[0].startswith("-") and not _number(rest[0])):
                if key != "pretrained":
                    raise UsageError(f"--{key} needs a value")
                rest.insert(0, OWN)
            value = rest.pop(0)
        if key.endswith(".name") and key[:-5] in NAMED:
            key = key[:-5]
        if key in NAMED:
            words.names[key] = value
        elif key in ("adjoint.solver", "adjoint.solver.name"):
            words.inner = value
        elif key == "config":
            words.files.append(value)
        elif key == "allow-import":
            words.allow_import += value.split(",")
        elif key in VALUES:
            words.values[key] = value
        else:
            words.flags.append((key, value))
    return words


def resolve(argv: Sequence[str]) -> Request:
    """From the command line to one configuration: names checked, recipe and files merged.

    Raises:
        UsageError, UnknownName, CardError: one sentence with the way out.
    """
    words = split(argv)
    try:
        seed = int(words.values["seed"]) if "seed" in words.values else None
    except ValueError:
        raise UsageError(f"--seed takes a whole number; got {words.values['seed']!r}") from None
    out = Path(words.values["out"]) if words.values.get("out") else None

    names: dict[str, dict[str, Any]] = {k: {"name": _known(k, v)} for k, v in words.names.items()}
    if words.inner:
        names.setdefault("adjoint", {})["solver"] = {"name": _known("solver", words.inner)}
    tag = words.names.get("model", "").partition(".")[2]
    if tag and "data" not in names:
        names["data"] = {"name": _known("data", tag)}
    run = checkpoint = None
    if "resume" in words.values:
        checkpoint, run = find_checkpoint(words.values["resume"], out, names)
    files: dict[str, Any] = {}
    for file in ([run / "config.yaml"] if run else []) + [Path(f) for f in words.files]:
        files = cards.overlay(files, read_config(file))
    was = files.get("data", {}).get("name")
    files = cards.overlay(files, names)
    if was and files["data"]["name"] != was:  # another data set: what the old one decided no longer holds
        for key in DERIVED:
            files.get("model", {}).pop(key, None)

    if "name" not in files.get("model", {}):
        raise UsageError(
            f"--model NAME is missing; the models are: {', '.join([*cards.aliases(), *cards.all_cards()])}"
        )
    card = cards.card(files["model"]["name"])
    data = files.get("data", {}).get("name") or card.data[0]
    _check_kind(card, data)
    for key in ("solver", "adjoint"):
        if key in files and not getattr(card, key):
            raise UsageError(f"{card.name} is an explicit model: it takes no --{key}")
    base: dict[str, Any] = {
        "model": {"name": card.name, **card.model},
        "data": {"name": data},
        "trainer": dict(TRAINER),
    }
    base |= {k: dict(getattr(card, k)) for k in ("solver", "adjoint") if getattr(card, k)}
    base = cards.overlay(base, cards.recipe(card.name, data))
    config = cards.overlay(base, {k: v for k, v in files.items() if k in SECTIONS})

    out = out or run or (Path(files["out"]) if files.get("out") else None)
    if seed is None:
        seed = int(files.get("seed", VALUES["seed"]))
    pretrained = words.values.get("pretrained") or str(files.get("pretrained") or "")
    if pretrained == OWN:
        pretrained = f"{card.name}.{tag or next(iter(card.weights), data)}"
        cards.weights_of(card, pretrained.partition(".")[2])
    if not isinstance(files.get("compile", False), bool):
        raise UsageError(f"compile must be true or false; got {files['compile']!r}")
    request = Request(
        config=config,
        pretrained=pretrained,
        given=frozenset(_keys(files)) | frozenset(k for k, _ in words.flags),
        flags=tuple(words.flags),
        out=out,
        resume=checkpoint,
        seed=seed,
        switches=frozenset(words.switches) | ({"compile"} if files.get("compile") else set()),
        allow_import=tuple(words.allow_import),
    )
    if out is not None and not {"help", "help-all", "print_config"} & request.switches and rank() == 0:
        check_out(out, resuming=checkpoint is not None or words.values.get("resume") == AUTO)
    return request


def read_config(file: Path) -> dict[str, Any]:
    """A YAML file of options, checked for the names of its sections; ``model: mdeq`` is short for ``{name: mdeq}``."""
    try:
        raw = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise UsageError(f"{file} must hold sections such as 'model:' and 'trainer:'; got {type(raw).__name__}")
    for key, value in list(raw.items()):
        if key not in (*SECTIONS, *PLAIN):
            raise UsageError(f"{file}: {unknown('section', str(key), [*SECTIONS, *PLAIN])}")
        if key in NAMED and isinstance(value, str):
            raw[key] = value = {"name": value}
        if key in SECTIONS and not isinstance(value, dict):
            raise UsageError(f"{file}: {key} must hold options; got {value!r}")
        if key in NAMED and "name" in value:
            value["name"] = _known(key, str(value["name"]))
    return raw


def _known(kind: str, name: str) -> str:
    """The name itself (an alias resolved), or UnknownName with the nearest."""
    if kind == "model":
        return cards.card(name).name
    table: Registry = {"data": DATA, "solver": SOLVERS, "adjoint": ADJOINTS}[kind]
    if name not in table:
        raise UnknownName(unknown(table.noun, name, table.names()))
    return name


def _check_kind(card: cards.ModelCard, data: str) -> None:
    """Refuse the data set of another task. A task that another package brings may take what it likes."""
    module = card.task.partition(":")[0]
    if module.startswith("zoo.tasks."):
        kind = module.rpartition(".")[2]
        if DATA.entry(data).kind != kind:
            fit = ", ".join(e.name for e in DATA.entries(kind=kind))
            raise UsageError(
                f"--data {data} is for {DATA.entry(data).kind}; {card.name} is trained for {kind}, with one of: {fit}"
            )


def _unknown_flag(key: str, known: Sequence[str]) -> str:
    return unknown("option", f"--{key}", known)


def _hints(key: str) -> list[str]:
    """``--lr`` most likely means ``--optim.lr``."""
    every = {f: f"--optim.{f}" for f in Optim.__dataclass_fields__}
    every |= {"batch_size": "--data.batch_size", "num_workers": "--data.num_workers", "root": "--data.root"}
    every |= {
        k: f"--trainer.{k}" for k in ("max_epochs", "accelerator", "devices", "strategy", "precision", "fast_dev_run")
    }
    every |= {k: f"--solver.{k}" for k in cards.CARRIED} | {"epochs": "--trainer.max_epochs"}
    return [every[key]] if key in every else []


def _number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _keys(config: Mapping[str, Any]) -> list[str]:
    return [f"{s}.{k}" for s, options in config.items() if isinstance(options, Mapping) for k in options]
