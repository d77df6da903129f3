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
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from zoo.registry import UnknownName, unknown
from zoo.solvers import SOLVERS
from zoo.storage import model_folder
from zoo.storage.huggingface import download

HERE = Path(__file__).resolve().parents[1]
SECTIONS = ("model", "solver", "adjoint", "data", "optim", "task", "trainer")  # what a recipe may set
CARRIED = ("rtol", "atol", "max_steps")  # of a solver that is replaced by another one
TESTS = "test_"  # how the names of the tests' own models begin

_REQUIRED = {"family": str, "class": str, "task": str, "summary": str, "data": list, "variants": dict}
_OPTIONAL = {
    "paper": dict,
    "license": str,
    "licence": str,  # of cards of other packages
    "solver": dict,
    "adjoint": dict,
    "aliases": dict,
    "recipes": dict,
    "measured": dict,
    "published": dict,
    "weights": dict,
}
_VARIANT = {"summary": str, "model": dict, "solver": dict, "adjoint": dict, "data": list, "takes": str}


class CardError(ValueError):
    """A card file that cannot be used; the message names the file, the key, and what was expected."""


@dataclass(frozen=True)
class ModelCard:
    """One named model, as data.

    Attributes:
        name: the variant ("mdeq_tiny").
        family: the card file's family ("mdeq").
        path: import path of the model's class, "package.module:Class".
        task: import path of the LightningModule that trains it.
        summary: one sentence.
        model: the class's arguments for this variant.
        solver, adjoint: specs as `Registry.build` takes them; empty where the model has none (an explicit baseline).
        data: names of the data sets it trains on, the default first.
        takes: the argument of the class that a name after a colon sets (``timm:resnet18``); empty: there is none.
        aliases: other names of this variant.
        paper, licence, measured, published: for reports; numbers under ``measured`` come from our own runs.
        weights: by data set: ``{file, sha256}``, the file below ``zoo/weights``; or ``{hub, sha256}``, a repository.
        recipes: the family's recipes as written; read them with `recipe`.
        source: the file this came from.
    """

    name: str
    family: str
    path: str
    task: str
    summary: str
    model: Mapping[str, Any]
    solver: Mapping[str, Any]
    adjoint: Mapping[str, Any]
    data: tuple[str, ...]
    takes: str = ""
    aliases: tuple[str, ...] = ()
    paper: Mapping[str, Any] = field(default_factory=dict)
    licence: str = ""
    measured: Mapping[str, Any] = field(default_factory=dict)
    published: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, Any] = field(default_factory=dict)
    recipes: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""

    def load(self) -> Any:
        """The model's class."""
        return _load(self.path, self.source)

    def load_task(self) -> Any:
        """The class of the task that trains it."""
        return _load(self.task, self.source)


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
    read, short = _read(path)
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
    found = known.get(_aliases.get(base, base))
    if found is None or (colon and not (found.takes and argument)):
        raise UnknownName(_no_model(name, found))
    return replace(found, name=whole, model={**found.model, found.takes: argument}) if colon else found


def _no_model(name: str, found: ModelCard | None) -> str:
    """Say that no card has this name, and what to do; ``found``: the card before a colon that it does not take."""
    if found is not None:
        more = f"write {found.name}:NAME" if found.takes else f"{found.name!r} takes nothing after a colon"
        return f"No model named {name!r}: {more}."
    base, colon, argument = name.partition(".")[0].partition(":")
    names = [n for n in [*_cards, *_aliases] if name.startswith(TESTS) or not n.startswith(TESTS)]
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


