"""The code of the tutorials runs, cell after cell, and what they claim of it holds: they assert it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TUTORIALS = sorted((Path(__file__).resolve().parents[1] / "docs" / "tutorials").glob("*.md"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", TUTORIALS, ids=lambda p: p.stem)
def test_a_tutorial_runs(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cells = re.findall(r"^```\{code-cell\}.*?\n(.*?)^```$", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(cells) >= 3 and any("assert " in cell for cell in cells)
    scope: dict[str, object] = {}
    for cell in cells:
        exec(compile(cell, path.name, "exec"), scope)


def test_every_tutorial_is_in_the_contents():
    index = (TUTORIALS[0].parents[1] / "index.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^tutorials/(\w+)$", index, re.MULTILINE)) == [p.stem for p in TUTORIALS]
