"""Read numpy's files and pickles of arrays: arrays come out, and nothing runs.

A pickle names functions to be called; here every name leads to a record that only keeps its arguments, and arrays are
then built from those by ``np.frombuffer``. numpy's own reconstruction is never called: a crafted dtype makes it take
bytes for pointers.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from zoo.storage.guards import BROKEN, GiB, Refused, affordable, free_memory, read_file, read_zip, reason

KINDS = "biufcSU"  # of arrays of plain values
_CODE = re.compile(r"[<>|=]?([biufcSU]\d{1,9}|\?)")
# opcodes of plain data, of names and of calls; none that reaches out of the pickle or hashes anything deep
_REFUSED_OPCODES = frozenset(
    [
        *("PERSID", "BINPERSID", "EXT1", "EXT2", "EXT4", "INST", "OBJ"),
        *("NEXT_BUFFER", "READONLY_BUFFER", "EMPTY_SET", "ADDITEMS", "FROZENSET"),
    ]
)
_TUPLES = 10_000  # of one pickle: a hash goes down nested ones by recursion


# -------------------------------------------------------------------------------------------------------------- numpy
def read_npy(path: Path) -> np.ndarray:
    """Return the array of a ``.npy`` file.

    Raises:
        Refused: it is no such file, holds objects, or is not as long as its header says.
    """
    data = read_file(path, max(free_memory() // 3, 1))
    return _npy(data, path)


def read_npz(path: Path, names: tuple[str, ...] = (), limit: int = GiB) -> dict[str, np.ndarray]:
    """Return the arrays of a ``.npz`` file, by name.

    Args:
        names: those that are needed; empty: all.
        limit: bytes of all arrays together.

    Raises:
        Refused: it is no such file, lacks a name, is larger, or holds objects.
    """
    wanted = {f"{n}.npy" for n in names}
    found = {
        name.removesuffix(".npy"): _npy(data, path)
        for name, data in read_zip(path, lambda n: n in wanted if wanted else n.endswith(".npy"), limit, limit)
    }
    if lacking := [n for n in names if n not in found]:
        raise Refused(path, f"the array {lacking[0]!r} is missing in it")
    return found


def _npy(data: bytes, path: Path) -> np.ndarray:
    file = io.BytesIO(data)
    form = np.lib.format
    try:
        version = form.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"its version {version} is not one of plain arrays")
        head = form.read_array_header_1_0 if version == (1, 0) else form.read_array_header_2_0
        shape, fortran, dtype = head(file)
    except (*BROKEN, TypeError, SyntaxError) as error:
        raise Refused(path, f"it is no array of numbers ({reason(error)})") from error
    if dtype.kind not in KINDS:
        raise Refused(path, f"it holds values of type {dtype}, not numbers")
    return _array(data[file.tell() :], dtype, shape, fortran, path)


def _array(data: bytes | bytearray, dtype: np.dtype, shape: tuple[int, ...], fortran: bool, path: Path) -> np.ndarray:
    """Return an array that owns its values."""
    if any(n < 0 for n in shape) or len(data) != math.prod(shape) * dtype.itemsize:
        raise Refused(path, f"its header declares {dtype} {shape}, and {len(data):,} bytes of values follow")
    affordable(path, len(data))
    try:
        return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C").copy()
    except (ValueError, MemoryError) as error:
        raise Refused(path, f"it declares an impossible shape ({reason(error)})") from error


# ------------------------------------------------------------------------------------------------------------ pickles
class Record:
    """What a pickle wants called: the name, the arguments, and the state that it would set."""

    name = ""

    def __new__(cls, *args: Any) -> Record:
        made = super().__new__(cls)
        made.args, made.state = args, None
        return made

    def __init__(self, *args: Any) -> None:
        self.args: tuple[Any, ...]
        self.state: Any

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Reader(pickle.Unpickler):
    """Builds plain values and records; a name outside of numpy's and pandas' is refused."""

    def find_class(self, module: str, name: str) -> Any:
        builtin = module in ("builtins", "__builtin__") and name in ("slice", "bytes")
        plain = module.partition(".")[0] in ("numpy", "pandas") or (module, name) == ("_codecs", "encode")
        if not (plain or builtin):
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no data file needs")
        # a new class each time: a pickle can set attributes of what it names
        return type("Record", (Record,), {"name": name})


def read_pickle(data: bytes, path: Path) -> Any:
    """Return plain values out of a pickle by Python 2 or 3, arrays among them; what else it names stays a `Record`.

    Raises:
        Refused: it is broken, or names something that is no array or table.
    """
    try:
        _scan(data)
        return _plain(_Reader(io.BytesIO(data), encoding="latin1").load(), path)
    except Refused:
        raise
    except Exception as error:  # a broken pickle raises nearly anything
        raise Refused(path, f"it cannot be unpickled ({type(error).__name__}: {reason(error)})") from error


def _scan(data: bytes) -> None:
    """Look at the opcodes before any is run: places in the memo that reserve gigabytes, and nesting, are refused."""
    tuples = 0
    for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
        if opcode.name in _REFUSED_OPCODES:
            raise pickle.UnpicklingError(f"it uses {opcode.name}, which no data file needs")
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > count + 256:
            raise pickle.UnpicklingError("its memo has gaps")
        tuples += opcode.name.startswith("TUPLE")
        if tuples > _TUPLES:
            raise pickle.UnpicklingError(f"it holds more than {_TUPLES:,} tuples")


def _plain(value: Any, path: Path) -> Any:
    """Return a value with the arrays in a mapping's values built; other containers are left as they are."""
    if isinstance(value, dict):
        return {k: array_of(v, path) if is_array(v) else v for k, v in value.items()}
    return array_of(value, path) if is_array(value) else value


