"""Read a Lightning checkpoint (``.ckpt``), which is a pickle, without running anything in it."""

from __future__ import annotations

import os
import pickletools
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.storage.guards import MiB, Refused, free_memory, is_file, opened, reason
from zoo.storage.model_folder import WeightsError

EXPANDED = 64 * MiB  # bytes that a tensor may declare beyond what it holds, as views of one number do
_PLAIN = re.compile(  # the names that weights are made of
    r"collections\.OrderedDict|torch\.(_utils\..*|storage\..*|\w*Storage|Size|device|bool|u?int\d+|b?float\d+)"
)
FORCED = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"  # torch then unpickles anything, whatever the caller says


def read_checkpoint(file: str | Path) -> dict[str, Any]:
    """Return the content of a checkpoint, on the CPU, by torch's restricted unpickler only.

    Raises:
        WeightsError: it is missing, damaged, holds no weights by name, or names a global that is not known to be safe.
    """
    saved = read_pickle(file)
    if not isinstance(saved, dict) or "state_dict" not in saved:
        raise WeightsError(f"{file} is no Lightning checkpoint: it has no 'state_dict'.")
    state = saved["state_dict"]
    more = [] if isinstance(state, dict) else [f"it is a {type(state).__name__}"]
    for name, value in state.items() if isinstance(state, dict) else ():
        extra = isinstance(name, str) and name.endswith("_extra_state")  # what a module keeps beside its tensors
        if not isinstance(name, str) or not (isinstance(value, Tensor) or extra):
            more.append(f"{str(name)[:80]!r}: {type(value).__name__}")
    if more:
        raise WeightsError(
            f"{file} is no whole checkpoint: its 'state_dict' holds more than names and tensors ({more[0]})."
        )
    return saved


def read_pickle(file: str | Path) -> Any:
    """Return what ``torch.save`` put into a file, on the CPU, by torch's restricted unpickler only.

    Raises:
        WeightsError: it is missing, damaged, declares more than it holds, or names a global that is not known to be
            safe; it is named.
    """
    file = Path(file)
    if not is_file(file):
        raise WeightsError(f"{file} does not exist; give a run folder, or a checkpoint file.")
    if os.environ.get(FORCED, "0").lower() in ("1", "y", "yes", "true"):
        raise WeightsError(f"{FORCED} is set, which lets a checkpoint run code; unset it to read {file}.")
    try:
        with opened(file, free_memory()) as stream:
            if not stream.read(1):
                raise Refused(file, "it is empty")
        _check_archive(file)
        saved = torch.load(file, map_location="cpu", weights_only=True)
    except Refused as error:
        raise WeightsError(f"{file} is no whole checkpoint: {error.why}. Give another one of the run.") from error
    except Exception as error:
        unsafe = _unsafe(file)
        if unsafe:
            raise WeightsError(
                f"{file} is refused: it names {', '.join(unsafe)}, which may run code when it is read. Nothing was "
                "run and nothing is loaded otherwise. Export the weights to safetensors where the file is trusted."
            ) from None
        raise WeightsError(f"{file} is no whole checkpoint ({reason(error)}).") from error
    for tensor in _tensors(saved):
        size = tensor.numel() * tensor.element_size()
        if size > EXPANDED and not tensor.is_sparse and size > tensor.untyped_storage().nbytes():
            raise WeightsError(
                f"{file} is refused: a tensor in it declares {tuple(tensor.shape)}, {size:,} bytes, and holds "
                f"{tensor.untyped_storage().nbytes():,}."
            )
    return saved


def _check_archive(file: Path) -> None:
    """Refuse a zip archive whose parts are packed, or larger together than the file: torch writes them as they are."""
    if not zipfile.is_zipfile(file):
        return  # of the legacy format
    with zipfile.ZipFile(file) as archive:
        parts = archive.infolist()
    if any(p.compress_type != zipfile.ZIP_STORED for p in parts):
        raise Refused(file, "its parts are packed, which torch.save never does")
    if sum(p.file_size for p in parts) > file.stat().st_size:
        raise Refused(file, "its parts are larger than the file")
    if any(p.filename.endswith("/data.pkl") and p.file_size == 0 for p in parts):
        raise Refused(file, "its data.pkl is empty")


def _tensors(content: Any) -> Iterator[Tensor]:
    """Yield the tensors within plain containers, each container once."""
    seen: set[int] = set()
    todo = [content]
    while todo:
        value = todo.pop()
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (dict, list, tuple, set)) and id(value) not in seen:
            seen.add(id(value))
            todo.extend(value.values() if isinstance(value, dict) else value)


def _unsafe(file: Path) -> list[str]:
    """Return the globals that the restricted unpickler refuses; read off the pickle's opcodes, not by running them."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(str(file)))
    except Exception:  # of the legacy format, or no archive at all: the pickle itself is scanned
        return _scan(file)


def _scan(file: Path) -> list[str]:
    """Return the globals of bare pickles, one after the other as the legacy format has them, by their opcodes."""
    found: set[str] = set()
    strings: list[str] = []
    try:
        with file.open("rb") as stream:
            for _ in range(4):  # a magic number, a version, the machine, the content; tensors follow
                for opcode, argument, _ in pickletools.genops(stream):
                    if opcode.name == "GLOBAL":
                        found.add(str(argument).replace(" ", "."))
                    elif opcode.name == "STACK_GLOBAL":
                        found.add(".".join(strings[-2:]))
                    elif isinstance(argument, str):
                        strings.append(argument)
    except Exception:  # not a pickle either
        pass
    return sorted(n for n in found if not _PLAIN.fullmatch(n))
