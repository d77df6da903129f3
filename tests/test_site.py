"""The site's generators: a page for each room and family, and every table of results in its place."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

import zoo

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"


@pytest.fixture
def load(monkeypatch):
    """Import a file of docs/_ext, or of experiments, by its path."""
    monkeypatch.syspath_prepend(str(DOCS / "_ext"))

    def run(file: str) -> ModuleType:
        name = Path(file).stem
        monkeypatch.delitem(sys.modules, name, raising=False)
        spec = importlib.util.spec_from_file_location(name, ROOT / file)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return run


def test_every_table_stands_on_one_page(load):
    used = [n for p in DOCS.rglob("*.md") for n in re.findall(r"^```\{results\} (\w+)$", p.read_text("utf-8"), re.M)]
    summary = load("experiments/summary.py")
    assert sorted([*used, *(n for made in summary.FILES.values() for n in made)]) == sorted(summary.TABLES)


def test_the_reference_has_every_module_with_a_public_name_once(load):
    pages = load("docs/_ext/reference.py").pages()
    named = re.findall(r"automodule:: (zoo[\w.]*)", "\n".join(pages.values()))
    assert len(named) == len(set(named))
    for module in ("zoo.solve", "zoo.solvers.anderson", "zoo.solvers.ode.runge_kutta", "zoo.hypernet.generators.tiles"):
        assert module in named
    front = set(re.findall(r"auto(?:function|class|exception):: zoo\.(?:hub\.predict\.)?(\w+)$", pages["zoo"], re.M))
    assert front == set(zoo.__all__) - {"__version__", "penalties"}


def test_a_family_has_its_variants_numbers_and_command(load):
    families = load("docs/_ext/families.py")
    cards = families.families()["imaml"]
    text = families.page(cards)
    assert all(f"`{c.name}`" in text for c in cards) and "test_imaml" not in text
    assert "omniglot" in text and "imaml_head_omniglot.json" in text  # of a kept run, though the card has no weights
    assert "python -m zoo.fit --model imaml" in text
    assert not list(families.measured(families.families()["penalty_net"]))


def test_a_docstring_becomes_restructured_text(load):
    pytest.importorskip("sphinx")
    rewrite = load("docs/_ext/docstrings.py").rewrite
    lines = [
        "Solve z = f(z).",
        "",
        "    z = W * z + |x|",
        "",
        "    >>> f(1)",
        "    1",
        "",
        "With |W| < 1 and *care*.",
        "",
    ]
    code = [
        ".. code-block:: text",
        "",
        "    z = W * z + |x|",
        "",
        ".. code-block:: pycon",
        "",
        "    >>> f(1)",
        "    1",
        "",
    ]
    arguments = ["Args:", "    a: one", "        more."]  # napoleon's own
    assert rewrite(lines + arguments) == [*lines[:2], *code, r"With \|W\| < 1 and *care*.", "", *arguments]
    assert rewrite(["* *One* of", "  two."]) == ["* *One* of", "  two."]


OLD = re.findall(r"^```python\n# with: (\w+)\n(.*?)^```$", (DOCS / "coming-from.md").read_text("utf-8"), re.M | re.S)


@pytest.mark.parametrize(("peer", "code"), OLD, ids=[peer for peer, _ in OLD])
def test_old_calls_and_new_ones_agree(peer, code):
    """The page's own code compares both; it runs where the other library is installed."""
    pytest.importorskip(peer)
    exec(compile(code, "docs/coming-from.md", "exec"), {})


def test_each_library_has_an_example():
    text = (DOCS / "coming-from.md").read_text("utf-8")
    assert [peer for peer, _ in OLD] == [name.lower() for name in re.findall(r"^## (\w+)$", text, re.M)]
