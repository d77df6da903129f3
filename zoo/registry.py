"""Names to things, without importing the things.

A registry maps a name to an import path and one sentence. It imports no torch, so that ``--help``, completion and
"did you mean" answer at once; the object behind a name is imported when it is first asked for.
"""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any, Generic, TypeVar, cast

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


class UnknownName(KeyError):
    """A name or an option that nothing is registered under; the message names the nearest and lists the known."""

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError would print the repr, with quotes and escapes


# What other packages of this field call it: their spelling is near another name than the one that is meant.
ELSEWHERE = {
    "fixed_point_iter": "picard",
    "simple_fixed_point_iter": "picard",
    "f_tol": "rtol",
    "f_max_iter": "max_steps",
    "max_iter": "max_steps",
    "max_num_steps": "max_steps",
    "jump_t": "jump_ts",
    "step_t": "jump_ts",
    "tol": "rtol",
    "threshold": "max_steps",
    "dt0": "first_step",
    "dtmax": "max_step",
    "func": "f",
    "vector_field": "f",
    "fun": "f",
    "x0": "z0",
    "z_init": "z0",
    "init_params": "z0",
    "t": "ts",
    "t_span": "ts",
    "saveat": "ts",
    "method": "solver",
    "f_solver": "solver",
    "event_fn": "event",
    "events": "event",
    "adjoint_params": "params",
    "grad": "adjoint",
    "b_solver": "adjoint",
    "adjoint_method": "adjoint",
    "implicit_adjoint": "adjoint",
    "dense_output": "dense",
}


def unknown(noun: str, name: str, known: Iterable[str]) -> str:
    """The sentence for a name that is not known: what was got, the nearest, and all that would do."""
    known = sorted(set(known))
    near = (
        [ELSEWHERE[name]] if ELSEWHERE.get(name) in known else difflib.get_close_matches(name, known, n=2, cutoff=0.5)
    )
    hint = f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
    return f"No {noun} named {name!r}.{hint} Known: {', '.join(known) or 'none'}."


def names_keywords(hint: Callable[[str, Any], str | None]) -> Callable[[F], F]:
    """Decorator: a keyword that a function does not take is an error that names the nearest.

    Args:
        hint: from the keyword and its value to what to write in its place, a sentence; None: nothing is known of it.
    """

    def around(f: F) -> F:
        parameters = inspect.signature(f).parameters

        @functools.wraps(f)
        def call(*args: Any, **options: Any) -> Any:
            if not options.keys() <= parameters.keys():
                name = next(k for k in options if k not in parameters)
                known = unknown(f"argument of {f.__name__}", name, parameters)
                meant = hint(name, options[name])
                raise TypeError(f"No argument of {f.__name__} named {name!r}. {meant}" if meant else known)
            return f(*args, **options)

        return cast(F, call)

    return around


def sentence(error: BaseException) -> str:
    """An error as one line: all of it where it is the zoo's own, the first line of a foreign one.

    An error without a message is named by its class.
    """
    text = str(error).strip()
    if not text:
        return type(error).__name__
    ours = type(error).__module__.startswith("zoo.") or isinstance(error, OSError)
    return " ".join(text.split()) if ours else text.splitlines()[0].strip()


@dataclasses.dataclass(frozen=True)
class Entry:
    """One registered name. ``kind`` groups names that serve the same purpose (``fixed_point``, ``linear``, ``ode``).

    A name that serves several purposes has their kinds with spaces between them.
    """

    name: str
    path: str  # "package.module:attribute"
    summary: str = ""
    kind: str = ""


