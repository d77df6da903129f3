"""What the package index shows, and the lower bounds that are tested are the ones that are declared."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def setup() -> ModuleType:
    pytest.importorskip("setuptools")
    spec = importlib.util.spec_from_file_location("zoo_setup", ROOT / "setup.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_long_description_has_no_relative_link(setup):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    made = setup.absolute(text, "v1")
    targets = re.findall(r"\]\(([^)\s]+)\)", made)
    assert len(targets) > 20 and all(t.startswith("https://") for t in targets)
    assert len(targets) == len(re.findall(r"\]\(([^)\s]+)\)", text))


def test_links_are_made_absolute_by_kind(setup):
    text = "[a](docs/a.md#b) ![c](d.png) [e](#f) [g](https://h.org) [`i[0]`](j.py) [![k](l.png)](m.md)\n"
    code = "```python\ny = layers[0](x)\n```\n"
    base = setup.REPOSITORY
    assert setup.absolute(code, "v2") == code
    assert setup.absolute(text + code, "v2").removesuffix(code).split() == [
        f"[a]({base}/blob/v2/docs/a.md#b)",
        f"![c]({base}/raw/v2/d.png)",
        "[e](#f)",
        "[g](https://h.org)",
        f"[`i[0]`]({base}/blob/v2/j.py)",
        f"[![k]({base}/raw/v2/l.png)]({base}/blob/v2/m.md)",
    ]


def test_the_links_name_the_version(setup):
    import zoo

    assert setup.version() == zoo.__version__


def pins() -> dict[str, str]:
    lines = (ROOT / ".github" / "constraints-minimum.txt").read_text(encoding="utf-8").splitlines()
    pattern = re.compile(r'([\w-]+)==([\w.]+)(; python_version < "[\d.]+")?')
    return dict(pattern.fullmatch(line).group(1, 2) for line in lines if line and line[0] != "#")


def test_the_declared_minimum_is_what_is_tested():
    """The workflow installs the pins of this file; a bound that nobody runs is a guess."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    declared = dict(
        re.match(r"([\w-]+)(?:\[\w+\])?>=([\w.]+)", d).groups()
        for d in project["dependencies"] + extras["test"] + extras["text"] + extras["table"]
    )
    assert declared == pins()
