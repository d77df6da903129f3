"""The form of a card file: its keys, what each must hold, and the cards that it makes. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from zoo.registry import unknown
from zoo.solvers import CARRIED as CARRIED
from zoo.solvers import SOLVERS

SECTIONS = ("model", "solver", "adjoint", "data", "optim", "ema", "task", "trainer")  # what a recipe may set

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
_VARIANT = {"summary": str, "task": str, "model": dict, "solver": dict, "adjoint": dict, "data": list, "takes": str}


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


def read_card_file(path: Path) -> tuple[list[ModelCard], dict[str, str]]:
    """Read the variants of one file, and their aliases.

    Raises:
        CardError: the file is unreadable, lacks a key, has one too many, or one of a wrong kind.
    """
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
    cards = [_variant(path, raw, name, given) for name, given in raw["variants"].items()]
    return cards, dict(raw.get("aliases", {}))


def _variant(path: Path, raw: Mapping[str, Any], name: str, given: Any) -> ModelCard:
    """The card of one variant; what it leaves out is the family's."""
    if given is not None and not isinstance(given, dict):
        raise CardError(f"{path}: variants.{name} must be a mapping; got {given!r}.")
    variant: dict[str, Any] = given or {}
    if "." in name or ":" in name:
        raise CardError(
            f"{path}: variants.{name}: a name has no dot and no colon; after a dot stands a data set, after a colon an "
            "argument."
        )
    _check(path, f"variants.{name}.", variant, _VARIANT)
    if ":" not in variant.get("task", raw["task"]):
        raise CardError(f"{path}: variants.{name}.task must be 'package.module:Class'; got {variant['task']!r}.")
    data: Any = variant.get("data", raw["data"])
    _names(path, f"variants.{name}.data", data)
    specs = overlay(
        {k: raw.get(k, {}) for k in ("solver", "adjoint")},
        {k: variant[k] for k in ("solver", "adjoint") if k in variant},
    )
    for key, spec in specs.items():
        if spec and "name" not in spec:
            raise CardError(f"{path}: {key} of {name!r} needs a 'name'; got the keys {', '.join(spec)}.")
    return ModelCard(
        name=name,
        family=raw["family"],
        path=raw["class"],
        task=variant.get("task", raw["task"]),
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


def _load(path: str, source: str) -> Any:
    module, _, attribute = path.partition(":")
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise CardError(f"{source}: cannot import {path!r} ({error}).") from error


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
