"""Plain values out of a file, checked against what a class takes before anything is built of them.

A model folder comes from anywhere: its numbers may be of a wrong type, or ask for more memory than there is.
"""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from zoo.registry import Registry, check_options
from zoo.solvers import SOLVERS

LARGEST = {"window": 1_000}  # of a solver's whole numbers: a window is memory, the others are time
LARGEST_STEPS = 1_000_000
DEEPEST = 3  # solvers inside one another: an adjoint's, and that solver's own


def check_values(noun: str, factory: Callable[..., Any], given: Mapping[str, Any]) -> None:
    """Check options from a file: their names, and their types by the annotations of ``factory``.

    Raises:
        UnknownName: an option that it does not take; the nearest is named.
        ValueError: a value of another type.
    """
    check_options(noun, factory, given)
    written = inspect.signature(factory).parameters
    hints = _hints(factory)
    for name, value in given.items():
        if name in hints and not fits(value, hints[name]):
            raise ValueError(f"{name} must be {written[name].annotation}; got {_short(value)}.")


def check_spec(table: Registry[Any], spec: Mapping[str, Any], *, paths: bool = False, depth: int = 1) -> None:
    """Check a solver or an adjoint from a file: its name, its options, the solver inside it, and that it is affordable.

    Args:
        table: of the solvers or the adjoints.
        spec: a ``name`` and options; empty: nothing to check.
        paths: whether a text may name a file; a model folder's may not.
        depth: how far it lies inside of others.

    Raises:
        UnknownName: a name or an option that does not exist; the nearest is named.
        ValueError: a value of another type, a file, or a number that no solver needs.
    """
    if not spec:
        return
    if depth > DEEPEST:
        raise ValueError(f"{table.noun}s lie inside one another more than {DEEPEST} deep.")
    name = spec.get("name")
    if not isinstance(name, str):
        raise ValueError(f"a {table.noun} needs a 'name'; got {_short(dict(spec))}.")
    factory: Any = table[name]
    solvers = {k: v for k, v in spec.items() if k.endswith("solver") and v is not None}
    inner = {k: {"name": v} if isinstance(v, str) else v for k, v in solvers.items()}
    plain = {k: v for k, v in spec.items() if k != "name" and k not in inner}
    check_options(f"option of {table.noun} {name!r}", factory, inner)
    check_values(f"option of {table.noun} {name!r}", factory, plain)
    for key, value in plain.items():
        if isinstance(value, int) and not isinstance(value, bool) and value > LARGEST.get(key, LARGEST_STEPS):
            raise ValueError(f"{key} of {name!r} must be at most {LARGEST.get(key, LARGEST_STEPS):,}; got {value:,}.")
        if not paths and isinstance(value, str) and (set("/\\") & set(value) or Path(value).exists()):
            raise ValueError(f"{key} of {name!r} names a file, {_short(value)}; a model folder may not.")
    for key, part in inner.items():
        if not isinstance(part, Mapping):
            raise ValueError(f"{key} of {name!r} must be a solver; got {_short(part)}.")
        check_spec(SOLVERS, part, paths=paths, depth=depth + 1)


def fits(value: Any, kind: Any) -> bool:
    """Whether a plain value (of JSON or YAML) is of an annotated type; a list is a sequence or a tuple.

    >>> fits([8, 8], tuple[int, ...]), fits(3.0, int), fits(None, int | None), fits(3, float)
    (True, False, True, True)
    """
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any or isinstance(kind, typing.TypeVar):
        return True
    if kind is None or kind is type(None):
        return value is None
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, part) for part in parts)
    if origin is typing.Literal:
        return value in parts
    if origin is not None and isinstance(origin, type):
        if issubclass(origin, Mapping):
            return isinstance(value, Mapping)
        if issubclass(origin, Iterable):
            return _elements_fit(value, origin, parts)
        return False
    if dataclasses.is_dataclass(kind) and isinstance(value, Mapping):  # written out as a mapping of its fields
        hints = _hints(kind)  # type: ignore[arg-type]  # a class, by its use as an annotation
        return all(key in hints and fits(v, hints[key]) for key, v in value.items())
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind is tuple:
        return isinstance(value, (list, tuple))
    return isinstance(value, kind) if isinstance(kind, type) else True


def _elements_fit(value: Any, origin: type, parts: tuple[Any, ...]) -> bool:
    if not isinstance(value, (list, tuple)):
        return False
    if issubclass(origin, tuple) and parts and parts[-1] is not Ellipsis:
        return len(value) == len(parts) and all(fits(v, p) for v, p in zip(value, parts, strict=True))
    return not parts or all(fits(v, parts[0]) for v in value)


def _hints(factory: Callable[..., Any]) -> dict[str, Any]:
    """The resolved annotations; empty where one names what only a type checker imports."""
    try:
        if inspect.isclass(factory) and not dataclasses.is_dataclass(factory):
            return typing.get_type_hints(getattr(factory, "__init__"))  # noqa: B009 (mypy: of an instance, not a class)
        return typing.get_type_hints(factory)
    except (NameError, TypeError):
        return {}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
