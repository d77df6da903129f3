"""Arrays out of numpy's files and out of pickles: the right values, and nothing that runs or crashes."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from pickles import Call, Name, Raw, array, dumps, frame

from zoo.storage.arrays import Record, read_frame, read_npy, read_npz, read_pickle
from zoo.storage.guards import Refused

HERE = Path("file")


@pytest.mark.parametrize(
    "x",
    [
        np.arange(12.0).reshape(3, 4),
        np.asfortranarray(np.arange(12).reshape(3, 4)),
        np.array([True, False]),
        np.array(3.5, np.float32),
        np.zeros((0, 5), np.int16),
        np.arange(3, dtype=">i4"),
        np.array(["a", "bc"]),
        np.array([1 + 2j]),
    ],
)
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_arrays_come_back(tmp_path, x, protocol):
    np.save(tmp_path / "x.npy", x)
    np.savez_compressed(tmp_path / "x.npz", x=x, y=x[..., None])
    pickled = read_pickle(pickle.dumps({"x": x, "n": [1, 2]}, protocol), HERE)
    for found in (read_npy(tmp_path / "x.npy"), read_npz(tmp_path / "x.npz")["x"], pickled["x"]):
        np.testing.assert_array_equal(found, x)
        assert found.shape == x.shape and found.flags.owndata and found.flags.writeable
    assert pickled["n"] == [1, 2] and list(read_npz(tmp_path / "x.npz", ("y",))) == ["y"]
    with pytest.raises(Refused, match="the array 'z' is missing"):
        read_npz(tmp_path / "x.npz", ("x", "z"))


@pytest.mark.parametrize("core", ["numpy.core", "numpy._core"])
def test_arrays_of_python_2_come_back(core):
    x = np.arange(6, dtype=np.uint8).reshape(2, 3)
    found = read_pickle(dumps({"data": array(x, core), "labels": [3, 4]}), HERE)
    np.testing.assert_array_equal(found["data"], x)
    assert found["labels"] == [3, 4]


def header(text: str) -> bytes:
    raw = text.encode()
    raw += b" " * (-(len(raw) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(raw).to_bytes(2, "little") + raw


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "no array of numbers"),
        (b"\x93NUMPY", "no array of numbers"),
        (b"\x93NUMPY\x07\x00" + b"x" * 100, "no array of numbers"),
        (header("{'descr': '<f8', 'fortran_order': False, 'shape': (43000000000000,), }"), "0 bytes of values follow"),
        (header("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }") + b"x" * 8, "bytes of values follow"),
        (header("{'descr': '<f8', 'fortran_order': False, 'shape': (0, 10**30), }"), "no array of numbers"),
        (header("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }") + b"x" * 8, "not numbers"),
        (header("{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (1,), }") + b"x" * 8, "not numbers"),
        (header("__import__('os')"), "no array of numbers"),
        (header("{'descr': '<f8', 'fortran_order': False, 'shape': (" + "(" * 900 + ")" * 900 + "), }"), "no array"),
    ],
)
def test_a_lying_header_is_refused(tmp_path, data, why):
    (tmp_path / "x.npy").write_bytes(data)
    with pytest.raises(Refused, match=why):
        read_npy(tmp_path / "x.npy")
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("x.npy", data)
    with pytest.raises(Refused, match=why):
        read_npz(tmp_path / "x.npz")


def test_what_is_no_npz(tmp_path):
    for data in (b"", b"junk", pickle.dumps([1])):
        (tmp_path / "x.npz").write_bytes(data)
        with pytest.raises(Refused, match="archive is broken"):
            read_npz(tmp_path / "x.npz")
    np.savez(tmp_path / "x.npz", x=np.zeros(1000))
    with pytest.raises(Refused, match="8,000|at most"):
        read_npz(tmp_path / "x.npz", limit=100)


class Touch:
    """A payload: unpickled, it writes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def payloads(marker: Path) -> list[bytes]:
    code = f"open({str(marker)!r}, 'w')"
    return [
        pickle.dumps(Touch(marker)),
        pickle.dumps({"data": Touch(marker)}, 2),
        dumps(Call("os system", (f"touch {marker}",))),
        dumps(Call("builtins exec", (code,))),
        dumps(Call("__builtin__ eval", (code,))),
        dumps(Call("numpy.testing._private.utils runstring", (code, {}))),
        dumps(Call("numpy f2py", (code,))),
        dumps(Call("pandas eval", (f"@__import__('os').system('touch {marker}')",))),
        dumps(Call("pandas.io.common os.system", (f"touch {marker}",))),
        dumps(Call("pandas read_pickle", (str(marker),))),
        b"\x80\x04\x8c\x05numpy\x8c\x0bos.__dict__\x93.",
        dumps(Raw(b"(S'" + code.encode() + b"'\nibuiltins\nexec\n")),
        dumps(Raw(b"cpandas\nDataFrame\n)\x81}(U\x0c__setstate__cbuiltins\nexec\nub")),
    ]


