"""Keep what took long to generate, in the user's cache folder."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from zoo.data.base import digest
from zoo.storage.guards import GiB, Refused, is_file, read_file

Arrays = dict[str, np.ndarray]
DIGEST = "digest"


def cache_folder() -> Path | None:
    """Return the folder: the environment's ``ZOO_CACHE``, else ``$XDG_CACHE_HOME/zoo``, else ``~/.cache/zoo``.

    None where there is no home either.
    """
    if given := os.environ.get("ZOO_CACHE"):
        return Path(given).expanduser()
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "zoo"
    except RuntimeError:  # no home
        return None


def cached(name: str, key: Mapping[str, Any], make: Callable[[], Arrays]) -> Arrays:
    """Return arrays from the cache, or make and keep them.

    A file that is broken is made anew; where nothing can be kept, a warning says so, and the arrays are returned all
    the same.

    Args:
        name: begins the file's name.
        key: all that the arrays depend on, as JSON can write it.
        make: the arrays, none of them named "digest".
    """
    folder = cache_folder()
    if folder is None:
        return make()
    mark = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    file = folder / f"{name}-{mark}.npz"
    try:
        if is_file(file):
            return _read(file)
    except (Refused, OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        warnings.warn(f"{file} is broken ({error}); it is generated again.", stacklevel=2)
    arrays = make()
    try:
        _write(file, arrays)
    except OSError as error:
        warnings.warn(
            f"{name} is generated anew each time: {file} cannot be written ({error.strerror or error}). Name a folder "
            "that can be by the environment variable ZOO_CACHE.",
            stacklevel=2,
        )
    return arrays


def _read(file: Path) -> Arrays:
    with np.load(io.BytesIO(read_file(file, GiB)), allow_pickle=False) as content:
        arrays = {name: content[name] for name in content.files}
    if str(arrays.pop(DIGEST)) != digest(arrays.values()):
        raise ValueError("its content is not what was written")
    return arrays


def _write(file: Path, arrays: Arrays) -> None:
    """Write a whole file or none; two processes that write the same one do not meet."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}-")
    try:
        with os.fdopen(handle, "wb") as stream:
            content: dict[str, Any] = {**arrays, DIGEST: np.array(digest(arrays.values()))}
            np.savez_compressed(stream, **content)
        os.replace(part, file)
    except BaseException:
        with suppress(OSError):
            os.unlink(part)
        raise
