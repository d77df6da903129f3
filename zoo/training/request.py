"""What a run is to do: names, recipe, files and options become one `Request`. Imports no torch.

`resolve` reads a command line, `request_of` data: sections of names and options, whose values may be any objects. Both
end in the same place, so that a run is the same by whichever way it was asked for.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo.data import DATA
from zoo.data.registry import is_import_path
from zoo.hub import cards
from zoo.registry import UnknownName, unknown
from zoo.tasks import TASKS
from zoo.training.errors import UsageError
from zoo.training.own_code import admit
from zoo.training.run_folder import AUTO, check_out, find_checkpoint, rank
from zoo.training.sections import (
    GIVEN,
    canonical,
    check_folder,
    check_name,
    check_seed,
    read_config,
    sort_objects,
)
from zoo.training.words import OWN, SECTIONS, split

PROG = "zoo.fit"
# the data set decides these unless given
DERIVED = ("num_classes", "in_chans", "vocab_size", "features", "targets", "symbols", "box", "grid")
TRAINER = {"max_epochs": 10, "log_every_n_steps": 10, "num_sanity_val_steps": 0, "enable_model_summary": False}


@dataclass(frozen=True)
class Request:
    """What was asked for, its names checked.

    Attributes:
        config: sections of names and options: the recipe, overlaid by the files, overlaid by what was given as data.
        given: dotted keys that somebody set (not the card): ``model.num_classes``, ...
        flags: options of the command line, as ``section.option`` and text; they win over ``config``.
        objects: a model, a task or data that were given as objects, in place of a name.
        out: the run folder, or None for a new one under ``runs/``.
        resume: the checkpoint to continue from, or None.
        pretrained: the trained weights to start from, as `zoo.load` takes them; empty: none.
        seed: seed of everything random.
        switches: the switches that were set.
        allow_import: packages that options may name any class of.
    """

    config: dict[str, Any]
    given: frozenset[str] = frozenset()
    flags: tuple[tuple[str, str], ...] = ()
    objects: Mapping[str, Any] = field(default_factory=dict)
    out: Path | None = None
    resume: Path | None = None
    pretrained: str = ""
    seed: int = 0
    switches: frozenset[str] = frozenset()
    allow_import: tuple[str, ...] = ()


def resolve(argv: Sequence[str]) -> Request:
    """The request of a command line.

    Raises:
        UsageError, UnknownName, CardError: one sentence with the way out.
    """
    words = split(argv)
    seed = words.values.get("seed")
    try:
        number = None if seed is None else int(seed)
    except ValueError:
        raise UsageError(f"--seed takes a whole number; got {seed!r}") from None
    return request_of(
        words.sections(),
        files=words.files,
        flags=words.flags,
        out=words.values.get("out") or None,
        resume=words.values.get("resume"),
        pretrained=words.values.get("pretrained", ""),
        seed=number,
        switches=words.switches,
        allow_import=words.allow_import,
        card_files=words.cards,
    )


def request_of(
    sections: Mapping[str, Any],
    *,
    files: Sequence[str | Path] = (),
    flags: Sequence[tuple[str, str]] = (),
    out: str | Path | None = None,
    resume: str | Path | None = None,
    pretrained: str | Path = "",
    seed: int | None = None,
    switches: Collection[str] = (),
    allow_import: Sequence[str] = (),
    card_files: Sequence[str | Path] = (),
) -> Request:
    """The request of sections of names and options.

    Precedence: the card's recipe < ``files``, in order < ``sections`` < ``flags``.

    Args:
        sections: by section a name, or a mapping of options with the ``name`` among them; ``model``, ``data`` and
            ``task`` may be objects, ``solver``, ``adjoint`` and ``optim`` instances of their classes.
        files: YAML files of sections.
        flags: options as text, as a command line has them.
        out: the run folder; None: a new one under ``runs/``.
        resume: ``"last"``, ``"auto"``, a run folder, or a checkpoint; None: start.
        pretrained: trained weights to start from, as `zoo.load` takes them; ``"own"``: those of the model's card.
        seed: seed of everything random; None: what the files say, else 0.
        switches: of ``zoo.fit``: ``compile``, ``profile``, ...
        allow_import: packages that options may name any class of.
        card_files: card files of models; the first model of one is taken where none is named.

    Raises:
        UsageError, UnknownName, CardError: one sentence with the way out.
    """
    objects, own = sort_objects(sections)
    task = next((text for key, text in flags if key == "task.name"), "")
    flags = [(key, text) for key, text in flags if key != "task.name"]
    if task:
        own["task"] = {**own.get("task", {}), "name": task}
    for file in card_files:
        found = cards.register_card(file)
        if "model" not in own and "model" not in objects and resume is None:
            own["model"] = {"name": found[0].name}
    admit(own, {}, task, allow_import)
    tag = str(own.get("model", {}).get("name", "")).partition(".")[2]
    own = canonical(own)
    out = Path(out) if out is not None else None
    run = checkpoint = None
    if resume is not None:
        checkpoint, run = find_checkpoint(str(resume), out, own)
    read: dict[str, Any] = {}
    for file in [*([run / "config.yaml"] if run else []), *map(Path, files)]:
        read = cards.overlay(read, read_config(file, allow_import))
    _check_objects(read.pop(GIVEN, {}), objects, own)
    was = read.get("data", {}).get("name")
    read = cards.overlay(read, own)
    if was and read["data"].get("name") != was:  # another data set: what the old one decided no longer holds
        for key in DERIVED:
            read.get("model", {}).pop(key, None)

    config, card = _configuration(read, objects)
    seed = check_seed(read.get("seed", 0) if seed is None else seed)
    out = out or run or (check_folder(read["out"]) if read.get("out") else None)
    if not isinstance(read.get("compile", False), bool):
        raise UsageError(f"compile must be true or false; got {read['compile']!r}")
    request = Request(
        config=config,
        pretrained=_pretrained(str(pretrained or read.get("pretrained") or ""), card, tag, config),
        given=frozenset(_keys(read)) | frozenset(k for k, _ in flags),
        flags=tuple(flags),
        objects=objects,
        out=out,
        resume=checkpoint,
        seed=seed,
        switches=frozenset(switches) | ({"compile"} if read.get("compile") else set()),
        allow_import=tuple(allow_import),
    )
    if out is not None and not {"help", "help-all", "print_config"} & request.switches and rank() == 0:
        going_on = run is not None and run.resolve() == out.resolve()
        check_out(out, resuming=going_on or str(resume) == AUTO)
    return request


def _check_objects(were: Mapping[str, Any], objects: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Refuse a saved configuration whose objects were not given again: a file cannot hold them."""
    for key, kind in were.items():
        section, _, option = str(key).partition(".")
        if section not in objects and option not in own.get(section, {}):
            raise UsageError(
                f"the configuration was saved by a run whose {key} was an object ({kind}), which a file cannot hold; "
                f"give it again from Python, zoo.train(..., {section}=...)"
            )


