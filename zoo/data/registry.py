"""The table of data sets: the zoo's own, those of other packages, and classes of the user's. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

from zoo.registry import Entry, Registry, UnknownName, load_path

PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")  # package.module:Class


class DataSets(Registry[Any]):
    """Data sets by name. Another package adds its own by the entry-point group ``zoo.data``::

        [project.entry-points."zoo.data"]
        my_set = "my_package.data:MySet"

    A class of a script or package answers to ``package.module:Class`` once it was admitted: a name out of a file alone
    imports nothing. It is any LightningDataModule; its attribute ``kind`` says what it is for (``"classification"``).
    """

    def __init__(self, noun: str, *entries: Entry) -> None:
        super().__init__(noun, *entries)
        self._scanned = False

    def admit(self, path: str) -> None:
        """Let ``package.module:Class`` be a name.

        Raises:
            UnknownName: it cannot be imported.
        """
        if path in self:
            return
        try:
            kind = load_path(path)
        except (ImportError, AttributeError) as error:
            raise UnknownName(
                f"No {self.noun} named {path!r}: it cannot be imported ({error}). Start in the folder of the package, "
                "or install it."
            ) from error
        if not isinstance(kind, type) or not hasattr(kind, "train_dataloader"):
            raise UnknownName(f"{path} is no LightningDataModule, so it is no {self.noun}; got {kind!r:.80}.")
        self._entries[path] = Entry(path, path, "a class of your own", str(getattr(kind, "kind", "")))

    def entry(self, name: str) -> Entry:
        """Return what is registered under a name; raises UnknownName, naming the nearest."""
        self._scan()
        found = super().entry(name)
        if not found.kind:  # of another package: its class says
            kind = str(getattr(self[name], "kind", ""))
            found = self._entries[name] = Entry(found.name, found.path, found.summary, kind)
        return found

    def __getitem__(self, name: str) -> Callable[..., Any]:
        self._scan()
        if name not in self._entries:
            return super().__getitem__(name)  # which names the nearest
        if name not in self._objects:
            self._objects[name] = load_path(self._entries[name].path)
        return self._objects[name]

    def __contains__(self, name: object) -> bool:
        self._scan()
        return super().__contains__(name)

    def entries(self, pattern: str = "*", kind: str | None = None) -> list[Entry]:
        """Return the entries whose name matches a shell pattern, in order of name; of one kind, if given."""
        self._scan()
        return super().entries(pattern, kind)

    def _scan(self) -> None:
        """Add what other packages bring; a name of the zoo's own is not replaced."""
        if self._scanned:
            return
        self._scanned = True
        for point in entry_points(group="zoo.data"):
            if point.name not in self._entries:
                source = point.dist.name if point.dist is not None else point.value
                self._entries[point.name] = Entry(point.name, point.value, f"of the package {source}")


def is_import_path(name: str) -> bool:
    """Return whether a name has the form of a class's import path.

    >>> is_import_path("my_package.data:MySet"), is_import_path("digits")
    (True, False)
    """
    return PATH.fullmatch(name) is not None
