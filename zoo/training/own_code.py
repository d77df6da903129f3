"""Code of the user's own by its import path: ``--model package.module:Class`` and ``--data package.module:Class``.

What the user names on a command line or in Python is imported; what a file names is not, unless ``--allow-import`` or
the program admitted it before. So a configuration of a stranger runs nothing. Imports no torch by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zoo.data import DATA
from zoo.data.registry import is_import_path
from zoo.hub import cards
from zoo.registry import UnknownName, unknown
from zoo.tasks import TASKS
from zoo.training.errors import UsageError


def register_model(path: str, task: str = "classification") -> cards.ModelCard:
    """Make a model class of your own known by its import path, as ``--model package.module:Class`` does.

    Args:
        path: ``package.module:Class``; its arguments ``num_classes``, ``in_chans`` and so on follow from the data set.
        task: the name of the task that trains it.

    Returns:
        its card; runs of the model can then be loaded in this process.

    Raises:
        UnknownName: there is no such task. CardError: the class cannot be imported.
    """
    if not is_import_path(path):
        raise UsageError(f"a model of your own is named package.module:Class; got {path!r}")
    return cards.register_model(path, TASKS.entry(task).path)


def admit(own: dict[str, Any], read: Mapping[str, Any], task: str, allowed: Sequence[str]) -> None:
    """Import the model and the data set that the user named by import paths, and put their names in their places.

    Args:
        own: the sections that the user gave; changed.
        read: those of files.
        task: the name of the task that the user gave; empty: what the data set is for.
        allowed: packages that files may name classes of, too.

    Raises:
        UsageError: no data set says what the model is to learn. UnknownName, CardError: a class cannot be imported.
    """
    data = _name(own, "data") or _name(read, "data")
    if is_import_path(data) and data not in DATA and (_name(own, "data") or data.partition(".")[0] in allowed):
        DATA.admit(data)
    model = _name(own, "model")
    stored = _name(read, "model")
    if not model and stored.startswith(f"{cards.OWN}:"):
        path = stored.partition(":")[2].replace("/", ".")
        if path.partition(".")[0].partition(":")[0] in allowed:
            register_model(path, task or _name(read, "task") or "classification")
    if is_import_path(model) and not _known(model):
        kind = task or _name(own, "task") or _name(read, "task")
        if not kind:
            if not data:
                raise UsageError(f"--data NAME is missing: it says what {model} is to learn")
            if data not in DATA:
                raise UnknownName(unknown("data set", data, DATA.names()))
            kind = next(iter(DATA.entry(data).kind.split()), "")
        if not kind:
            raise UsageError(f"what is {model} to learn? Name the task: --task.name classification")
        own["model"] = {**own["model"], "name": register_model(model, kind).name}


def _known(model: str) -> bool:
    """Whether a card has the name before the colon, as ``timm:resnet18``."""
    return "." not in model.partition(":")[0] and model.partition(":")[0] in cards.all_cards()


def _name(sections: Mapping[str, Any], key: str) -> str:
    options = sections.get(key)
    name = options.get("name") if isinstance(options, Mapping) else None
    return name if isinstance(name, str) else ""
