"""Read a Lightning checkpoint (``.ckpt``), which is a pickle, without running anything in it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from zoo.registry import sentence
from zoo.storage.model_folder import WeightsError

FORCED = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"  # torch then unpickles anything, whatever the caller says


def read_checkpoint(file: str | Path) -> dict[str, Any]:
    """The content of a checkpoint, on the CPU, by torch's restricted unpickler only.

    Raises:
        WeightsError: it is missing, damaged, or names a global that is not known to be safe; it is named.
    """
    saved = read_pickle(file)
    if not isinstance(saved, dict) or "state_dict" not in saved:
        raise WeightsError(f"{file} is no Lightning checkpoint: it has no 'state_dict'.")
    state = saved["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(k, str) and torch.is_tensor(v) for k, v in state.items()):
        raise WeightsError(f"{file} is no whole checkpoint: its 'state_dict' holds more than names and tensors.")
    return saved


def read_pickle(file: str | Path) -> Any:
    """What ``torch.save`` put into a file, on the CPU, by torch's restricted unpickler only.

    Raises:
        WeightsError: it is missing, damaged, or names a global that is not known to be safe; it is named.
    """
    file = Path(file)
    if not file.is_file():
        raise WeightsError(f"{file} does not exist; give a run folder, or a checkpoint file.")
    if os.environ.get(FORCED, "0").lower() in ("1", "y", "yes", "true"):
        raise WeightsError(f"{FORCED} is set, which lets a checkpoint run code; unset it to read {file}.")
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        unsafe = _unsafe(file)
        if unsafe:
            raise WeightsError(
                f"{file} is refused: it names {', '.join(unsafe)}, which may run code when it is read. Nothing was "
                "run and nothing is loaded otherwise. Export the weights to safetensors where the file is trusted."
            ) from None
        raise WeightsError(f"{file} is no whole checkpoint ({sentence(error)}).") from error


def _unsafe(file: Path) -> list[str]:
    """The globals that the restricted unpickler refuses; read off the pickle's opcodes, not by running them."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(str(file)))
    except Exception:  # of the legacy format, or no archive at all: the pickle itself is scanned
        return _scan(file)


def _scan(file: Path) -> list[str]:
    """The globals of a bare pickle, by its opcodes."""
    import pickletools

    found, strings = set(), []
    try:
        for opcode, argument, _ in pickletools.genops(file.read_bytes()):
            if opcode.name == "GLOBAL":
                found.add(str(argument).replace(" ", "."))
            elif opcode.name == "STACK_GLOBAL":
                found.add(".".join(strings[-2:]))
            elif isinstance(argument, str):
                strings.append(argument)
    except Exception:  # not a pickle either
        return sorted(found)
    return sorted(n for n in found if not n.startswith(("collections.OrderedDict", "torch._utils.", "torch.storage.")))