class Registry(Generic[T]):
    """A read-mostly table of names. Registering a name twice is an error: nothing is overwritten silently.

    ``T`` is what a registered class or function makes.

    Args:
        noun: what the names stand for, for the error messages ("solver").
        *entries: the built-in ones, as import paths.
        bases: import paths of the classes that an instance must be of; none: anything goes.
    """

    def __init__(self, noun: str, *entries: Entry, bases: tuple[str, ...] = ()) -> None:
        self.noun, self._bases = noun, bases
        self._entries = {e.name: e for e in entries}
        self._objects: dict[str, Callable[..., T]] = {}

    def register(self, name: str, *, summary: str = "", kind: str = "") -> Callable[[F], F]:
        """Decorator: put an object under a name. Raises ValueError where the name is taken."""

        def put(thing: F) -> F:
            if name in self._entries:
                taken = self._entries[name].path
                raise ValueError(f"The {self.noun} name {name!r} is taken by {taken}; register under another name.")
            path = f"{thing.__module__}:{getattr(thing, '__qualname__', type(thing).__qualname__)}"
            self._entries[name] = Entry(name, path, summary or (inspect.getdoc(thing) or "").split("\n")[0], kind)
            self._objects[name] = thing
            return thing

        return put

    def entry(self, name: str) -> Entry:
        """What is registered under a name; raises UnknownName, naming the nearest."""
        if name not in self._entries:
            raise UnknownName(unknown(self.noun, name, self._entries))
        return self._entries[name]

    def __getitem__(self, name: str) -> Callable[..., T]:
        entry = self.entry(name)
        if name not in self._objects:
            self._objects[name] = load_path(entry.path)
        return self._objects[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def entries(self, pattern: str = "*", kind: str | None = None) -> list[Entry]:
        """The entries whose name matches a shell pattern, in order of name; of one kind, if given."""
        found = [e for n, e in sorted(self._entries.items()) if fnmatch.fnmatchcase(n, pattern)]
        return [e for e in found if kind is None or kind in e.kind.split()]

    def names(self, pattern: str = "*", kind: str | None = None) -> list[str]:
        return [e.name for e in self.entries(pattern, kind)]

    def build(self, spec: str | Mapping[str, Any] | T, **defaults: Any) -> T:
        """An instance from a name, a mapping ``{"name": ..., option: value}``, or an instance (returned as it is).

        Args:
            spec: what to build.
            **defaults: options taken where ``spec`` leaves them open; ignored for an instance.

        Raises:
            UnknownName: the name, or an option's name, is not known; the nearest is named.
            TypeError: neither a name, nor a mapping, nor an instance of what this registry holds.
        """
        if isinstance(spec, str):
            spec = {"name": spec}
        if not isinstance(spec, Mapping):
            if self._bases and not isinstance(spec, self._kinds):
                hint = f"; make an instance, {spec.__name__}(...)" if isinstance(spec, type) else ""
                raise TypeError(
                    f"A {self.noun} is a name such as {next(iter(self._entries))!r}, a mapping {{'name': ..., option: "
                    f"value}} or an instance; got {spec!r}{hint}."
                )
            return spec
        options = {**defaults, **{k: v for k, v in spec.items() if k != "name"}}
        if "name" not in spec:
            raise UnknownName(f"A {self.noun} given as a mapping needs a 'name'; got the keys {sorted(spec)}.")
        factory = self[spec["name"]]
        check_options(f"option of {self.noun} {spec['name']!r}", factory, options)
        return factory(**options)

    @functools.cached_property
    def _kinds(self) -> tuple[type, ...]:
        """The classes that an instance must be of."""
        return tuple(load_path(path) for path in self._bases)


def load_path(path: str) -> Any:
    """Import what ``package.module:attribute`` names."""
    module, _, attribute = path.partition(":")
    return getattr(import_module(module), attribute)


@functools.cache
def option_names(factory: Callable[..., Any]) -> tuple[str, ...]:
    """The keyword options that a dataclass or a function takes."""
    return tuple(p.name for p in inspect.signature(factory).parameters.values() if p.kind is not p.VAR_KEYWORD)


def check_options(noun: str, factory: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Raise UnknownName, naming the nearest, where an option is none that ``factory`` takes."""
    known = option_names(factory)
    for name in options:
        if name not in known:
            raise UnknownName(unknown(noun, name, known))
