"""Private touches of torchdiffeq, tried on 0.2.5. Optional: imported by the functions that need it."""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path
from typing import Literal


def torchdiffeq_methods() -> list[str]:
    """Return the methods of the installed torchdiffeq, off its table of solvers, without importing it (or torch).

    Tried on torchdiffeq 0.2.5.
    """
    spec = find_spec("torchdiffeq")
    source = Path(next(iter(spec.submodule_search_locations or [""])), "_impl", "odeint.py") if spec else None
    if source is None or not source.is_file():
        return []
    tables = [
        node.value
        for node in ast.parse(source.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict)
        if any(isinstance(t, ast.Name) and t.id == "SOLVERS" for t in node.targets)
    ]
    return [k.value for table in tables for k in table.keys if isinstance(k, ast.Constant) and isinstance(k.value, str)]


def torchdiffeq_callbacks(method: str) -> set[str]:
    """Return the names under which a method of torchdiffeq calls back at its steps; adaptive ones tell acceptance.

    Tried on torchdiffeq 0.2.5.
    """
    from torchdiffeq._impl.odeint import SOLVERS

    return set(SOLVERS[method].valid_callbacks())


def torchdiffeq_failure(error: AssertionError) -> Literal["max_steps", "stalled", "nonfinite"]:
    """Return what a failed solve of torchdiffeq died of, which its assertions say in their text only.

    Tried on torchdiffeq 0.2.5.
    """
    text = str(error)
    if text.startswith("max_num_steps"):
        return "max_steps"
    return "stalled" if text.startswith("underflow") else "nonfinite"
