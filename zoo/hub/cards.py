"""Named models as data: read, check and look up the cards.

A card is data: which class, which configuration, which solver and adjoint, which recipe for which data set, what was
measured and what the paper reports. The cards that ship with the package lie in ``zoo/cards/<family>.yaml``; other
packages add theirs by the entry-point group ``zoo.cards`` (a package that holds cards, a path, or a function that
returns either), and a script by `register_card`. Reading cards imports no torch, so that ``--help`` answers at once;
a model's class is imported when it is built.
"""

from __future__ import annotations

import difflib
import fnmatch
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from zoo.hub.card_file import CARRIED as CARRIED
from zoo.hub.card_file import SECTIONS as SECTIONS
from zoo.hub.card_file import CardError as CardError
from zoo.hub.card_file import ModelCard as ModelCard
from zoo.hub.card_file import overlay as overlay
from zoo.hub.card_file import read_card_file
from zoo.registry import UnknownName, unknown
from zoo.storage import model_folder
from zoo.storage.huggingface import download

HERE = Path(__file__).resolve().parents[1]
TESTS = "test_"  # how the names of the tests' own models begin


OWN = "own"  # before the colon of a model of the user's own: own:my_package/module:Class

_cards: dict[str, ModelCard] = {}
_aliases: dict[str, str] = {}
_scanned = False


def all_cards() -> dict[str, ModelCard]:
    """All cards by name: the package's own, those of other packages, and the registered ones."""
    global _scanned
    if not _scanned:
        _scanned = True
        for file in sorted((HERE / "cards").glob("*.yaml")):
            register_card(file)
        for point in entry_points(group="zoo.cards"):
            found = point.load()
            for file in _files(found() if callable(found) else found):
                register_card(file)
    return dict(sorted(_cards.items()))


def aliases() -> dict[str, str]:
    """Short names: alias -> the card's name."""
    all_cards()
    return dict(_aliases)


def register_card(path: str | Path) -> list[ModelCard]:
    """Read a card file and make its variants known by name.

    Raises:
        CardError: the file is unreadable, lacks a key, or has one too many, or a name of it is taken by another file.
    """
    path = Path(path).resolve()
    read, short = read_card_file(path)
    for name in [*(c.name for c in read), *short]:
        taken = _cards.get(name) or _cards.get(_aliases.get(name, ""))
        if taken is not None and taken.source != str(path):
            raise CardError(f"{path}: the name {name!r} is taken by {taken.source}; choose another.")
    _cards.update((c.name, c) for c in read)
    _aliases.update(short)
    return read


def card(name: str) -> ModelCard:
    """Look up the card of a name.

    A data set after a dot ("mdeq_tiny.fashion_mnist") is left aside. After a colon stands what the card leaves open:
    "timm:resnet18" is the card `timm` with that architecture.

        >>> card("timm:resnet18").model["arch"]
        'resnet18'

    Raises:
        UnknownName: no card has this name; the nearest is named.
    """
    whole = name.partition(".")[0]
    base, colon, argument = whole.partition(":")
    known = all_cards()
    if base == OWN and argument and base not in known:
        return _own_card(name, whole)
    found = known.get(_aliases.get(base, base))
    if found is None or (colon and not (found.takes and argument)):
        raise UnknownName(_no_model(name, found))
    return replace(found, name=whole, model={**found.model, found.takes: argument}) if colon else found


def register_model(path: str, task: str) -> ModelCard:
    """Make a model of the user's own known: a class, by ``package.module:Class``, that a task of the zoo trains.

    Args:
        path: where the class is; its arguments ``num_classes``, ``in_chans`` and so on follow from the data set.
        task: where the class of its task is, ``package.module:Class``.

    Returns:
        its card, whose name stands in the configurations of its runs.
    """
    name = f"{OWN}:{path.replace('.', '/')}"
    made = ModelCard(
        name=name, family=OWN, path=path, task=task, summary="a model of your own", model={}, solver={}, adjoint={},
        data=(), source=path,
    )  # fmt: skip
    made.load()
    _cards[name] = made
    return made


def _own_card(name: str, whole: str) -> ModelCard:
    found = all_cards().get(whole)
    if found is None:
        path = whole.partition(":")[2].replace("/", ".")
        raise UnknownName(
            f"{name!r} is code of your own, which is imported only where you name it: --model {path}, or in Python "
            f"zoo.register_model({path!r}, task='classification') before."
        )
    return found


