"""Write whole files: JSON, YAML, or any content, atomically."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml


class Whole:
    """A file that is either the old one or the new one, never a part: written beside its place, then moved there."""

    def __init__(self, file: Path) -> None:
        self.file, self.part = file, file.with_name(f".{file.name}.part")

    def __enter__(self) -> Path:
        return self.part

    def __exit__(self, kind: Any, *rest: Any) -> None:
        if kind is None:
            os.replace(self.part, self.file)
        else:
            self.part.unlink(missing_ok=True)


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Write JSON; a number that is not finite becomes null, as JSON has none."""
    with Whole(file) as part:
        part.write_text(json.dumps(_finite(content), indent=2) + "\n", encoding="utf-8")


def write_yaml(file: Path, content: Mapping[str, Any]) -> None:
    with Whole(file) as part:
        part.write_text(dump_yaml(content), encoding="utf-8")


def dump_yaml(content: Mapping[str, Any]) -> str:
    """Return YAML in the given order, with short lists on one line."""
    return yaml.dump(dict(content), Dumper=_Dumper, sort_keys=False, default_flow_style=False, width=110)


class _Dumper(yaml.SafeDumper):
    """Lists of numbers on one line, floats that YAML reads back as floats (1.0e-06)."""


_Dumper.add_representer(list, lambda d, v: d.represent_sequence("tag:yaml.org,2002:seq", v, flow_style=True))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
