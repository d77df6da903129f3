"""Sections of names and options, read from YAML or given as data, brought into one form. Imports no torch."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from zoo.adjoints import ADJOINTS
from zoo.data import DATA
from zoo.hub import cards
from zoo.registry import Registry, UnknownName, unknown
from zoo.solvers import SOLVERS
from zoo.tasks import TASKS
from zoo.training.errors import UsageError
from zoo.training.own_code import admit
from zoo.training.words import NAMED, SECTIONS

PLAIN = ("seed", "out", "pretrained", "compile")  # what a file may hold beside the sections
GIVEN = "objects"  # of a saved configuration: the objects of a run that a file cannot hold, by their classes' names
TABLES: Mapping[str, Registry] = {"data": DATA, "solver": SOLVERS, "adjoint": ADJOINTS, "task": TASKS}


def read_config(file: Path, allowed: Sequence[str] = ()) -> dict[str, Any]:
    """A YAML file of options, checked for the names of its sections; ``model: mdeq`` is short for ``{name: mdeq}``."""
    try:
        raw = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        raise UsageError(f"{file} is not valid YAML: {' '.join(str(error).split())}") from error
    except RecursionError:
        raise UsageError(f"{file} is no configuration: it is nested too deeply to be read") from None
    if not isinstance(raw, dict):
        raise UsageError(f"{file} must hold sections such as 'model:' and 'trainer:'; got {type(raw).__name__}")
    for key, value in list(raw.items()):
        if key not in (*SECTIONS, *PLAIN, GIVEN):
            raise UsageError(f"{file}: {unknown('section', str(key), [*SECTIONS, *PLAIN])}")
        if key in NAMED and isinstance(value, str):
            raw[key] = value = {"name": value}
        if key in (*SECTIONS, GIVEN) and not isinstance(value, dict):
            raise UsageError(f"{file}: {key} must hold options; got {short(value)}")
        if key in (*NAMED, "optim", "task") and not isinstance(value.get("name", ""), str):
            raise UsageError(f"{file}: {key}.name must be a name; got {short(value['name'])}")
        if key in SECTIONS and (odd := next((k for k in value if not isinstance(k, str)), None)) is not None:
            raise UsageError(f"{file}: the options of {key} must have names; got {short(odd)}")
    admit({}, raw, "", allowed)
    return canonical(raw)


def plain(value: Any) -> Any:
    """A value as a file could hold it: scalars of numpy and torch as Python's, paths as text, objects as they are."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if hasattr(value, "ndim") and hasattr(value, "tolist"):  # an array or a tensor; a scalar has no dimension
        return value.tolist()
    return value


def sort_objects(sections: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The objects among the sections, and the other sections as mappings of plain options."""
    objects: dict[str, Any] = {}
    out: dict[str, dict[str, Any]] = {}
    for key, value in sections.items():
        if key not in SECTIONS:
            raise UnknownName(unknown("section of options", key, SECTIONS))
        if value is None:
            continue
        if isinstance(value, (str, os.PathLike)):
            value = {"name": os.fspath(value)}
        if key in ("solver", "adjoint", "optim") and not isinstance(value, Mapping):
            value = _spec(key, value)
        if isinstance(value, Mapping):
            out[key] = plain(value)
            if key == "adjoint" and isinstance(out[key].get("solver"), str):
                out[key]["solver"] = {"name": out[key]["solver"]}
        elif key in ("model", "data", "task"):
            objects[key] = value
        else:
            raise UsageError(f"{key} takes a mapping of options; got {short(value)}")
    return objects, out


def _spec(key: str, thing: Any) -> dict[str, Any]:
    """An instance of a solver, an adjoint or `Optim` as its name and options."""
    if not dataclasses.is_dataclass(thing) or isinstance(thing, type):
        raise UsageError(f"{key} takes a name, a mapping of a name and options, or an instance; got {short(thing)}")
    options = {f.name: getattr(thing, f.name) for f in dataclasses.fields(thing) if f.init}
    if key == "optim":
        return options
    path = f"{type(thing).__module__}:{type(thing).__qualname__}"
    name = next((e.name for e in TABLES[key].entries() if e.path == path), None)
    if name is None:
        raise UsageError(
            f"{type(thing).__name__} is no registered {key}. Register it by a name, with "
            f"@{key.upper()}S.register('my_{key}'), and give that."
        )
    if key == "adjoint" and options.get("solver") is not None:
        options["solver"] = _spec("solver", options["solver"])
    return {"name": name, **{k: v for k, v in options.items() if v is not None}}


def canonical(sections: Mapping[str, Any]) -> dict[str, Any]:
    """Sections with the model's own name: an alias resolved, the data set of ``mdeq_tiny.digits`` in its section.

    Raises:
        UnknownName: there is no such model.
    """
    out = {k: dict(v) if isinstance(v, Mapping) else v for k, v in sections.items()}
    name = out.get("model", {}).get("name")
    if name is None:
        return out
    card = cards.card(name)
    out["model"]["name"] = card.name
    tag = name.partition(".")[2]
    if tag and "name" not in out.setdefault("data", {}):
        out["data"]["name"] = tag
    return out


def check_name(kind: str, name: Any) -> None:
    """Raise UnknownName, naming the nearest, where nothing is registered under a name."""
    table = TABLES[kind]
    if not isinstance(name, str):
        raise UsageError(f"--{kind} takes a name; got {short(name)}")
    if name not in table:
        raise UnknownName(unknown(table.noun, name, table.names()))


def check_seed(value: Any) -> int:
    value = plain(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise UsageError(f"seed takes a whole number; got {short(value)}")
    if not 0 <= value < 2**32:
        raise UsageError(f"seed must be from 0 to 2^32 - 1; got {value}")
    return value


def check_folder(value: Any) -> Path:
    if not isinstance(value, str):
        raise UsageError(f"out takes the path of a folder; got {short(value)}")
    return Path(value)


def short(value: Any) -> str:
    """A value for a message: an object by its class, text and numbers as they are, long ones cut."""
    if not isinstance(value, (str, int, float, list, tuple, dict, type(None))):
        return f"an object of class {type(value).__name__}"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
