"""Reading published data files with suspicion: a missing, truncated or foreign file is named, never trained on."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import pickle
import socket
import tempfile
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np


class DataError(RuntimeError):
    """A data set cannot be read: the message names the file, what is wrong with it, and the way out."""


def corrupt(path: Path, why: str) -> DataError:
    return DataError(
        f"{path} is no complete data file: {why}. Delete it and run again to download it, or replace it by the "
        f"published one."
    )


def missing(name: str, looked: Sequence[Path], layout: str, why: str) -> DataError:
    """The error for files that are not there.

    Args:
        name: of the data set.
        looked: the paths where a file would have done.
        layout: what the root should hold, in torchvision's layout.
        why: why it was not downloaded.
    """
    return DataError(
        f"{name}: {looked[0].name} was not found; looked for {' and for '.join(map(str, looked))}. {why} To go on, put "
        f"the published files there, or name the folder that holds {layout} by --data.root or by the environment "
        f"variable ZOO_DATA."
    )


def read_bytes(path: Path) -> bytes:
    """All of a file; raises DataError where it cannot be read or is empty."""
    try:
        data = path.read_bytes()
    except OSError as e:
        raise DataError(f"{path} cannot be read: {e.strerror or e}. Check its permissions.") from e
    if not data:
        raise corrupt(path, "it is empty")
    return data


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def warn_foreign(name: str, files: Sequence[str], folder: Path) -> None:
    """Say that complete files are not the published ones."""
    warnings.warn(
        f"{name}: the files in {folder} are complete, but their checksums differ from the published ones "
        f"({', '.join(files)}), so some images may differ too. Say so beside any number measured on them.",
        stacklevel=2,
    )


def read_idx(data: bytes, path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Decode the idx format: two zero bytes, the type (8: uint8), the rank, the sizes as big-endian int32, the values.

    Args:
        data: the bytes, unpacked or gzipped.
        path: where they came from, for the errors.
        shape: what was published.

    Raises:
        DataError: truncated, of another format, or of other sizes.
    """
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (EOFError, OSError, zlib.error) as e:
            raise corrupt(path, f"the gzip stream is broken or ends early ({e})") from e
    head = 4 + 4 * len(shape)
    if len(data) < head or data[:4] != bytes((0, 0, 8, len(shape))):
        raise corrupt(
            path, f"it starts with the bytes {data[:4].hex() or 'none'}, not {bytes((0, 0, 8, len(shape))).hex()}"
        )
    sizes = tuple(int(n) for n in np.frombuffer(data, ">i4", len(shape), 4))
    if sizes != shape:
        raise corrupt(path, f"it holds {sizes} values, {shape} were published")
    if len(data) - head != np.prod(shape):
        raise corrupt(path, f"{len(data) - head:,} bytes of values where {int(np.prod(shape)):,} were published")
    return np.frombuffer(data, np.uint8, offset=head).reshape(shape)


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickles arrays and plain containers; a pickle that names anything else could run code of a stranger."""

    allowed = frozenset(
        {
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("_codecs", "encode"),
            *(
                (f"numpy.{core}.{module}", name)
                for core in ("core", "_core")
                for module, name in (
                    ("multiarray", "_reconstruct"),
                    ("numeric", "_frombuffer"),
                )
            ),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.allowed:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no data file needs")
        return super().find_class(module.replace("numpy.core.", "numpy._core."), name)


def read_pickle(data: bytes, path: Path) -> dict[str, Any]:
    """Unpickle a mapping of arrays and plain values, written by Python 2 or 3; raises DataError."""
    try:
        content = _ArrayUnpickler(io.BytesIO(data), encoding="latin1").load()
    except Exception as e:  # a broken pickle raises nearly anything
        raise corrupt(path, f"it cannot be unpickled ({type(e).__name__}: {e})") from e
    if not isinstance(content, dict):
        raise corrupt(path, f"it holds a {type(content).__name__}, not a mapping")
    return content


def download(url: str, path: Path, checksum: str) -> None:
    """Fetch one file, verified, and put it in its place only when it is complete.

    Raises:
        OSError, RuntimeError: no network, an unwritable folder, or another checksum.
    """
    from torchvision.datasets.utils import download_url

    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".download-") as folder, _patience(30):
        download_url(url, folder, path.name, checksum)
        os.replace(Path(folder) / path.name, path)


def first_that_works(attempts: Sequence[Callable[[], None]]) -> str:
    """Run attempts until one succeeds. Returns '' or, where none did, why the last failed."""
    why = ""
    for attempt in attempts:
        try:
            attempt()
            return ""
        except (OSError, RuntimeError) as e:
            why = f"{type(e).__name__}: {e}"
    return why


@contextmanager
def _patience(seconds: float) -> Iterator[None]:
    """Let no connection hang for ever: torchvision sets no time limit of its own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