def _configuration(
    read: Mapping[str, Any], objects: Mapping[str, Any]
) -> tuple[dict[str, Any], cards.ModelCard | None]:
    """Recipe and sections in one, with the card of the model where it has one."""
    sections = {k: dict(v) for k, v in read.items() if k in SECTIONS and k not in objects}
    for key in objects:
        if key in read and read[key].keys() - {"name"}:
            raise UsageError(f"{key} was given as an object, so its options {sorted(read[key])} have no effect")
    if "model" in objects or "task" in objects:
        return cards.overlay({"trainer": dict(TRAINER)}, _own_model(sections, objects)), None
    name = sections.get("model", {}).get("name")
    if name is None:
        names = [*cards.aliases(), *(c for c in cards.all_cards() if not c.startswith("test_"))]
        raise UsageError(f"--model NAME is missing; the models are: {', '.join(names)}")
    card = cards.card(name)
    kind = next((e.name for e in TASKS.entries() if e.path == card.task), None)  # None: a task of another package
    base: dict[str, Any] = {"model": {"name": card.name, **card.model}, "trainer": dict(TRAINER)}
    if "data" not in objects:
        data = sections.get("data", {}).get("name") or next(iter(card.data), "")
        if not data:
            raise UsageError(f"--data NAME is missing: {card.name} has no data set that is usual for it")
        _check_data(card.name, kind, data)
        base["data"] = {"name": data, **_aim(data, kind)}
    elif kind is not None and _kind(objects["data"]) not in ("", kind):
        raise UsageError(f"the data are for {_kind(objects['data'])}; {card.name} is trained for {kind}")
    if sections.get("task", {}).get("name", kind) != kind:
        raise UsageError(f"{card.name} is trained for {kind}; leave the name of the task out")
    sections.get("task", {}).pop("name", None)
    base |= {k: dict(getattr(card, k)) for k in ("solver", "adjoint") if getattr(card, k)}
    base = cards.overlay(base, cards.recipe(card.name, base.get("data", {}).get("name", "*")))
    for key in ("solver", "adjoint"):
        if key in sections and not getattr(card, key) and card.family != cards.OWN:
            raise UsageError(f"{card.name} is an explicit model: it takes no --{key}")
        if "name" in sections.get(key, {}):
            check_name(key, sections[key]["name"])
    inner = sections.get("adjoint", {}).get("solver")
    if isinstance(inner, Mapping) and "name" in inner:
        check_name("solver", inner["name"])
    return {k: v for k, v in cards.overlay(base, sections).items() if k not in objects}, card


