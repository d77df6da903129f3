"""Write the long description: README.md, with links that also work outside of the repository."""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).resolve().parent
REPOSITORY = "https://github.com/implicit-zoo/implicit-zoo"
FENCE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
RELATIVE = r"\((?![a-z]+:|#)([^)\s]+)\)"


def absolute(text: str, tag: str) -> str:
    """Return Markdown whose relative links point into the repository at ``tag``. Blocks of code stay as they are."""
    parts = FENCE.split(text)
    for i in range(0, len(parts), 2):
        images = re.sub(rf"(!\[[^\]]*\]){RELATIVE}", rf"\1({REPOSITORY}/raw/{tag}/\2)", parts[i])
        parts[i] = re.sub(rf"\]{RELATIVE}", rf"]({REPOSITORY}/blob/{tag}/\1)", images)
    return "".join(parts)


def version() -> str:
    """Return the version of the package without importing it."""
    found = re.search(r'^__version__ = "(.+)"$', (ROOT / "zoo" / "__init__.py").read_text(encoding="utf-8"), re.M)
    if found is None:
        raise RuntimeError('zoo/__init__.py has no line __version__ = "..."; the links of README need it.')
    return found[1]


if __name__ == "__main__":
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    setup(long_description=absolute(readme, f"v{version()}"), long_description_content_type="text/markdown")
