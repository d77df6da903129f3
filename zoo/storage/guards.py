"""Read files that may be damaged or hostile: regular files alone, and no more bytes than their format can need.

Sizes are checked before anything is read or reserved: a pipe or a device is not waited for, a header that declares
terabytes reserves nothing, and what is packed is unpacked only up to a bound. Imports no torch.
"""

from __future__ import annotations

import gzip
import io
import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO

from zoo.registry import sentence

MiB, GiB = 1 << 20, 1 << 30
BROKEN = (  # what readers of archives raise for a damaged one
    OSError, EOFError, ValueError, KeyError, NotImplementedError, RuntimeError, RecursionError, MemoryError,
    zlib.error, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile,
)  # fmt: skip

PICTURES = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # formats that are decoded


class Refused(ValueError):
    """A file that is not read.

    Attributes:
        path: the file.
        why: the reason, as a clause without a full stop.
    """

    def __init__(self, path: str | Path, why: str) -> None:
        super().__init__(f"{path} is not read: {why}.")
        self.path, self.why = Path(path), why


def reason(error: BaseException) -> str:
    """Return an error as a clause of one line, without a full stop."""
    return sentence(error).rstrip(".")


def is_file(path: str | Path) -> bool:
    """Return whether there is a regular file; False for a name that no file can have."""
    try:
        return os.path.isfile(path)
    except (OSError, ValueError):
        return False


def is_folder(path: str | Path) -> bool:
    """Return whether there is a folder; False for a name that none can have."""
    try:
        return os.path.isdir(path)
    except (OSError, ValueError):
        return False


def kind_of(path: str | Path) -> str:
    """Return what stands in the place of a regular file, in words; empty where one does, or nothing is there."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return "a link that leads nowhere" if os.path.islink(path) else ""
    return "" if stat.S_ISREG(mode) else _kind(mode)


def _kind(mode: int) -> str:
    kinds = (
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISFIFO, "a pipe"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
    )
    return next((name for test, name in kinds if test(mode)), "no file")


@contextmanager
def opened(path: str | Path, limit: int) -> Iterator[BinaryIO]:
    """Open a regular file of at most ``limit`` bytes; a pipe is not waited for.

    Raises:
        Refused: it is none, is larger, or cannot be opened.
    """
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (OSError, ValueError) as error:
        raise Refused(path, f"it cannot be opened ({getattr(error, 'strerror', None) or error})") from error
    found = os.fstat(handle)
    if not stat.S_ISREG(found.st_mode):
        os.close(handle)
        raise Refused(path, f"it is {_kind(found.st_mode)}, not a regular file")
    with os.fdopen(handle, "rb") as file:
        if found.st_size > limit:
            raise Refused(path, f"it has {found.st_size:,} bytes, and at most {limit:,} are expected")
        yield file


def read_file(path: str | Path, limit: int) -> bytes:
    """Return the content of a regular file of at most ``limit`` bytes.

    Raises:
        Refused: it is none, is larger, or cannot be read.
    """
    with opened(path, limit) as file:
        try:
            data = file.read(os.fstat(file.fileno()).st_size)  # not up to the limit, which read() would reserve
            while len(data) <= limit and (more := file.read(min(MiB, limit + 1 - len(data)))):
                data += more
        except (OSError, MemoryError) as error:
            raise Refused(path, f"it cannot be read ({getattr(error, 'strerror', None) or reason(error)})") from error
    if len(data) > limit:  # it grew, or its size is told wrong, as that of the files of /proc
        raise Refused(path, f"it goes on after {limit:,} bytes, the most that is expected")
    return data


def free_memory() -> int:
    """Return the bytes that this process can still take: what the machine has free, within its own limits."""
    found = []
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found += [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
        group = Path("/sys/fs/cgroup")
        most = (group / "memory.max").read_text().strip()
        if most != "max":
            found.append(int(most) - int((group / "memory.current").read_text()))
    except (OSError, ValueError, IndexError):
        pass
    if not found and hasattr(os, "sysconf"):
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return max(0, min(found, default=8 * GiB))


def affordable(path: str | Path, size: int, what: str = "it") -> None:
    """Raise Refused where so many bytes do not fit into the memory that is free."""
    if size > (free := free_memory()):
        raise Refused(path, f"{what} asks for {size:,} bytes of memory, and {free:,} are free")


class Unpacked(io.RawIOBase):
    """A file, unpacked while it is read: by gzip, by xz, or as it is, as its first bytes say.

    Raises:
        Refused: more than ``limit`` bytes come out of it, or it is broken.
    """

    def __init__(self, file: BinaryIO, path: str | Path, limit: int) -> None:
        head = file.read(2)
        file.seek(0)
        self.inner: IO[bytes] | gzip.GzipFile | lzma.LZMAFile = file
        if head == b"\x1f\x8b":
            self.inner = gzip.open(file)  # noqa: SIM115 (it is closed with the file)
        elif head == b"\xfd7":
            self.inner = lzma.open(file)  # noqa: SIM115
        self.path, self.limit, self.count = path, limit, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self.inner.read(min(len(buffer), MiB))
        except BROKEN as error:
            raise Refused(self.path, f"it is broken or ends early ({reason(error)})") from error
        self.count += len(data)
        if self.count > self.limit:
            raise Refused(self.path, f"more than {self.limit:,} bytes are packed in it, the most that is expected")
        buffer[: len(data)] = data
        return len(data)


def unpack(path: str | Path, limit: int) -> bytes:
    """Return the content of a file, unpacked where it is packed by gzip or xz: at most ``limit`` bytes.

    Raises:
        Refused: it is no regular file, is larger, or is broken.
    """
    with opened(path, max(limit, MiB) * 2) as file:
        return io.BufferedReader(Unpacked(file, path, limit), MiB).read()


def read_tar(path: str | Path, wanted: Callable[[str], bool], limit: int) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of the regular files of a tar archive, packed or not; links and all else are passed over.

    Args:
        wanted: whether a file of that name is to be read. Names are those of the archive, and are never opened.
        limit: bytes of the whole archive, unpacked.

    Raises:
        Refused: it is larger, broken, or ends early.
    """
    with opened(path, limit) as file:
        try:
            with tarfile.open(fileobj=io.BufferedReader(Unpacked(file, path, limit), MiB), mode="r|") as archive:
                for member in archive:
                    if member.isreg() and member.sparse is None and wanted(member.name):
                        stream = archive.extractfile(member)
                        assert stream is not None, "a regular file has content"
                        data = stream.read()
                        if len(data) != member.size:
                            raise EOFError(f"{member.name} ends early")
                        yield member.name, data
        except Refused as error:
            raise Refused(path, error.why.replace("it is broken", "the archive is broken")) from error
        except BROKEN as error:
            raise Refused(path, f"the archive is broken or ends early ({reason(error)})") from error


