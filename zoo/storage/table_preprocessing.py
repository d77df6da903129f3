"""From rows of a table to what a trained model expects: columns in order, encoded, standardized; and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.registry import unknown


@dataclass(frozen=True, kw_only=True)
class TablePreprocessing:
    """``(x - mean) / std`` of columns in order, a column of text as one number for each of its values (one-hot).

    Args:
        columns: their names, in order.
        mean, std: for each column; 0 and 1 for one of text.
        values: of the columns of text, by name.
        target: the column that is predicted; empty: none, the density is.
        classes: the names of the answers in the order of the logits; empty: numbers are predicted.
        target_mean, target_std: of the predicted numbers.
        data: the data set that they come from.
        kind: "table".
    """

    columns: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    values: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    target: str = ""
    classes: tuple[str, ...] = ()
    target_mean: tuple[float, ...] = ()
    target_std: tuple[float, ...] = ()
    data: str = ""
    kind: str = "table"

    @property
    def features(self) -> int:
        """Numbers that a row becomes."""
        return sum(len(self.values[c]) if c in self.values else 1 for c in self.columns)

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> TablePreprocessing:
        """Return that of the mapping in a ``config.json``.

        Raises:
            ValueError: a key is unknown or missing, or of a wrong kind.
        """
        known = [f.name for f in dataclasses.fields(cls)]
        for key in given:
            if key not in known:
                raise ValueError(f"preprocessing: {unknown('key', key, known)}")
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
        numbers = [plain.get(k, ()) for k in ("mean", "std", "target_mean", "target_std")]
        if given.get("kind") != "table" or not all(
            isinstance(v, tuple) and all(type(n) in (int, float) for n in v) for v in numbers
        ):
            raise ValueError("preprocessing of a table has kind 'table', and lists of numbers as mean and std.")
        values = plain.get("values", {})
        if not isinstance(values, Mapping) or not len(plain.get("columns", ())) == len(numbers[0]) == len(numbers[1]):
            raise ValueError("preprocessing of a table has a mean and a std for each of its columns.")
        plain["values"] = {str(k): tuple(map(str, v)) for k, v in values.items()}
        return cls(**plain)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for ``config.json``."""
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        plain["values"] = {k: list(v) for k, v in self.values.items()}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in plain.items()}

    def __call__(self, table: Mapping[str, Any] | Sequence[Sequence[float]] | np.ndarray) -> Tensor:
        """Turn a mapping of columns, or rows (n, columns) of numbers, into float32 (n, features).

        Raises:
            ValueError: a column is missing, a cell is no number, or a text is none that the model knows.
        """
        if not isinstance(table, Mapping):
            rows = np.asarray(table, np.float64)
            if rows.ndim != 2 or rows.shape[1] != len(self.columns):
                raise ValueError(f"Expected rows of {len(self.columns)} numbers; got {rows.shape}.")
            table = dict(zip(self.columns, rows.T, strict=True))
        parts = []
        for name, mean, std in zip(self.columns, self.mean, self.std, strict=True):
            if name not in table:
                raise ValueError(f"The table lacks the column {name!r}; it has {', '.join(map(str, table))[:200]}.")
            if name in self.values:
                parts.append(self._encoded(name, table[name]))
                continue
            try:
                cells = np.asarray(table[name], np.float64)
            except (ValueError, TypeError) as error:
                raise ValueError(f"Column {name!r} holds what is no number ({error}).") from error
            parts.append(((cells - mean) / std)[:, None])
        return torch.from_numpy(np.concatenate(parts, 1).astype(np.float32))

    def _encoded(self, name: str, cells: Any) -> np.ndarray:
        known = list(self.values[name])
        cells = [str(c) for c in cells]
        for cell in cells:
            if cell not in known:
                raise ValueError(f"Column {name!r}: {unknown('value', cell, known)}")
        return (np.array(cells)[:, None] == np.array(known)[None]).astype(np.float64)

    def answers(self, y: Tensor) -> Tensor:
        """Return predicted numbers (n, targets) in the table's own units."""
        if not self.target_mean:
            return y
        return y * y.new_tensor(self.target_std) + y.new_tensor(self.target_mean)
