"""Import one file of the package from changed source, every other as it lies."""

from __future__ import annotations

import importlib.machinery
from pathlib import Path


def install(file: Path, source: str) -> None:
    """From now on ``file`` is imported as ``source``; nothing is written."""
    changed = str(file.resolve())
    usual = importlib.machinery.SourceFileLoader.get_code

    def get_code(self: importlib.machinery.SourceFileLoader, fullname: str) -> object:
        if str(Path(self.path).resolve()) == changed:
            return compile(source, changed, "exec", dont_inherit=True)
        return usual(self, fullname)

    importlib.machinery.SourceFileLoader.get_code = get_code  # type: ignore[method-assign, assignment]