def read_zip(path: str | Path, wanted: Callable[[str], bool], limit: int, each: int) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of the files of a zip archive, by name.

    Args:
        wanted: whether a file of that name is to be read.
        limit: bytes of the archive, and of all that is read from it.
        each: bytes of one file, unpacked.

    Raises:
        Refused: it is larger, or broken.
    """
    with opened(path, limit) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                left = limit
                for name in sorted(n for n in archive.namelist() if wanted(n)):
                    with archive.open(name) as stream:
                        data = stream.read(each + 1)
                    left -= len(data)
                    if len(data) > each or left < 0:
                        most = each if len(data) > each else limit
                        raise Refused(path, f"{name} in it is larger than expected ({most:,} bytes at most)")
                    yield name, data
        except Refused:
            raise
        except BROKEN as error:
            raise Refused(path, f"the archive is broken or ends early ({reason(error)})") from error


def open_picture(source: Path | bytes, path: Path, most: tuple[int, int], mode: str = "") -> Any:
    """Return a picture by PIL, decoded, of at most so many pixels; its size is checked before it is decoded.

    Args:
        source: the file, or its content.
        path: its name, for the errors.
        most: height and width, at most.
        mode: that it is converted to, as "RGB"; empty: as it is.

    Raises:
        Refused: it is none, or is larger.
    """
    with _picture(source, path, most) as picture:
        try:
            picture.load()
            return picture.convert(mode) if mode else picture.copy()
        except (*BROKEN, SyntaxError) as error:  # PIL raises the latter for a broken PNG
            raise Refused(path, f"it cannot be decoded ({reason(error)})") from error


def picture_size(path: Path, most: tuple[int, int]) -> tuple[int, int]:
    """Return height and width of a picture, from the file's head alone; raises Refused as `open_picture` does."""
    with _picture(path, path, most) as picture:
        return int(picture.height), int(picture.width)


def picture_head(path: Path, most: tuple[int, int]) -> tuple[int, int, str]:
    """Return height, width and PIL's mode of a picture, and read no more of the file than its head.

    Raises:
        Refused: as `open_picture` does.
    """
    with opened(path, 64 * MiB) as file, _picture(file, path, most) as picture:
        return int(picture.height), int(picture.width), str(picture.mode)


@contextmanager
def _picture(source: Path | bytes | BinaryIO, path: Path, most: tuple[int, int]) -> Iterator[Any]:
    import warnings

    from PIL import Image, UnidentifiedImageError

    content = read_file(source, 64 * MiB) if isinstance(source, Path) else source
    if isinstance(content, bytes) and not content:
        raise Refused(path, "it is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the size is checked here
            picture = Image.open(io.BytesIO(content) if isinstance(content, bytes) else content, formats=PICTURES)
    except Image.DecompressionBombError as error:
        raise Refused(path, f"its head declares far more pixels than the {most[0]}x{most[1]} expected") from error
    except UnidentifiedImageError:
        raise Refused(path, f"it cannot be decoded: it is none of {', '.join(PICTURES)}") from None
    except (*BROKEN, SyntaxError) as error:
        raise Refused(path, f"it cannot be decoded ({reason(error)})") from error
    with picture:
        if picture.height > most[0] or picture.width > most[1]:
            size = f"{picture.height}x{picture.width}"
            raise Refused(path, f"it is {size}, and at most {most[0]}x{most[1]} is expected")
        yield picture
