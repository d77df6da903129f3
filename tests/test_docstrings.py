"""Every example of a docstring runs and gives what it says."""

from __future__ import annotations

import ast
import doctest
import importlib
from collections.abc import Iterator
from functools import reduce
from pathlib import Path

import pytest

import zoo

PACKAGE = Path(zoo.__file__).parent


def documented(node: ast.AST, name: str = "") -> Iterator[str]:
    """Yield the dotted names in a file whose docstring has an example; of the file itself, the empty one."""
    holders = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    if isinstance(node, holders) and ">>> " in (ast.get_docstring(node) or ""):
        yield name
    for child in ast.iter_child_nodes(node):
        inner = getattr(child, "name", "") if isinstance(child, holders) else ""
        yield from documented(child, ".".join(filter(None, [name, inner])))


def examples() -> list[tuple[str, str]]:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found += [(module, name) for name in documented(ast.parse(path.read_text(encoding="utf-8")))]
    return found


def run(module: str, name: str) -> tuple[int, str]:
    """Run the examples of one docstring; returns how many statements were tried, and what was wrong."""
    home = importlib.import_module(module)
    thing = reduce(getattr, name.split(".") if name else [], home)
    [test] = doctest.DocTestFinder(recurse=False).find(thing, f"{module}.{name}", home)
    runner, said = doctest.DocTestRunner(verbose=False), []
    return runner.run(test, out=said.append).attempted, "".join(said)


@pytest.mark.parametrize(("module", "name"), examples())
def test_an_example_gives_what_it_says(module, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # an example may write
    tried, wrong = run(module, name)
    assert tried and not wrong, wrong


def test_a_wrong_example_is_found(tmp_path, monkeypatch):
    text = 'def f():\n    """Return 1.\n\n    >>> f()\n    2\n    """\n    return 1\n\n\nclass A:\n    f = f\n'
    (tmp_path / "wrong_example.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    assert list(documented(ast.parse(text))) == ["f"]
    assert "Expected:\n    2\nGot:\n    1\n" in run("wrong_example", "f")[1]
