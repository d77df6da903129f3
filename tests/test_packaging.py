"""What the package index shows."""

from __future__ import annotations

import importlib.util
import re
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
