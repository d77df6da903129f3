"""From a text to token numbers and back, as a trained model needs it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.registry import unknown
from zoo.storage.checkpoint import read_checkpoint
from zoo.storage.model_folder import CONFIG, WeightsError
from zoo.storage.model_folder import read as read_config
from zoo.storage.tokenizer import Tokenizer, tokenizer


@dataclass(frozen=True, kw_only=True)
class TextPreprocessing:
    """A text to token numbers, and token numbers to a text, as the model was trained.

    Args:
        tokenizer: plain values; see `zoo.storage.tokenizer.tokenizer`.
        kind: "text".
    """

    tokenizer: Mapping[str, Any]
    kind: str = "text"

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> TextPreprocessing:
        """Return that of the mapping in a ``config.json``.

        Raises:
            ValueError: a key is unknown, missing or of a wrong kind.
            ImportError: byte pairs, and the package tokenizers is not installed.
        """
        known = [f.name for f in dataclasses.fields(cls)]
        for key in given:
            if key not in known:
                raise ValueError(f"preprocessing: {unknown('key', key, known)}")
        if given.get("kind") != "text" or not isinstance(given.get("tokenizer"), Mapping):
            raise ValueError("preprocessing of text has kind 'text' and a tokenizer.")
        made = cls(**given)
        made.symbols()
        return made

    @classmethod
    def of(cls, source: str | Path) -> TextPreprocessing:
        """Return that of trained weights: of a model folder, a run folder, or a ``.ckpt`` in one.

        Raises:
            WeightsError: the source is missing or damaged, or its weights read no text.
        """
        place = Path(source).expanduser()
        if (place / CONFIG).is_file():
            given = read_config(place).preprocessing
        else:
            file = place if place.suffix == ".ckpt" else place / "checkpoints" / "best.ckpt"
            given = read_checkpoint(file).get("preprocessing", {})
        if not isinstance(given, Mapping) or given.get("kind") != "text":
            raise WeightsError(f"{source} has no tokenizer: it is no language model, or was saved without one.")
        return cls.read(given)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for ``config.json``."""
        return {"kind": self.kind, "tokenizer": dict(self.tokenizer)}

    def symbols(self) -> Tokenizer:
        """Return the tokenizer itself."""
        return tokenizer(self.tokenizer)
