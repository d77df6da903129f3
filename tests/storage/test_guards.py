"""Hostile and damaged files: one sentence each, before anything is waited for, unpacked or reserved."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import socket
import struct
import tarfile
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest

from zoo.storage import guards
from zoo.storage.guards import MiB, Refused, open_picture, picture_size, read_file, read_tar, read_zip, unpack


@pytest.fixture(autouse=True)
def little_memory():
    """No refusal may take more than 32 MiB."""
    tracemalloc.start()
    yield
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 32 * MiB, f"{peak:,} bytes were taken"


def sparse(path, size):
    with open(path, "wb") as file:
        file.truncate(size)
    return path


def test_a_file_is_read_up_to_its_limit(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    assert read_file(tmp_path / "a", 5) == b"12345"
    with pytest.raises(Refused, match=r"it has 5 bytes, and at most 4 are expected"):
        read_file(tmp_path / "a", 4)
    with pytest.raises(Refused, match="No such file"):
        read_file(tmp_path / "b", 4)


def test_a_sparse_terabyte_is_refused_by_its_size(tmp_path):
    with pytest.raises(Refused, match="1,099,511,627,776 bytes"):
        read_file(sparse(tmp_path / "a", 1 << 40), guards.GiB)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_what_is_no_regular_file_is_not_waited_for(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(tmp_path)  # the name of a socket must be short
        server.bind("socket")
        for name, what in (("pipe", "a pipe"), ("zero", "a device"), ("folder", "a folder|Is a directory"),
                           ("loop", "symbolic links"), ("socket", "No such device|a socket")):  # fmt: skip
            with pytest.raises(Refused, match=what):
                read_file(tmp_path / name, 100)
        assert guards.kind_of(tmp_path / "pipe") == "a pipe" and guards.kind_of(tmp_path / "absent") == ""
    assert guards.kind_of(tmp_path / "loop") == "a link that leads nowhere"


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="no /proc here")
def test_a_file_that_tells_a_wrong_size_ends_at_the_limit(tmp_path):
    (tmp_path / "mem").symlink_to("/proc/self/mem")
    with pytest.raises(Refused, match="cannot be read"):
        read_file(tmp_path / "mem", 100)
    (tmp_path / "status").symlink_to("/proc/self/status")  # its size is told as 0
    with pytest.raises(Refused, match="goes on after 100 bytes"):
        read_file(tmp_path / "status", 100)


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "a/" * 3000])
def test_a_name_that_no_file_can_have(tmp_path, name):
    assert not guards.is_file(f"{tmp_path}/{name}") and not guards.is_folder(f"{tmp_path}/{name}")
    assert guards.kind_of(f"{tmp_path}/{name}") == ""
    with pytest.raises(Refused, match="cannot be opened"):
        read_file(f"{tmp_path}/{name}", 10)


@pytest.mark.parametrize("pack", [gzip.compress, lambda x: lzma.compress(x, preset=0), bytes])
def test_what_is_packed_comes_out_up_to_the_limit(tmp_path, pack):
    (tmp_path / "a").write_bytes(pack(b"z" * 1000))
    assert unpack(tmp_path / "a", 1000) == b"z" * 1000
    with pytest.raises(Refused, match="more than 999 bytes"):
        unpack(tmp_path / "a", 999)


def test_a_bomb_is_not_unpacked(tmp_path):
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join(packer.compress(b"\0" * MiB) for _ in range(60)) + packer.flush()
    (tmp_path / "bomb.gz").write_bytes(bomb)
    with pytest.raises(Refused, match="more than 1,000 bytes"):
        unpack(tmp_path / "bomb.gz", 1000)


def test_an_archive_of_more_than_its_limit(tmp_path):
    """What is passed over counts, too: it has to be unpacked to be passed over."""
    tar(tmp_path / "a.tar.gz", [("first", b"1"), ("bomb", b"\0" * 4 * MiB), ("last", b"2")])
    with pytest.raises(Refused, match="more than 1,048,576 bytes"):
        list(read_tar(tmp_path / "a.tar.gz", lambda name: name == "last", MiB))


@pytest.mark.parametrize("cut", [1, 10, 100])
def test_a_stream_that_ends_early(tmp_path, cut):
    whole = gzip.compress(os.urandom(500))
    (tmp_path / "a").write_bytes(whole[:-cut])
    with pytest.raises(Refused, match="broken or ends early"):
        unpack(tmp_path / "a", 1000)


def tar(path, members, mode="w:gz"):
    with tarfile.open(path, mode) as archive:
        for name, content in members:
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
            else:
                archive.addfile(info)


def link(name, target, kind):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_an_archive_gives_its_regular_files_alone(tmp_path):
    members = [
        ("x/a", b"1"),
        ("../b", b"2"),
        ("/etc/c", b"3"),
        ("x/l", link("x/l", "/etc/passwd", tarfile.SYMTYPE)),
        ("x/h", link("x/h", "/etc/passwd", tarfile.LNKTYPE)),
        ("x/p", link("x/p", "", tarfile.FIFOTYPE)),
        ("x/d", link("x/d", "", tarfile.CHRTYPE)),
    ]
    tar(tmp_path / "a.tar.gz", members)
    before = sorted(tmp_path.rglob("*"))
    assert list(read_tar(tmp_path / "a.tar.gz", bool, MiB)) == [("x/a", b"1"), ("../b", b"2"), ("/etc/c", b"3")]
    assert sorted(tmp_path.rglob("*")) == before, "nothing is unpacked onto the disk"


def test_a_member_that_declares_gigabytes(tmp_path):
    info = tarfile.TarInfo("x")
    info.size = 100 << 30
    (tmp_path / "a.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + b"\0" * 1024)
    with pytest.raises(Refused, match="broken or ends early"):
        list(read_tar(tmp_path / "a.tar", bool, MiB))
    long = tarfile.TarInfo("././@LongLink")
    long.type, long.size = tarfile.GNUTYPE_LONGNAME, 10 << 30  # a name of 10 GiB
    (tmp_path / "b.tar").write_bytes(long.tobuf(tarfile.GNU_FORMAT) + b"\0" * 1024)
    with pytest.raises(Refused, match="archive is broken"):
        list(read_tar(tmp_path / "b.tar", bool, MiB))


@pytest.mark.parametrize(
    "data",
    [b"", b"x" * 600, gzip.compress(b"no archive" * 100), bz2.compress(b"x")],
    ids=["empty", "text", "gzip", "bzip2"],  # gzip writes the time
)
def test_what_is_no_archive(tmp_path, data):
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(Refused, match=r"archive is broken"):
        list(read_tar(tmp_path / "a", bool, MiB))
    with pytest.raises(Refused, match=r"archive is broken"):
        list(read_zip(tmp_path / "a", bool, MiB, MiB))


def test_a_zip_is_read_up_to_its_limits(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, size in (("b", 10), ("a", 10), ("bomb", 8 * MiB)):
            archive.writestr(name, b"\0" * size)
    assert [n for n, _ in read_zip(tmp_path / "a.zip", lambda n: n != "bomb", MiB, 10)] == ["a", "b"]
    with pytest.raises(Refused, match="bomb in it is larger"):
        list(read_zip(tmp_path / "a.zip", bool, MiB, 1000))
    with pytest.raises(Refused, match="larger than expected"):
        list(read_zip(tmp_path / "a.zip", lambda n: n != "bomb", 1 << 17, 9))


def png(width, height, data=b"\0" * 10):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def test_a_picture_is_measured_before_it_is_decoded(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png(2, 3, b"\0\1\2" * 3))
    assert picture_size(path, (3, 2)) == (3, 2)
    assert np.asarray(open_picture(path, path, (3, 2))).tolist() == [[1, 2]] * 3
    assert open_picture(path.read_bytes(), path, (3, 2), "RGB").mode == "RGB"
    with pytest.raises(Refused, match="it is 3x2, and at most 2x2 is expected"):
        open_picture(path, path, (2, 2))
    for side in (9000, 20_000, 60_000):  # PIL warns of the first, and raises for the last
        path.write_bytes(png(side, side))
        with pytest.raises(Refused, match="at most 100x100|far more pixels than the 100x100"):
            open_picture(path, path, (100, 100))


@pytest.mark.parametrize("data", [b"", b"no picture", png(5, 5)[:40], png(5, 5, b"\0")])
def test_what_is_no_picture(tmp_path, data):
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(Refused, match="cannot be decoded" if data else "it is empty"):
        open_picture(tmp_path / "a.png", tmp_path / "a.png", (10, 10))


def test_memory_that_is_not_there(monkeypatch, tmp_path):
    monkeypatch.setattr(guards, "free_memory", lambda: 1000)
    guards.affordable(tmp_path, 1000)
    with pytest.raises(Refused, match=r"its array x asks for 1,001 bytes of memory, and 1,000 are free"):
        guards.affordable(tmp_path, 1001, "its array x")
    monkeypatch.undo()
    assert 0 < guards.free_memory() < 1 << 50


def test_an_error_as_a_clause():
    assert guards.reason(ValueError("a.\nb")) == "a" and guards.reason(IndexError()) == "IndexError"
