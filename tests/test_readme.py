"""The code of README and of the pages runs as it stands there; README's commands are those that .ci/run runs."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


PAGES = ["README.md", "docs/usage.md", "docs/choosing.md", "docs/faq.md"]  # whose Python is one script each


def blocks(language: str, page: str = "README.md") -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def test_the_two_commands_come_first():
    assert [b.strip() for b in blocks("bash")[:2]] == [
        "pip install . && python -m zoo.fit --model mdeq",
        "pip install '.[test]' && pytest -n auto --dist worksteal",
    ]


@pytest.mark.parametrize("page", PAGES)
def test_the_python_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where its training puts its run
    scope: dict[str, object] = {}
    for block in blocks("python", page):
        exec(compile(block, page, "exec"), scope)


def test_the_citation_names_the_version_and_the_changelog_is_open():
    import zoo

    assert re.search(rf"^version: {re.escape(zoo.__version__)}$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text()


def test_the_order_of_the_rooms_is_that_which_is_tested():
    """CONTRIBUTING.md draws what tests/test_architecture.py holds."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    drawn = re.findall(r"[a-z_]+", re.search(r"^```\n(registry.*?)^```$", text, re.DOTALL | re.MULTILINE)[1])
    source = (ROOT / "tests" / "test_architecture.py").read_text(encoding="utf-8")
    rows = re.findall(r'^    "(\w+)",', re.search(r"^ORDER = \[\n(.*?)^\]", source, re.MULTILINE | re.DOTALL)[1], re.M)
    assert drawn == [r for r in rows if r not in ("_compat", "timm")]


def test_readmes_commands_exist():
    """Every ``python -m zoo.X`` of README and the docs is a command, and each option is one of its own."""
    from importlib import import_module

    from zoo.__main__ import COMMANDS

    for file in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        text = file.read_text(encoding="utf-8")
        assert set(re.findall(r"python -m zoo\.(\w+)", text)) <= set(COMMANDS), file
        for name, words in re.findall(
            r"^python -m zoo\.(evaluate|export|convert|sample|compare) (.*?)(?:\s{2,}#.*)?$", text, re.M
        ):
            import_module(COMMANDS[name][0]).parser().read(shlex.split(words))


def test_readmes_tables_are_those_of_the_results():
    """``python experiments/summary.py --write`` makes them anew."""
    spec = importlib.util.spec_from_file_location("summary", ROOT / "experiments" / "summary.py")
    summary = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(summary)
    for file in summary.FILES:
        assert summary.fill(file) == file.read_text(encoding="utf-8")


def test_readmes_commands_are_understood():
    """Every ``python -m zoo.fit`` of a page parses against the real options; training is tested elsewhere."""
    from zoo.training.options import Options
    from zoo.training.request import resolve

    lines = re.findall(
        r"^python -m zoo\.fit (.*?)(?:\s{2,}#.*)?$",
        "\n".join(b for page in PAGES for b in blocks("sh", page)),
        flags=re.MULTILINE,
    )
    assert len(lines) >= 3
    for line in lines:
        words = shlex.split(line.partition(";")[0].partition(">")[0])
        if "--resume" not in words and "--help" not in words:
            Options(resolve([w for w in words if w != "--print_config"]))


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
