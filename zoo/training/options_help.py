"""The help of a run's options: one line each, its value in this run's recipe, and what it means."""

from __future__ import annotations

import json
import re
import textwrap
from typing import Any

from zoo import _compat
from zoo.solvers import SOLVERS
from zoo.tasks.regularization import StabilityConfig
from zoo.training.help_text import NARROW, entry, paragraph, terminal_width
from zoo.training.options import Options

USUAL = (  # of the Trainer, shown by --help
    "max_epochs", "max_steps", "max_time", "accelerator", "devices", "strategy", "precision", "gradient_clip_val",
    "accumulate_grad_batches", "fast_dev_run",
)  # fmt: skip
RARE = (  # of StabilityConfig: what refines another option, or few runs need
    "jacobian_every", "jacobian_final", "jacobian_until", "warmup_depth", "correction_steps", "contract", "nonfinite",
)  # fmt: skip
COLUMN = 45  # where the text begins, on a terminal that is wide enough


def options_help(options: Options, *, everything: bool = False) -> str:
    """The options of a run's classes; with ``everything`` all of the Trainer's too."""
    width = terminal_width()
    lines = [f"python -m zoo.fit --model {options.names['model']} --data {options.names['data']}"]
    if options.card is not None:
        lines += paragraph(options.card.summary, width, "  ")
    group = ""
    docs = _docs(options)
    for key in options.option_keys():
        section, _, option = key.partition(".")
        if section == "trainer" and not everything and option not in USUAL:
            continue
        if not everything and section == "task" and _is_idle(option, options.values["task"].get(option)):
            continue
        if section != group and section != "ema":  # its one option stands below those of the optimizer
            group = section
            name = options.names.get(section, "")
            lines += ["", f"{section}{f' = {name}' if name else ''}"]
        value: Any = options.values.get(section, {})
        for part in option.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        meaning = " ".join(docs.get(key, "").split())
        if not everything and width >= NARROW:  # a line each, so that the help fits two screens
            meaning = textwrap.shorten(meaning, width - COLUMN, placeholder=" ...")
        lines += entry(f"  --{key} {_short(value)}", meaning, COLUMN, width)
    if not everything:
        more = "In full, with all of the Trainer's options: --help-all. All names: --help."
        lines += ["", *paragraph(more, width)]
    return "\n".join(lines)


def _is_idle(option: str, value: Any) -> bool:
    """Whether an option of the task is a rare one that has its default here."""
    return option in RARE and value == getattr(StabilityConfig, option)


def _docs(options: Options) -> dict[str, str]:
    """What each option means, in one sentence; inherited options are described by the base class."""
    docs = dict(_compat.parser_options(options.parser))
    for section, name in (("solver", options.names.get("solver", "")), ("adjoint.solver", options.inner)):
        for base in getattr(SOLVERS[name] if name else None, "__mro__", ()):
            for option, text in _arguments(base.__doc__):
                docs[f"{section}.{option}"] = docs.get(f"{section}.{option}") or text
    for option, text in _arguments(StabilityConfig.__doc__):
        docs[f"task.{option}"] = docs.get(f"task.{option}") or text
    return {k: re.split(r"(?<=[a-z`)])\. |\n\s*Default: ", v.replace("``", ""))[0] for k, v in docs.items()}


def _arguments(docstring: str | None) -> list[tuple[str, str]]:
    """The options that a docstring describes, each with its text."""
    return re.findall(r"^ {8}(\w+): (.+?)(?=^ {8}\w+: |^ {0,4}\S|\Z)", docstring or "", re.S | re.M)


def _short(value: Any) -> str:
    text = "null" if value is None else json.dumps(value) if not isinstance(value, str) else value
    return text if len(text) <= 24 else text[:21] + "..."
