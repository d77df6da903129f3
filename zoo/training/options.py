"""The parser of a run: every option of the named classes, checked against their signatures.

One jsonargparse parser is composed from the classes that the request names: the model's arguments, the options of the
solver and the adjoint, of the data module, of `Optim`, of the task and of the Trainer. Flags may stand in any order, as
every class is known before the first is read; what came from Python is checked by the same parser.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
from argparse import ArgumentError
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_type_hints

from lightning import Trainer
from lightning.pytorch.cli import LightningArgumentParser
from torch.utils.data import DataLoader

from zoo import _compat
from zoo.adjoints import ADJOINTS
from zoo.callbacks.weight_ema import WeightEMA
from zoo.data import DATA
from zoo.hub import cards
from zoo.registry import UnknownName, option_names, unknown
from zoo.solvers import SOLVERS
from zoo.tasks import TASKS
from zoo.tasks.optim import Optim
from zoo.tasks.regularization import StabilityConfig
from zoo.training.classes import check_classes, expand, import_paths, into_folder, not_allowed, refuse_classes
from zoo.training.errors import UsageError
from zoo.training.request import Request
from zoo.training.words import NAMED, SECTIONS, SYNONYMS

OURS = (
    "default_root_dir",
    "enable_checkpointing",
    "model_registry",
    "enable_autolog_hparams",
)  # the run folder decides
MOST = {"data.num_workers": 1024, "solver.window": 10_000, "trainer.num_nodes": 100_000}  # more is a slip of the pen


class Options:
    """The options of one run: parsed, checked, and as plain values.

    Args:
        request: what was asked for.

    Attributes:
        card: of the model; None where the model or the task is an object.
        names: by section the name of its class, or of the class of the object that was given.
        factories: by section the class that takes its options.
        inner: the name of the linear solver inside the adjoint; empty where it has none of its own.
        given: dotted keys that somebody set (not the card).
        instances: the model, the task or the data that were given as objects.
        objects: dotted keys whose value is an object, and the import path of its class.
        values: by section the options as plain values, without those that are objects.

    Raises:
        UsageError, UnknownName: an option that no class has, or a value of the wrong type, in one line.
    """

    def __init__(self, request: Request) -> None:
        config = request.config
        self.given, self.pretrained, self.allowed = request.given, request.pretrained, request.allow_import
        self.instances = request.objects
        name = config.get("model", {}).get("name")
        self.card = cards.card(name) if name is not None else None
        self.names: dict[str, str] = {k: config[k]["name"] for k in NAMED if k in config}
        self.names |= {k: _name(v) for k, v in request.objects.items()}
        if "task" in request.objects and "model" not in self.names:
            self.names["model"] = type(request.objects["task"].model).__name__
        self.factories = self._factories(config, request)
        self._compose(config)
        config = self._plain(config)
        flags = [(k, v) for k, v in request.flags]
        self._check_names(config, flags)
        self.objects = {k: _path(v) for k, v in request.objects.items()} | _objects(config)
        with _compat.allowed_imports(import_paths(self.allowed)):
            try:
                self.space = self.parser.parse_object(config)
                if flags:
                    argv = [f"--{k}={_text(k, v)}" for k, v in flags]
                    self.space = self.parser.parse_args(argv, namespace=self.space)
            except ArgumentError as error:
                raise UsageError(self._sentence(str(error))) from error
            with _compat.unserializable_allowed():
                text = self.parser.dump(self.space, format="json", skip_unset=False, skip_validation=True)
        self.values: dict[str, dict[str, Any]] = json.loads(text)
        for key in self.objects:
            section, _, option = key.partition(".")
            self.values.get(section, {}).pop(option, None)
        check_classes(self.values.get("trainer", {}), self.allowed)
        for section, options in self.values.items():
            if section != "trainer":
                refuse_classes(section, options)
        self._check_ranges()

    def section(self, name: str) -> dict[str, Any]:
        """The options of one section, plain; without the section's ``name``."""
        return dict(self.values.get(name, {}))

    def spec(self, name: str) -> dict[str, Any] | None:
        """The solver or adjoint as `Registry.build` takes it; None where none is named."""
        if name not in self.names:
            return None
        options = self.section(name)
        if self.inner and name == "adjoint":
            options["solver"] = {"name": self.inner, **options.get("solver", {})}
        return {"name": self.names[name], **options}

    def trainer(self, folder: Path) -> dict[str, Any]:
        """The Trainer's arguments, with callbacks, loggers and the like built; they write below the run folder."""
        space = self.space.clone()
        for option, value in self.section("trainer").items():
            placed = into_folder(value, folder)
            if placed != value:
                space.trainer[option] = placed
        with _compat.allowed_imports(import_paths(self.allowed)):
            return dict(vars(self.parser.instantiate(space).trainer))

    def config(self, derived: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """What ``-c`` reads back: names and options, the Trainer's only where they are not its defaults."""
        usual = {p.name: p.default for p in inspect.signature(Trainer.__init__).parameters.values()}
        out: dict[str, Any] = {}
        for key in SECTIONS:
            if key in ("solver", "adjoint"):
                if spec := self.spec(key):
                    out[key] = spec
                continue
            if key not in self.factories:
                continue
            options = self.section(key)
            if key == "trainer":
                kept = self._from_config.get(key, {})
                options = {
                    k: v for k, v in options.items() if v != usual.get(k) or k in kept or f"trainer.{k}" in self.given
                }
            name = {"name": self.names[key]} if key in self.names else {}
            out[key] = {**name, **options}
        if "data.seed" not in self.given and "data" in out:
            out["data"].pop("seed", None)  # follows --seed
        for key, value in (derived or {}).items():
            out["model"][key] = value
        if self.objects:
            out["objects"] = dict(self.objects)
        return out

    def option_keys(self) -> list[str]:
        """Every option, as ``section.option``."""
        return [key for key, _ in _compat.parser_options(self.parser) if "." in key]

    def _factories(self, config: Mapping[str, Any], request: Request) -> dict[str, Any]:
        """By section the class, or function, that takes its options; none where an object was given."""
        out: dict[str, Any] = {}
        if self.card is not None:
            out["model"] = self.card.load()
        if "data" in config:
            out["data"] = DATA[config["data"]["name"]]
        out |= {k: table[self.names[k]] for k, table in (("solver", SOLVERS), ("adjoint", ADJOINTS)) if k in self.names}
        averaging = {"ema": WeightEMA}
        if "task" in request.objects:
            return {**out, **averaging, "trainer": Trainer}
        if self.card is None:
            self.names["task"] = config["task"]["name"]
        elif self.card.family == cards.OWN:
            self.names["task"] = next((e.name for e in TASKS.entries() if e.path == self.card.task), "")
        task = self.card.load_task() if self.card is not None else TASKS[config["task"]["name"]]
        return {**out, "optim": Optim, **averaging, "task": task, "trainer": Trainer}

    def _compose(self, config: Mapping[str, Any]) -> None:
        self.parser = LightningArgumentParser(prog="zoo.fit", exit_on_error=False, add_help=False)
        once: dict[str, Any] = {"instantiate": False, "fail_untyped": False}
        skipped: dict[str, set[str | int]] = {
            "adjoint": {"solver"},
            "task": {"model", "optim", "stability"},
            "trainer": set(OURS),
        }
        self.inner = ""
        for key, factory in self.factories.items():
            if isinstance(factory, type):
                self.parser.add_class_arguments(factory, key, skip=skipped.get(key, set()), **once)
            else:
                self.parser.add_function_arguments(factory, key, skip=skipped.get(key, set()), fail_untyped=False)
            if key == "adjoint" and "solver" in option_names(factory):
                self._add_inner(config["adjoint"].get("solver"))
            if key == "task" and "stability" in option_names(factory):  # its options stand among the task's own
                for option, kind in get_type_hints(StabilityConfig).items():
                    default = getattr(StabilityConfig, option)
                    self.parser.add_argument(f"--task.{option}", type=kind, default=default)

    def _add_inner(self, given: Any) -> None:
        """The solver inside an adjoint: ``--adjoint.solver NAME``, ``--adjoint.solver.rtol``."""
        spec = {"name": given} if isinstance(given, str) else given
        if not isinstance(spec, Mapping) or "name" not in spec:
            spec = {**_inner_default(self.factories["adjoint"]), **(spec or {})}
        if "name" not in spec:
            return  # the adjoint takes the forward solver unless one is named
        self.inner = spec["name"]
        self.parser.add_class_arguments(SOLVERS[self.inner], "adjoint.solver", instantiate=False, fail_untyped=False)
        self._inner_defaults = {k: v for k, v in spec.items() if k != "name"}

    def _plain(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The configuration without names, and without tolerances that a solver left behind and the new one lacks."""
        out: dict[str, Any] = {}
        for section, options in config.items():
            out[section] = {k: v for k, v in options.items() if k != "name" or section not in self.names}
        out["trainer"] = {k: expand(k, v) for k, v in out.get("trainer", {}).items()}
        for key in ("solver", "adjoint"):
            if key in out:
                known = option_names(self.factories[key])
                keep = (*known, "solver") if key == "adjoint" and self.inner else known
                out[key] = {k: v for k, v in out[key].items() if k in keep or k not in cards.CARRIED}
        if "adjoint" in out:
            out["adjoint"].pop("solver", None)
            if self.inner and self._inner_defaults:
                out["adjoint"]["solver"] = self._inner_defaults
        self._from_config = out
        return out

    def _check_names(self, config: Mapping[str, Any], flags: list[tuple[str, str]]) -> None:
        """Name the nearest where an option is none; jsonargparse would only say that it is not accepted."""
        known = self.option_keys()
        keys = [f"{s}.{k}" for s, options in config.items() for k in options] + [k.rstrip("+") for k, _ in flags]
        for key in keys:
            section, _, option = key.partition(".")
            if any(key == d or key.startswith(f"{d}.") or d.startswith(f"{key}.") for d in known):
                continue
            near = [f"--{d}" for d in known if d.startswith(f"{section}.")]
            if not near:
                raise UsageError(f"--{key}: {self.names['model']} has no {section}, so it has no options")
            meant = f"--{section}.{SYNONYMS.get((section, option), '')}"
            if meant in near:
                raise UnknownName(f"No option named '--{key}'. Did you mean {meant!r}?")
            of = f" of {section} {self.names[section]!r}" if section in self.names else ""
            raise UnknownName(unknown(f"option{of}", f"--{key}", near))

    def _check_ranges(self) -> None:
        """Refuse a count that no machine has, before memory or processes are taken for it."""
        for key, most in MOST.items():
            section, _, option = key.partition(".")
            value = self.values.get(section, {}).get(option)
            if isinstance(value, int) and value > most:
                raise UsageError(f"--{key} must be at most {most}; got {value}")

    def _sentence(self, message: str) -> str:
        """jsonargparse's message as one sentence."""
        error = _compat.parser_error(message)
        if error.denied:
            return not_allowed(error.key.partition(".")[2] or error.key, error.denied)
        return str(error)


def _text(key: str, value: str) -> str:
    """A flag's text, with a short word for a logger as the class that it stands for."""
    section, _, option = key.rstrip("+").partition(".")
    meant = expand(option, value) if section == "trainer" else value
    return meant if isinstance(meant, str) else json.dumps(meant)


def _objects(config: Mapping[str, Any]) -> dict[str, str]:
    """The options that are, or hold, objects that a file cannot hold, each with the import paths of their classes."""

    def found(value: Any) -> list[str]:
        if isinstance(value, Mapping):
            return [path for v in value.values() for path in found(v)]
        if isinstance(value, (list, tuple)):
            return [path for v in value for path in found(v)]
        return [] if value is None or isinstance(value, (str, int, float, bool)) else [_path(value)]

    pairs = ((f"{s}.{k}", found(v)) for s, options in config.items() for k, v in options.items())
    return {key: ", ".join(paths) for key, paths in pairs if paths}


def _name(thing: Any) -> str:
    """What an object is called in a run's records: its class; plain loaders by what they are."""
    return "own data" if isinstance(thing, (list, tuple, DataLoader)) else type(thing).__name__


def _path(thing: Any) -> str:
    return f"{type(thing).__module__}.{type(thing).__qualname__}"


def _inner_default(adjoint: Any) -> dict[str, Any]:
    """The solver that an adjoint has by default, as a spec; empty where it has none of its own."""
    solver = adjoint().solver
    if solver is None:
        return {}
    path = f"{type(solver).__module__}:{type(solver).__qualname__}"
    name = next(e.name for e in SOLVERS.entries() if e.path == path)
    usual = type(solver)()
    changed = {f.name: getattr(solver, f.name) for f in dataclasses.fields(solver)}
    return {"name": name, **{k: v for k, v in changed.items() if v != getattr(usual, k)}}