def is_array(value: Any) -> bool:
    """Return whether a record stands for an array of numpy's."""
    return isinstance(value, Record) and value.name in ("_reconstruct", "_frombuffer")


def array_of(record: Record, path: Path) -> np.ndarray:
    """Return the array that a record stands for; an array of texts comes as one of texts.

    Raises:
        Refused: it holds objects, or its values are not as long as its shape says.
    """
    try:
        if record.name == "_frombuffer":
            data, dtype, shape, order = record.args[:4]
            fortran = order == "F"
        else:
            shape, dtype, fortran, data = tuple(record.state)[-4:]
        shape = tuple(int(n) for n in shape)
        if _code(dtype).startswith("O"):
            if not (isinstance(data, list) and len(shape) == 1 and all(isinstance(x, str) for x in data)):
                raise ValueError("it holds objects")
            return np.array(data, dtype=str)
        if isinstance(data, Record):  # bytes, as Python 3 writes them for Python 2
            data = data.args[0] if data.args else b""
        if not isinstance(data, (str, bytes, bytearray)):
            raise ValueError("its values are missing")
        raw = data.encode("latin1") if isinstance(data, str) else bytes(data)
        return _array(raw, np.dtype(_code(dtype)), shape, bool(fortran), path)
    except Refused:
        raise
    except (TypeError, ValueError, AttributeError, IndexError, UnicodeError) as error:
        raise Refused(path, f"an array in it is broken ({reason(error)})") from error


def _code(dtype: Any) -> str:
    """Return the type of an array's values, with their byte order: ``<f8``, or ``O``."""
    if not (isinstance(dtype, Record) and dtype.name == "dtype" and isinstance(dtype.args[0], str)):
        raise ValueError("its type of values is missing")
    code, state = dtype.args[0], dtype.state
    if re.fullmatch(r"[|]?O\d?", code):
        return "O"
    if isinstance(state, tuple) and (len(state) < 5 or any(x is not None for x in state[2:5])):
        raise ValueError("its values are no numbers")
    order = state[1] if isinstance(state, tuple) and state[1] in ("<", ">") else "<"
    if not _CODE.fullmatch(code):
        raise ValueError(f"its values are of type {code!r}")
    return code if code[0] in "<>|=" or code in ("?", "b1") else order + code


# -------------------------------------------------------------------------------------------------------------- pandas
def read_frame(data: bytes, path: Path) -> dict[str, np.ndarray]:
    """Return the columns of a pickled table of pandas, by name, without pandas: written by versions 0.14 to 3.

    Raises:
        Refused: it is no such table.
    """
    frame = read_pickle(data, path)
    try:
        if not (isinstance(frame, Record) and frame.name == "DataFrame" and isinstance(frame.state, dict)):
            raise ValueError("it holds no DataFrame")
        manager: Record = frame.state.get("_mgr") or frame.state["_data"]
        if manager.args:
            blocks, axes = manager.args[:2]
            parts = [block.args[:2] for block in blocks]
        else:
            state = manager.state[-1]["0.14.1"]
            axes, parts = state["axes"], [(block["values"], block["mgr_locs"]) for block in state["blocks"]]
        names = [str(n) for n in next(array_of(a, path) for a in _arrays(axes[0]))]
        table: dict[str, np.ndarray] = {}
        for values, place in parts:
            block = array_of(values, path)
            rows = range(len(names))[slice(*place.args)] if not is_array(place) else array_of(place, path)
            for row, column in zip(rows, block, strict=True):
                table[names[int(row)]] = column
        return {name: table[name] for name in names}
    except Refused:
        raise
    except (TypeError, ValueError, AttributeError, IndexError, KeyError, StopIteration) as error:
        raise Refused(path, f"it is no table of columns ({reason(error)})") from error


def _arrays(value: Any, depth: int = 8) -> Iterator[Record]:
    """Yield the arrays that lie within records, tuples and mappings, the outermost first."""
    if is_array(value):
        yield value
    elif depth and isinstance(value, (tuple, list, dict)):
        for x in list(value.values() if isinstance(value, dict) else value)[:16]:
            yield from _arrays(x, depth - 1)
    elif depth and isinstance(value, Record):
        yield from _arrays((*value.args, value.state), depth - 1)