def overlay(base: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """``new`` over ``base``, mapping by mapping. Where ``new`` gives another ``name``, the old one's options go, except
    a solver's tolerances and budget, which mean the same for every solver of a kind."""
    out = {k: _copied(v) for k, v in base.items()}
    for key, value in new.items():
        old = out.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            if "name" in value and value["name"] != old.get("name"):
                ode = {e.name for e in SOLVERS.entries(kind="ode")}
                same = (value["name"] in ode) == (old.get("name") in ode)
                old = {k: v for k, v in old.items() if same and k in CARRIED}
            out[key] = overlay(old, value)
        else:
            out[key] = _copied(value)
    return out


def _copied(value: Any) -> Any:
    """A copy of mappings and lists; what they hold may be objects, which stay the same."""
    if isinstance(value, Mapping):
        return {k: _copied(v) for k, v in value.items()}
    return [_copied(v) for v in value] if isinstance(value, list) else value


def list_models(pattern: str = "*", *, pretrained: bool = False, tests: bool = False) -> list[str]:
    """List the models whose name matches a shell pattern, in order.

        >>> list_models("mdeq_tiny*")
        ['mdeq_tiny', 'mdeq_tiny_stem']

    Args:
        pattern: ``"*"`` for all.
        pretrained: list ``name.data`` of each set of trained weights instead.
        tests: list the tests' own models too. As hidden files in a shell, they are listed where the pattern itself
            begins with ``test_``.
    """
    shown = [c for n, c in all_cards().items() if tests or pattern.startswith(TESTS) or not n.startswith(TESTS)]
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


def _load(path: str, source: str) -> Any:
    module, _, attribute = path.partition(":")
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise CardError(f"{source}: cannot import {path!r} ({error}).") from error


def _read(path: Path) -> tuple[list[ModelCard], dict[str, str]]:
    """The variants of one file, and their aliases."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CardError(f"{path}: cannot be read ({error.strerror}).") from error
    except yaml.YAMLError as error:
        raise CardError(f"{path}: is not valid YAML ({' '.join(str(error).split())}).") from error
    if not isinstance(raw, dict):
        raise CardError(f"{path}: a card is a mapping with the keys {', '.join(_REQUIRED)}; got {type(raw).__name__}.")
    for key in _REQUIRED:
        if key not in raw:
            raise CardError(f"{path}: the key {key!r} is missing.")
    _check(path, "", raw, {**_REQUIRED, **_OPTIONAL})
    if "license" in raw and "licence" in raw:
        raise CardError(f"{path}: license is given twice, as license and as licence. Keep the first.")
    for key in ("class", "task"):
        if ":" not in raw[key]:
            raise CardError(f"{path}: {key} must be 'package.module:Class'; got {raw[key]!r}.")
    _names(path, "data", raw["data"])
    _check_recipes(path, raw)
    _check_weights(path, raw)
    for key, target in raw.get("aliases", {}).items():
        if target not in raw["variants"]:
            raise CardError(f"{path}: aliases.{key}: {unknown('variant', str(target), raw['variants'])}")
    out = []
    for name, given in raw["variants"].items():
        if given is not None and not isinstance(given, dict):
            raise CardError(f"{path}: variants.{name} must be a mapping; got {given!r}.")
        variant: dict[str, Any] = given or {}
        if "." in name:
            raise CardError(f"{path}: variants.{name}: a name has no dot; what follows a dot is a data set.")
        _check(path, f"variants.{name}.", variant, _VARIANT)
        data: Any = variant.get("data", raw["data"])
        _names(path, f"variants.{name}.data", data)
        specs = overlay(
            {k: raw.get(k, {}) for k in ("solver", "adjoint")},
            {k: variant[k] for k in ("solver", "adjoint") if k in variant},
        )
        for key, spec in specs.items():
            if spec and "name" not in spec:
                raise CardError(f"{path}: {key} of {name!r} needs a 'name'; got the keys {', '.join(spec)}.")
        out.append(
            ModelCard(
                name=name,
                family=raw["family"],
                path=raw["class"],
                task=raw["task"],
                summary=str(variant.get("summary", raw["summary"])),
                model=variant.get("model", {}),
                data=tuple(data),
                takes=variant.get("takes", ""),
                aliases=tuple(a for a, target in raw.get("aliases", {}).items() if target == name),
                paper=raw.get("paper", {}),
                licence=raw.get("license", raw.get("licence", "")),
                measured=raw.get("measured", {}).get(name, {}),
                published=raw.get("published", {}).get(name, {}),
                weights=raw.get("weights", {}).get(name, {}),
                recipes=raw.get("recipes", {}),
                source=str(path),
                **specs,
            )
        )
    return out, dict(raw.get("aliases", {}))


def _check(path: Path, where: str, given: Mapping[str, Any], types: Mapping[str, type]) -> None:
    for key, value in given.items():
        if key not in types:
            raise CardError(f"{path}: {where}{key}: {unknown('key', str(key), types)}")
        if not isinstance(value, types[key]):
            raise CardError(f"{path}: {where}{key} must be a {types[key].__name__}; got {value!r}.")


def _names(path: Path, where: str, given: Iterable[Any]) -> None:
    if not given or not all(isinstance(d, str) for d in given):
        raise CardError(f"{path}: {where} must list the names of data sets, the default first; got {given!r}.")


def _check_recipes(path: Path, raw: Mapping[str, Any]) -> None:
    for variant, by_data in raw.get("recipes", {}).items():
        if variant != "*" and variant not in raw["variants"]:
            raise CardError(f"{path}: recipes.{variant}: {unknown('variant', str(variant), [*raw['variants'], '*'])}")
        if not isinstance(by_data, dict):
            raise CardError(f"{path}: recipes.{variant} must map data sets (or '*') to recipes; got {by_data!r}.")
        for data, sections in by_data.items():
            _check(path, f"recipes.{variant}.{data}.", sections or {}, dict.fromkeys(SECTIONS, dict))


def _check_weights(path: Path, raw: Mapping[str, Any]) -> None:
    for variant, by_data in raw.get("weights", {}).items():
        if variant not in raw["variants"]:
            raise CardError(f"{path}: weights.{variant}: {unknown('variant', str(variant), raw['variants'])}")
        for data, entry in by_data.items():
            keys = set(entry) if isinstance(entry, dict) else set()
            if keys not in ({"file", "sha256"}, {"hub", "sha256"}):
                raise CardError(
                    f"{path}: weights.{variant}.{data} must hold 'sha256' and either 'file' or 'hub'; got {entry!r}."
                )