def _no_model(name: str, found: ModelCard | None) -> str:
    """Say that no card has this name, and what to do; ``found``: the card before a colon that it does not take."""
    if found is not None:
        more = f"write {found.name}:NAME" if found.takes else f"{found.name!r} takes nothing after a colon"
        return f"No model named {name!r}: {more}."
    base, colon, argument = name.partition(".")[0].partition(":")
    names = [n for n in [*_cards, *_aliases] if (":" not in n and name.startswith(TESTS)) or not n.startswith(TESTS)]
    close = difflib.get_close_matches(base, names, n=2, cutoff=0.5)
    hint = f" Did you mean {' or '.join(repr(n + colon + argument) for n in close)}?" if close else ""
    return (
        f"No model named {name!r}.{hint} All {len(list_models())} names: zoo.list_models(), python -m zoo.fit --help."
    )


def is_card_name(text: str) -> bool:
    """Whether a model is meant by the name of a card, not by a place."""
    if not text or "/" in text or "\\" in text or Path(text).exists():
        return False
    base, colon, _ = text.partition(":")
    found = all_cards().get(_aliases.get(base, base))
    return not colon or (found is not None and bool(found.takes))


def recipe(name: str, data: str | None = None) -> dict[str, Any]:
    """How a model is trained on a data set: sections ``optim, task, trainer, data, model, solver, adjoint``.

    The family's general recipe is overlaid by the more specific: ``*``/``*``, ``*``/data, variant/``*``, variant/data.
    """
    c = card(name)
    data = data or name.partition(".")[2] or c.data[0]
    out: dict[str, Any] = {}
    for variant in ("*", c.name.partition(":")[0]):
        for dataset in ("*", data):
            out = overlay(out, c.recipes.get(variant, {}).get(dataset, {}))
    return out


def list_models(pattern: str = "*", *, pretrained: bool = False, tests: bool = False) -> list[str]:
    """List the models whose name matches a shell pattern, in order.

        >>> list_models("mdeq_tiny_s*")
        ['mdeq_tiny_spectral', 'mdeq_tiny_stem']

    Args:
        pattern: ``"*"`` for all.
        pretrained: list ``name.data`` of each set of trained weights instead.
        tests: list the tests' own models too. As hidden files in a shell, they are listed where the pattern itself
            begins with ``test_``.
    """
    mine = {n: c for n, c in all_cards().items() if c.family != OWN}
    shown = [c for n, c in mine.items() if tests or pattern.startswith(TESTS) or not n.startswith(TESTS)]
    names = [f"{c.name}.{tag}" for c in shown for tag in c.weights] if pretrained else [c.name for c in shown]
    return [n for n in names if fnmatch.fnmatchcase(n, pattern)]


def weights_of(c: ModelCard, tag: str = "") -> tuple[Path, str]:
    """The folder of a card's weights, and their sha256; those of its first data set that has some, if none is named."""
    if not c.weights:
        have = list_models(pretrained=True)
        raise UnknownName(f"{c.name!r} has no trained weights. Those that have: {', '.join(have) or 'none yet'}.")
    tag = tag or next(iter(c.weights))
    if tag not in c.weights:
        raise UnknownName(unknown(f"weights of {c.name!r}", tag, c.weights))
    entry = c.weights[tag]
    if "hub" in entry:  # too large to come with the package
        return download(entry["hub"]), entry["sha256"]
    root = (HERE / "weights").resolve()
    file = (root / entry["file"]).resolve()
    if not file.is_relative_to(root) or file.name != model_folder.WEIGHTS:
        raise CardError(
            f"{c.source}: weights.{c.name}.{tag}.file must be FOLDER/{model_folder.WEIGHTS} below {root}; "
            f"got {entry['file']!r}."
        )
    return file.parent, entry["sha256"]


def _files(found: Any) -> list[Path]:
    """The card files that an entry point stands for: a package, a folder, a file, or several of them."""
    if isinstance(found, ModuleType):
        return sorted(Path(str(found.__file__)).parent.glob("*.yaml"))
    if isinstance(found, (str, Path)):
        return sorted(Path(found).glob("*.yaml")) if Path(found).is_dir() else [Path(found)]
    return [file for part in found for file in _files(part)]