def _own_model(sections: dict[str, Any], objects: Mapping[str, Any]) -> dict[str, Any]:
    """The sections of a run whose model or task is an object: the kind of data says the task where none is named."""
    for key in ("solver", "adjoint"):
        if key in sections and "name" not in sections[key]:
            raise UsageError(
                f"{key} needs a name where the model is an object; got the options {sorted(sections[key])}"
            )
        if key in sections:
            check_name(key, sections[key]["name"])
    if "task" in objects:
        for key in ("optim", "solver", "adjoint", "model"):
            if key in sections or key in objects:
                raise UsageError(f"the task was given as an object, which has its own {key}; leave {key} out")
    data = sections.get("data", {}).get("name")
    if data is None and "data" not in objects:
        raise UsageError("data is missing: give a name, a LightningDataModule, or DataLoaders (train, val, test)")
    if data is not None and data not in DATA:
        raise UnknownName(unknown("data set", data, DATA.names()))
    if "task" in objects:
        return sections
    task = sections.setdefault("task", {})
    kind = DATA.entry(data).kind if data is not None else _kind(objects["data"])
    name = task.setdefault("name", kind if " " not in kind else "")
    if data is not None:
        sections["data"] = {**_aim(data, name), **sections["data"]}
    if not name:
        raise UsageError(f"what is the model to learn? Name the task: task='classification', or {_or(TASKS.names())}")
    check_name("task", name)
    return sections


def _kind(data: Any) -> str:
    """The kind of data of an object, where it is a data module of the zoo; else empty."""
    paths = {f"{c.__module__}:{c.__qualname__}" for c in type(data).__mro__}
    kind = next((e.kind for e in DATA.entries() if e.path in paths), "")
    return kind if " " not in kind else str(data.aim)


def _aim(data: str, kind: str | None) -> dict[str, str]:
    """The option that tells a data set for several tasks which one it is for; empty for one that is for one alone."""
    kinds = DATA.entry(data).kind.split()
    return {"aim": kind} if kind in kinds and len(kinds) > 1 else {}


def _check_data(model: str, kind: str | None, data: str) -> None:
    """Refuse a data set that is not known, or is for another task, with those that would fit.

    A task that another package brings (``kind`` None) may take what it likes.
    """
    fit = DATA.names(kind=kind)
    if data not in DATA and is_import_path(data):
        raise UnknownName(
            f"{data} is code of your own, which is imported only where you name it: --data {data}, or allow all of its "
            f"package with --allow-import {data.partition('.')[0].partition(':')[0]}."
        )
    if data not in DATA:
        raise UnknownName(unknown("data set", data, fit))
    if kind is not None and DATA.entry(data).kind and data not in fit:
        raise UsageError(
            f"--data {data} is for {_or(DATA.entry(data).kind.split())}; {model} is trained for {kind}, with one of: "
            f"{', '.join(fit)}"
        )


def _pretrained(source: str, card: cards.ModelCard | None, tag: str, config: Mapping[str, Any]) -> str:
    """The weights to start from; ``own`` stands for those of the card."""
    if source != OWN or card is None:
        return source
    data = tag or next(iter(card.weights), config.get("data", {}).get("name", ""))
    cards.weights_of(card, data)
    return f"{card.name}.{data}"


def _keys(config: Mapping[str, Any]) -> list[str]:
    return [f"{s}.{k}" for s, options in config.items() if isinstance(options, Mapping) for k in options]


def _or(names: Sequence[str]) -> str:
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))
