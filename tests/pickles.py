"""Write pickles of any content, names that are not installed among them: what other versions, or attackers, write."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any


@dataclass
class Call:
    """A name, the arguments that it is called with, and the state that is set afterwards."""

    name: str  # "module name"
    args: tuple = ()
    state: Any = None
    opcode: bytes = b"R"  # or \x81, a class whose instance is made


@dataclass
class Name:
    """A name alone."""

    name: str


@dataclass
class Raw:
    """Opcodes as they are."""

    opcodes: bytes


def encode(value: Any) -> bytes:
    """The opcodes of one value, in protocol 2 as Python 2 wrote it: texts as byte strings."""
    if isinstance(value, Raw):
        return value.opcodes
    if isinstance(value, Name):
        return f"c{value.name.replace(' ', chr(10))}\n".encode()
    if isinstance(value, Call):
        state = b"" if value.state is None else encode(value.state) + b"b"
        return encode(Name(value.name)) + encode(value.args) + value.opcode + state
    if value is None or isinstance(value, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    if isinstance(value, int):
        return b"\x8a\x10" + value.to_bytes(16, "little", signed=True)
    if isinstance(value, (str, bytes)):
        raw = value.encode() if isinstance(value, str) else value
        return b"T" + struct.pack("<i", len(raw)) + raw
    if isinstance(value, tuple):
        return b"(" + b"".join(map(encode, value)) + b"t"
    if isinstance(value, list):
        return b"](" + b"".join(map(encode, value)) + b"e"
    return b"}(" + b"".join(encode(x) for pair in value.items() for x in pair) + b"u"


def dumps(value: Any) -> bytes:
    return b"\x80\x02" + encode(value) + b"."


def array(x, core: str = "numpy.core", dtype: Any = None) -> Call:
    """An array as numpy pickled it; of a list of texts: one of objects."""
    texts = isinstance(x, list)
    code = "O8" if texts else x.dtype.str[1:]
    order = "|" if texts or x.dtype.itemsize == 1 else "<"
    kind = dtype or Call("numpy dtype", (code, 0, 1), (3, order, None, None, None, -1, -1, 63 if texts else 0))
    shape, values = ((len(x),), x) if texts else (x.shape, x.tobytes())
    state = (1, shape, kind, False, values)
    return Call(f"{core}.multiarray _reconstruct", (Name("numpy ndarray"), (0,), "b"), state)


def frame(columns: dict, index: str = "pandas.indexes") -> Call:
    """A table as pandas 0.19 pickled it for Python 2: two blocks of columns."""
    import numpy as np

    names = list(columns)
    made = [
        Call(f"{index}.base _new_Index", (Name(f"{index}.base Index"), {"data": array(names), "name": None})),
        Call(f"{index}.base _new_Index", (Name(f"{index}.range RangeIndex"), {"start": 0, "stop": 3, "step": 1})),
    ]
    odd = array(np.arange(1, len(names), 2))
    blocks = [
        {
            "values": array(np.stack([columns[n] for n in names[::2]])),
            "mgr_locs": Call("__builtin__ slice", (0, len(names), 2)),
        },
        {"values": array(np.stack([columns[n] for n in names[1::2]])), "mgr_locs": odd},
    ]
    state = (made, [b["values"] for b in blocks], [], {"0.14.1": {"axes": made, "blocks": blocks}})
    manager = Call("pandas.core.internals BlockManager", (), state, b"\x81")
    return Call("pandas.core.frame DataFrame", (), {"_data": manager, "_typ": "dataframe", "_metadata": []}, b"\x81")
