"""The folder of a trained model: ``model.safetensors``, ``config.json`` and a ``README.md`` for readers.

Nothing in such a folder can run: the weights are safetensors, never a pickle; the configuration is JSON and names the
model by the name of a card, never by an import path. The sha256 of the weights stands in the configuration, and, for
weights that a card names, in the card as well, which then decides. Imports no torch until weights are read.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.registry import unknown
from zoo.storage.guards import Refused, free_memory, is_file, is_folder, read_file, reason

if TYPE_CHECKING:
    from torch import Tensor, nn

WEIGHTS, CONFIG, README = "model.safetensors", "config.json", "README.md"
FORMAT = 1  # of config.json; raised when an older zoo could not read it
MACHINE = ("name", "root", "num_workers", "download", "seed")  # options of a data set that are not the recipe's
PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl", ".pickle")
HEADER = 8 << 20  # bytes of the names and shapes in a safetensors file: some 80,000 tensors
LIMIT = 4 << 20  # bytes of a config.json: the largest real one has a few thousand


class WeightsError(ValueError):
    """A model folder or a checkpoint that is not used: damaged, incomplete, not trusted, or made for another model."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """The content of ``config.json``.

    Attributes:
        name: card and data set, "mdeq_tiny.digits".
        model: all arguments of the model's class.
        solver, adjoint: specs as `Registry.build` takes them; empty for an explicit model.
        preprocessing: what `zoo.storage.preprocessing.Preprocessing` takes.
        metrics: measured on the test split with these weights, and the number of ``samples``.
        weights: ``sha256``, ``bytes`` and ``dtype`` of the weights as stored.
        training: seed, commit, epochs, seconds, hardware, ... of the run.
        versions: of the packages that it was trained with.
        licence, paper: as in the card.
        format: version of this layout.
    """

    name: str
    model: Mapping[str, Any]
    weights: Mapping[str, Any]
    solver: Mapping[str, Any] = field(default_factory=dict)
    adjoint: Mapping[str, Any] = field(default_factory=dict)
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, Any] = field(default_factory=dict)
    licence: str = ""
    paper: Mapping[str, Any] = field(default_factory=dict)
    format: int = FORMAT


def read(place: Path) -> Config:
    """Return the configuration of a model folder, checked key by key.

    Raises:
        WeightsError: it is missing, no JSON, of a newer format, lacks a key, has one too many, or one of a wrong type.
    """
    file = place / CONFIG
    if not is_file(file):
        pickles = sorted(p.name for p in place.glob("*") if p.suffix in PICKLES) if is_folder(place) else []
        why = (
            f" {pickles[0]} there is a pickle, which may run code when it is read, and is left alone."
            if pickles
            else ""
        )
        what = "is no model folder" if is_folder(place) else "does not exist"
        raise WeightsError(
            f"{place} {what}: {CONFIG} and {WEIGHTS} are expected in it.{why} `python -m zoo.export` makes such a "
            "folder from a training run."
        )
    try:
        raw = json.loads(read_file(file, LIMIT).decode("utf-8"))
    except Refused as error:
        raise WeightsError(f"{file} is no configuration: {error.why}. Fetch or export the folder again.") from error
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{file} is not valid JSON ({reason(error)}); fetch or export the folder again.") from error
    if not isinstance(raw, dict):
        raise WeightsError(f"{file}: a configuration is a mapping; got {type(raw).__name__}.")
    made = raw.get("format")
    if not isinstance(made, int) or made < 1:
        raise WeightsError(f"{file}: 'format' must be a whole number from 1 to {FORMAT}; got {made!r}.")
    if made > FORMAT:
        raise WeightsError(f"{file} has format {made}; this version of zoo reads up to {FORMAT}. Upgrade the package.")
    known = {f.name: f for f in dataclasses.fields(Config)}
    for key, value in raw.items():
        if key not in known:
            raise WeightsError(f"{file}: {unknown('key', str(key), known)}")
        kind = {"str": str, "int": int}.get(str(known[key].type), dict)
        if not isinstance(value, kind):
            raise WeightsError(f"{file}: {key} must be a {kind.__name__}; got {value!r}.")
    for key in ("name", "model", "weights"):
        if key not in raw:
            raise WeightsError(f"{file}: the key {key!r} is missing.")
    if not isinstance(raw["weights"].get("sha256"), str):
        raise WeightsError(f"{file}: weights.sha256 is missing, so {WEIGHTS} cannot be checked.")
    return Config(**raw)


def read_weights(place: Path, config: Config, sha256: str = "") -> dict[str, Tensor]:
    """Return the weights of a folder, read only if they are what was published.

    Args:
        place: the folder.
        config: its configuration.
        sha256: what a card says; empty: the configuration's own, which guards against damage, not against a forger.

    Raises:
        WeightsError: the file is missing, has another hash, or is no whole safetensors file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    file = place / WEIGHTS
    try:
        data = read_file(file, max(free_memory() // 2, 1))  # once: what was hashed is what is loaded
    except Refused as error:
        raise WeightsError(
            f"The weights of {config.name!r} should lie in {file}, which cannot be read: {error.why}. Fetch or export "
            "them again."
        ) from error
    found, wanted = hashlib.sha256(data).hexdigest(), sha256 or config.weights["sha256"]
    if found != wanted:
        who = "the card" if sha256 else CONFIG
        raise WeightsError(
            f"{file} is damaged or was changed: its sha256 is {found}, {who} says {wanted}. "
            "Nothing was loaded; fetch the weights again."
        )
    if (header := int.from_bytes(data[:8], "little")) > HEADER:
        raise WeightsError(
            f"{file} is no whole safetensors file: its header declares {header:,} bytes of names and shapes, and at "
            f"most {HEADER:,} are read. Fetch or export it again."
        )
    try:
        return load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise WeightsError(f"{file} is no whole safetensors file ({error}); fetch or export it again.") from error


def fill(model: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Put weights into a model: all of them and no others, or none.

    Raises:
        WeightsError: they do not fit (see `check`); the model is untouched.
    """
    check(model.state_dict(), state, what)
    model.load_state_dict(dict(state), strict=True)


def check(own: Mapping[str, Tensor], state: Mapping[str, Tensor], what: str) -> None:
    """Compare the names and shapes of a model's state with those of weights; an empty ``own`` is not compared.

    Raises:
        WeightsError: a tensor is missing, one is too many, or a shape differs.
    """
    if not own:
        return
    wrong = [f"{k} is missing" for k in own if k not in state]
    wrong += [f"{k} is unknown to the model" for k in state if k not in own]
    wrong += [
        f"{k} is {tuple(v.shape)}, the model has {tuple(own[k].shape)}"
        for k, v in state.items()
        if k in own and own[k].shape != v.shape
    ]
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise WeightsError(
            f"The weights of {what} do not fit the model: {wrong[0]}{more}. Leave the arguments that set its sizes as "
            "they were in training; only num_classes may differ, which gives it a new classifier."
        )


def write(place: Path, config: Config, state: Mapping[str, Tensor], readme: str = "", *, half: bool = False) -> Config:
    """Write a model folder; the configuration last, so that a folder with one is complete.

    Args:
        place: the folder, made if need be; one that holds another model is refused.
        config: all but its ``weights``, which are filled in.
        state: the model's ``state_dict()``.
        readme: text of ``README.md``; ``{sha256}`` in it is not interpreted.
        half: store floating point weights as float16.

    Returns:
        the configuration as written.

    Raises:
        WeightsError: the folder holds something else, or a weight is not finite (as float16).
    """
    import torch
    from safetensors.torch import save

    if (place / CONFIG).is_file() and (there := read(place).name) != config.name:
        raise WeightsError(f"{place} holds {there!r}, not {config.name!r}; choose another folder.")
    if place.exists() and not place.is_dir():
        raise WeightsError(f"{place} is a file; choose a folder.")
    kept: dict[str, Tensor] = {}
    for key, value in state.items():
        narrow = half and value.is_floating_point()
        kept[key] = value.detach().to("cpu", torch.float16 if narrow else value.dtype).contiguous().clone()
        if value.is_floating_point() and not kept[key].isfinite().all():
            raise WeightsError(f"{key} holds NaN or infinity{' as float16' if narrow else ''}; it is not exported.")
    data = save(kept, metadata={"format": "pt"})  # one entry: their order is not fixed, and the hash is of the file
    dtype = "float16" if half else "float32"
    weights = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data), "dtype": dtype}
    config = dataclasses.replace(config, weights=weights)
    place.mkdir(parents=True, exist_ok=True)
    text = json.dumps(dataclasses.asdict(config), indent=2, allow_nan=False) + "\n"
    for name, content in ((WEIGHTS, data), (README, readme.encode()), (CONFIG, text.encode())):
        part = place / f".{name}.part"
        part.write_bytes(content)
        os.replace(part, place / name)
    return config
