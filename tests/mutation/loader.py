"""Import some files of the package from other code, every other file as it lies; nothing is written."""

from __future__ import annotations

import importlib.machinery
from pathlib import Path
from types import CodeType


def install(changed: dict[str, CodeType]) -> None:
    """From now on each of these files (by its resolved path) is imported as the code given."""
    usual = importlib.machinery.SourceFileLoader.get_code

    def get_code(self: importlib.machinery.SourceFileLoader, fullname: str) -> CodeType | None:
        code = changed.get(str(Path(self.path).resolve()))
        return usual(self, fullname) if code is None else code

    importlib.machinery.SourceFileLoader.get_code = get_code  # type: ignore[method-assign, assignment]
