"""The second stage's parser: every option of the named classes, checked against their signatures.

One jsonargparse parser is composed from the classes that the first stage named: the model's arguments, the options of
the solver and the adjoint, of the data module, of `Optim`, of the task and of the Trainer. Flags may stand in any
order, as every class is known before the first is read.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import shutil
from argparse import ArgumentError
from collections.abc import Mapping
from typing import Any, get_type_hints

from jsonargparse import set_parsing_settings
from lightning import Trainer
from lightning.pytorch.cli import LightningArgumentParser

from zoo.adjoints import ADJOINTS
from zoo.data import DATA
from zoo.hub import cards
from zoo.registry import UnknownName, option_names, unknown
from zoo.solvers import SOLVERS
from zoo.tasks.optim import Optim
from zoo.tasks.regularization import StabilityConfig
from zoo.training.errors import UsageError
from zoo.training.request import NAMED, SECTIONS, Request

USUAL = (  # of the Trainer, shown by --help
    "max_epochs", "max_steps", "max_time", "accelerator", "devices", "strategy", "precision", "gradient_clip_val",
    "accumulate_grad_batches", "fast_dev_run", "log_every_n_steps",
)  # fmt: skip
OURS = (
    "default_root_dir",
    "enable_checkpointing",
    "model_registry",
    "enable_autolog_hparams",
)  # the run folder decides


class Options:
    """The options of one run: parsed, checked, and as plain values.

    Args:
        request: what the first stage understood.

    Raises:
        UsageError, UnknownName: an option that no class has, or a value of the wrong type, in one line.
    """

    def __init__(self, request: Request) -> None:
        allowed = ["zoo", "lightning", "torch", *request.allow_import]
        set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=allowed)
        self.card = cards.card(request.config["model"]["name"])
        self.names = {
            k: request.config[k]["name"] for k in ("model", "data", "solver", "adjoint") if k in request.config
        }
        self.given, self.pretrained = request.given, request.pretrained
        self._compose(request.config)
        config = self._plain(request.config)
        self._check_names(config, request.flags)
        try:
            space = self.parser.parse_object(config)
            space = self.parser.parse_args([f"--{k}={v}" for k, v in request.flags], namespace=space)
        except ArgumentError as error:
            raise UsageError(one_line(str(error))) from error
        self.space = space
        text = self.parser.dump(space, format="json", skip_unset=False, skip_validation=True)
        self.values: dict[str, Any] = json.loads(text)

    def section(self, name: str) -> dict[str, Any]:
        """The options of one section, plain; without the section's ``name``."""
        return dict(self.values.get(name, {}))

    def spec(self, name: str) -> dict[str, Any] | None:
        """The solver or adjoint as `Registry.build` takes it; None for an explicit model."""
        if name not in self.names:
            return None
        options = self.section(name)
        if self.inner and name == "adjoint":
            options["solver"] = {"name": self.inner, **options.get("solver", {})}
        return {"name": self.names[name], **options}

    def trainer(self) -> dict[str, Any]:
        """The Trainer's arguments, with callbacks, loggers and the like built from their class paths."""
        built = self.parser.instantiate(self.space)
        return dict(vars(built.trainer))

    def config(self, derived: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """What ``-c`` reads back: names and options, the Trainer's only where they are not its defaults."""
        usual = {p.name: p.default for p in inspect.signature(Trainer.__init__).parameters.values()}
        out: dict[str, Any] = {}
        for key in SECTIONS:
            if key in ("solver", "adjoint"):
                if spec := self.spec(key):
                    out[key] = spec
                continue
            options = self.section(key)
            if key == "trainer":
                kept = self._from_config.get(key, {})
                options = {
                    k: v for k, v in options.items() if v != usual.get(k) or k in kept or f"trainer.{k}" in self.given
                }
            name = {"name": self.names[key]} if key in self.names else {}
            out[key] = {**name, **options}
        if "data.seed" not in self.given:
            out["data"].pop("seed", None)  # follows --seed
        for key, value in (derived or {}).items():
            out["model"][key] = value
        return out

    def help(self, *, everything: bool = False) -> str:
        """One line an option: its value in this run's recipe, and what it means."""
        width = max(80, shutil.get_terminal_size((120, 40)).columns)
        lines = [
            f"python -m zoo.fit --model {self.names['model']} --data {self.names['data']}",
            f"  {self.card.summary}",
        ]
        group = ""
        docs = self._docs()
        for dest in self._dests():
            section, _, option = dest.partition(".")
            if section == "trainer" and not everything and option not in USUAL:
                continue
            if section != group:
                group = section
                name = self.names.get(section, "")
                lines += ["", f"{section}{f' = {name}' if name else ''}"]
            value = self.values.get(section, {})
            for part in option.split("."):
                value = value.get(part) if isinstance(value, dict) else None
            left = f"  --{dest} {_short(value)}"
            text = " ".join((docs.get(dest) or "").split())
            line = f"{left:<44} {text}"
            lines.append(line if len(line) <= width else line[: width - 3].rstrip() + "...")
        if not everything:
            lines += [
                "",
                "All of the Trainer's options: --help-all. Names of models, data sets, solvers: --help alone.",
            ]
        return "\n".join(lines)

    def _compose(self, config: Mapping[str, Any]) -> None:
        parser = LightningArgumentParser(prog="zoo.fit", exit_on_error=False, add_help=False)
        once: dict[str, Any] = {"instantiate": False, "fail_untyped": False}
        parser.add_class_arguments(self.card.load(), "model", **once)
        parser.add_class_arguments(DATA[self.names["data"]], "data", **once)
        self.inner = ""
        for key, table in (("solver", SOLVERS), ("adjoint", ADJOINTS)):
            if key in self.names:
                self._add(parser, table[self.names[key]], key)
        if "adjoint" in self.names and "solver" in option_names(ADJOINTS[self.names["adjoint"]]):
            self._add_inner(parser, config["adjoint"].get("solver"))
        parser.add_class_arguments(Optim, "optim", **once)
        task = self.card.load_task()
        parser.add_class_arguments(task, "task", skip={"model", "optim", "stability"}, **once)
        if "stability" in option_names(task):  # its options stand among the task's own
            for option, kind in get_type_hints(StabilityConfig).items():
                parser.add_argument(f"--task.{option}", type=kind, default=getattr(StabilityConfig, option))
        parser.add_class_arguments(Trainer, "trainer", skip=set(OURS), sub_configs=True, **once)
        self.parser = parser

    def _add(self, parser: LightningArgumentParser, thing: Any, key: str) -> None:
        skip = {"solver"} if key == "adjoint" else set()
        if isinstance(thing, type):
            parser.add_class_arguments(thing, key, skip=skip, instantiate=False, fail_untyped=False)
        else:
            parser.add_function_arguments(thing, key, skip=skip, fail_untyped=False)

    def _add_inner(self, parser: LightningArgumentParser, given: Any) -> None:
        """The solver inside an adjoint: ``--adjoint.solver NAME``, ``--adjoint.solver.rtol``."""
        spec = {"name": given} if isinstance(given, str) else given
        if not isinstance(spec, Mapping) or "name" not in spec:
            spec = {**_inner_default(ADJOINTS[self.names["adjoint"]]), **(spec or {})}
        if "name" not in spec:
            return  # the adjoint takes the forward solver unless one is named
        self.inner = spec["name"]
        parser.add_class_arguments(SOLVERS[self.inner], "adjoint.solver", instantiate=False, fail_untyped=False)
        self._inner_defaults = {k: v for k, v in spec.items() if k != "name"}

    def _plain(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The configuration without names, and without tolerances that a solver left behind and the new one lacks."""
        out = {s: {k: v for k, v in options.items() if k != "name" or s not in NAMED} for s, options in config.items()}
        for key, table in (("solver", SOLVERS), ("adjoint", ADJOINTS)):
            if key in out:
                known = option_names(table[self.names[key]])
                keep = (*known, "solver") if key == "adjoint" and self.inner else known
                out[key] = {k: v for k, v in out[key].items() if k in keep or k not in cards.CARRIED}
        if "adjoint" in out:
            out["adjoint"].pop("solver", None)
            if self.inner and self._inner_defaults:
                out["adjoint"]["solver"] = self._inner_defaults
        self._from_config = out
        return out

    def _dests(self) -> list[str]:
        kinds = ("_ActionConfigLoad", "_ActionHelpClassPath")
        return [a.dest for a in self.parser._actions if type(a).__name__ not in kinds and "." in a.dest]

    def _check_names(self, config: Mapping[str, Any], flags: tuple[tuple[str, str], ...]) -> None:
        """Name the nearest where an option is none; jsonargparse would only say that it is not accepted."""
        known = self._dests()
        keys = [f"{s}.{k}" for s, options in config.items() for k in options] + [k.rstrip("+") for k, _ in flags]
        for key in keys:
            section = key.partition(".")[0]
            if any(key == d or key.startswith(f"{d}.") or d.startswith(f"{key}.") for d in known):
                continue
            near = [f"--{d}" for d in known if d.startswith(f"{section}.")]
            if not near:
                raise UsageError(f"--{key}: {self.names['model']} has no {section}, so it has no options")
            of = f" of {section} {self.names[section]!r}" if section in self.names else ""
            raise UnknownName(unknown(f"option{of}", f"--{key}", near))

    def _docs(self) -> dict[str, str]:
        """What each option means, in one sentence; inherited options are described by the base class."""
        docs = {a.dest: a.help or "" for a in self.parser._actions}
        for section, table in (("solver", SOLVERS), ("adjoint.solver", SOLVERS)):
            name = self.names.get("solver", "") if section == "solver" else self.inner
            for base in getattr(table[name] if name else None, "__mro__", ()):
                for option, text in _arguments(base.__doc__):
                    docs[f"{section}.{option}"] = docs.get(f"{section}.{option}") or text
        for option, text in _arguments(StabilityConfig.__doc__):
            docs[f"task.{option}"] = docs.get(f"task.{option}") or text
        return {k: re.split(r"(?<=[a-z`)])\. |\n\s*Default: ", v.replace("``", ""))[0] for k, v in docs.items()}


def _arguments(docstring: str | None) -> list[tuple[str, str]]:
    """The options that a docstring describes, each with its text."""
    return re.findall(r"^ {8}(\w+): (.+?)(?=^ {8}\w+: |^ {0,4}\S|\Z)", docstring or "", re.S | re.M)


def one_line(message: str) -> str:
    """jsonargparse's message of several lines as one sentence: the option, what was expected, what was got."""
    key = re.search(r'Parser key "([^"]+)"', message)
    flag = f"--{key[1]}" if key else ""
    got = re.search(r"(?:Got value|Given value): (.*)", message)
    subtypes = re.search(r"Subtypes: \[(.*)\]", message)
    single = re.search(r"Expected a (.+?)\. Got value", message)
    wanted = subtypes[1] if subtypes else single[1] if single else ""
    if flag and wanted and got:
        wanted = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", wanted.replace("NoneType", "null"))
        wanted = re.sub(r"(typing|collections\.abc)\.", "", wanted)
        choices = re.fullmatch(r"Literal\[(.*)\]", wanted)
        wanted = f"one of {choices[1]}" if choices else " or ".join(wanted.split(", "))
        return f"{flag}: expected {wanted}; got {got[1]!r}"
    bullets = [part.strip(" -") for part in message.splitlines() if part.strip()]
    return f"{flag}: {bullets[-1]}" if flag and len(bullets) > 1 else " ".join(bullets)


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


def _short(value: Any) -> str:
    text = "null" if value is None else json.dumps(value) if not isinstance(value, str) else value
    return text if len(text) <= 24 else text[:21] + "..."
