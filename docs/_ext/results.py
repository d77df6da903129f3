"""The directive ``{results} NAME``: a table of experiments/summary.py, made from experiments/results at each build."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).resolve().parents[2]


def summary() -> ModuleType:
    """experiments/summary.py, which is a script and no package."""
    spec = importlib.util.spec_from_file_location("summary", ROOT / "experiments" / "summary.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def table(name: str, up: str) -> str:
    """A table as Markdown; ``up``: the way from the page to the root of the repository."""
    made = summary()
    if name not in made.TABLES:
        raise ValueError(f"There is no table {name!r} in experiments/summary.py; there are {', '.join(made.TABLES)}.")
    return str(made.TABLES[name](made.load())).replace("](experiments/", f"]({up}experiments/")


class Results(SphinxDirective):
    """``{results} NAME``."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        up = "../" * (1 + self.env.docname.count("/"))
        try:
            text = table(self.arguments[0], up)
        except ValueError as error:
            raise self.error(str(error)) from error
        for file in sorted((ROOT / "experiments" / "results").glob("*.json")):
            self.env.note_dependency(str(file))
        holder = nodes.container(classes=["results"])
        self.state.nested_parse(StringList(text.splitlines(), source=f"<results {self.arguments[0]}>"), 0, holder)
        return [holder]


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("results", Results)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