@pytest.mark.parametrize("which", range(13))
def test_a_payload_does_not_run(tmp_path, which):
    marker = tmp_path / "marker"
    data = payloads(marker)[which]
    for read in (read_pickle, read_frame):
        try:
            found = read(data, HERE)
        except Refused as error:
            assert "\n" not in str(error)
        else:
            assert read is read_pickle and isinstance(found, (Record, type, dict))  # a record of the call, no more
    assert not marker.exists()


def test_what_a_pickle_sets_stays_in_it():
    """Attributes set on a class that it names are gone with the next pickle."""
    attack = Raw(b"cpandas\nDataFrame\nN}(U\x04name(tU\x0b__setstate__Nu\x86b")
    with pytest.raises(Refused):
        read_frame(dumps(attack), HERE)
    assert Record.name == "" and callable(Record.__setstate__)
    assert list(read_frame(dumps(frame(COLUMNS)), HERE)) == list(COLUMNS)


def crafted(flags: int, code: str = "O8") -> Call:
    return Call("numpy dtype", (code, 0, 1), (3, "|", None, None, None, -1, -1, flags))


@pytest.mark.parametrize(
    "dtype",
    [
        crafted(0),  # objects that hide it: numpy would take the bytes for pointers
        crafted(63),
        Call("numpy dtype", ("V8", 0, 1), (3, "|", None, ("a",), {"a": (crafted(0), 0)}, 8, 1, 0)),
        Call("numpy dtype", ("i8", 0, 1), (3, "<", (crafted(0), (1,)), None, None, -1, -1, 0)),
        Call("numpy dtype", ("M8", 0, 1)),
        Call("numpy dtype", ("S999999999999", 0, 1)),
        Call("numpy dtype", (5,)),
        Name("numpy dtype"),
        "O8",
    ],
)
def test_a_crafted_type_is_refused(dtype):
    with pytest.raises(Refused, match="an array in it is broken|bytes of values follow"):
        read_pickle(dumps({"data": array(np.arange(4), dtype=dtype)}), HERE)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b".",
        b"\x80\x02N",
        dumps(Raw(b"Nr\xff\xff\xff\x7f")),  # a place in the memo that would reserve 32 GiB
        dumps(Raw(b"N" + b"\x85" * 200_000)),  # tuples so deep that a hash would overflow the stack
        dumps(Raw(b"}N" + b"\x85" * 200_000 + b"Ns")),
        dumps(Raw(b"X\xff\xff\xff\x7fx")),
        dumps(Raw(b"\x8d" + b"\xff" * 8)),
        dumps(Raw(b"U\x01xQ")),
        dumps(Raw(b"L" + b"9" * 100_000 + b"L\n")),
        dumps(
            {"x": Call("numpy.core.multiarray _reconstruct", (), (1, (1 << 30, 1 << 30), crafted(0, "f8"), False, ""))}
        ),
        dumps({"x": Call("numpy _frombuffer", ())}),
        dumps({"x": Call("numpy _reconstruct", (), 5)}),
    ],
)
def test_a_broken_pickle_is_one_sentence(data):
    with pytest.raises(Refused, match="cannot be unpickled|is broken|bytes of values") as caught:
        read_pickle(data, HERE)
    assert "\n" not in str(caught.value)


COLUMNS = {name: np.arange(3.0) + 10 * k for k, name in enumerate(["Time", "Meth", "Eth", "a", "b"])}


@pytest.mark.parametrize("index", ["pandas.indexes", "pandas.core.indexes"])
def test_a_table_of_old_pandas_comes_back(index):
    found = read_frame(dumps(frame(COLUMNS, index)), HERE)
    assert list(found) == list(COLUMNS)
    for name, column in COLUMNS.items():
        np.testing.assert_array_equal(found[name], column)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_table_of_the_installed_pandas_comes_back(protocol):
    pandas = pytest.importorskip("pandas")
    file = io.BytesIO()
    table = pandas.DataFrame(COLUMNS | {"n": np.arange(3)})
    table.to_pickle(file, protocol=protocol, compression=None)
    found = read_frame(file.getvalue(), HERE)
    assert list(found) == list(table)
    for name in table:
        np.testing.assert_array_equal(found[name], table[name].to_numpy())


@pytest.mark.parametrize("value", [5, [], {}, Call("pandas DataFrame", (), 5), Call("pandas DataFrame", (), {}),
                                   Call("pandas DataFrame", (), {"_mgr": 3}), array(np.arange(3))])  # fmt: skip
def test_what_is_no_table(value):
    with pytest.raises(Refused, match="no table of columns"):
        read_frame(dumps(value), HERE)
