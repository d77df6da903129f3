"""README's code runs as it stands there; its commands are those that .ci/run runs."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def blocks(language: str) -> list[str]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def test_the_two_commands_come_first():
    assert [b.strip() for b in blocks("bash")[:2]] == [
        "pip install . && python -m zoo.fit --model mdeq",
        "pip install '.[test]' && pytest",
    ]


def test_the_python_of_readme_runs():
    scope: dict[str, object] = {}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), scope)


def test_the_citation_names_the_version_and_the_changelog_is_open():
    import zoo

    assert re.search(rf"^version: {re.escape(zoo.__version__)}$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text()
