"""Read published data files with suspicion: a missing, truncated or foreign file is named, never trained on."""

from __future__ import annotations

import hashlib
import math
import os
import socket
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from zoo.storage.guards import GiB, Refused, kind_of, read_file, unpack


class DataError(RuntimeError):
    """A data set cannot be read: the message names the file, what is wrong with it, and the way out."""


def corrupt(path: Path, why: str) -> DataError:
    """Return the error for a file that is not what was published; ``why`` is a clause."""
    return DataError(
        f"{path} is no complete data file: {why}. Delete it and run again to download it, or replace it by the "
        f"published one."
    )


def missing(name: str, looked: Sequence[Path], layout: str, why: str) -> DataError:
    """Return the error for files that are not there.

    Args:
        name: of the data set.
        looked: the paths where a file would have done.
        layout: what the root should hold, in torchvision's layout.
        why: why it was not downloaded.
    """
    for path in looked:
        if (kind := kind_of(path)) and kind != "a folder":
            return DataError(f"{name}: {path} is {kind}, not a regular file. Put the published file there.")
    return DataError(
        f"{name}: {looked[0].name} was not found; looked for {' and for '.join(map(str, looked))}. {why} To go on, put "
        f"the published files there, or name the folder that holds {layout} by --data.root or by the environment "
        f"variable ZOO_DATA."
    )


@contextmanager
def checked() -> Iterator[None]:
    """Turn what the guards refuse into a DataError that names the file and the way out."""
    try:
        yield
    except Refused as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.strerror:
            raise DataError(f"{error.path} cannot be read: {cause.strerror}. Check its permissions.") from error
        raise corrupt(error.path, error.why) from error


def read_bytes(path: Path, limit: int = GiB) -> bytes:
    """Return all of a file; raises DataError where it cannot be read, is empty, or has more bytes than expected."""
    with checked():
        data = read_file(path, limit)
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


def read_idx(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Decode a file in the idx format, packed by gzip or not.

    That is: two zero bytes, the type (8: uint8), the rank, the sizes as big-endian int32, the values.

    Args:
        path: the file.
        shape: what was published; no more is unpacked.

    Raises:
        DataError: truncated, of another format, or of other sizes.
    """
    head = 4 + 4 * len(shape)
    with checked():
        data = unpack(path, head + math.prod(shape))
    if not data:
        raise corrupt(path, "it is empty")
    if len(data) < head or data[:4] != bytes((0, 0, 8, len(shape))):
        raise corrupt(
            path, f"it starts with the bytes {data[:4].hex() or 'none'}, not {bytes((0, 0, 8, len(shape))).hex()}"
        )
    sizes = tuple(int(n) for n in np.frombuffer(data, ">i4", len(shape), 4))
    if sizes != shape:
        raise corrupt(path, f"it holds {sizes} values, {shape} were published")
    if len(data) - head != math.prod(shape):
        raise corrupt(path, f"{len(data) - head:,} bytes of values where {math.prod(shape):,} were published")
    return np.frombuffer(data, np.uint8, offset=head).reshape(shape)


def download(url: str, path: Path, checksum: str) -> None:
    """Fetch one file, verified, and put it in its place only when it is complete.

    Raises:
        OSError, RuntimeError: no network, an unwritable folder, or another checksum.
    """
    from torchvision.datasets.utils import download_url

    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".download-") as folder, _patience(30):
            download_url(url, folder, path.name, checksum)
            os.replace(Path(folder) / path.name, path)
    finally:
        for empty in (path.parent, path.parent.parent):  # a failure leaves no empty folders
            with suppress(OSError):
                empty.rmdir()


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
