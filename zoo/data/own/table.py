"""A table of the user's own, CSV or Parquet: a density of its rows, or one column predicted from the others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from zoo.data.files import DataError
from zoo.data.own.columns import Columns, chosen, find_file, read_columns, refuse_empty
from zoo.data.own.splits import check_fractions, cut_rows
from zoo.data.tensors import Split, TensorData
from zoo.registry import unknown
from zoo.storage.table_preprocessing import TablePreprocessing

AIMS = ("classification", "regression", "density")
MOST = 256  # values of a column of text, at most


class Table(TensorData):
    """Rows of a table, standardized by the training part.

    A column of text becomes one number for each of its values (one-hot), or is refused. The rows are cut into training,
    validation and test by a fixed seed, of every class its share. A table lies in memory as float32.

    Args:
        path: the file, ``.csv``, ``.tsv`` or ``.parquet``: absolute, from the present folder, or from the root.
        root: the folder of the data sets; None: the environment's ZOO_DATA, else ./data.
        batch_size: rows a batch.
        aim: what is learned: classification or regression of the target, or the density of the rows; follows the model.
        target: the column that is predicted; several for a regression.
        columns: those that are looked at, ``[age,height]``; none: all but the target.
        categorical: columns of text are encoded, or refused.
        missing: rows with an empty cell are refused, dropped, or filled by the column's mean.
        val_fraction: the part that is held out for validation.
        test_fraction: the part that is held out for the test.
        seed: of the order; not of the parts.

    Raises:
        DataError: at ``setup``: the file is missing or no table, a column is not there, a cell is no number.
        ValueError: an argument is out of range, or does nothing.
    """

    aims: ClassVar[tuple[str, ...]] = AIMS

    def __init__(
        self,
        path: str = "",
        root: str | None = None,
        batch_size: int = 128,
        aim: Literal["classification", "regression", "density"] = "classification",
        target: str | list[str] = "",
        columns: list[str] | None = None,
        categorical: Literal["encode", "refuse"] = "encode",
        missing: Literal["refuse", "drop", "mean"] = "refuse",
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__(root, batch_size, seed)
        check_fractions("Table", val_fraction, test_fraction)
        for option, value, known in (
            ("aim", aim, AIMS),
            ("categorical", categorical, ("encode", "refuse")),
            ("missing", missing, ("refuse", "drop", "mean")),
        ):
            if value not in known:
                raise ValueError(f"Table: {unknown(option, value, known)}")
        if not path:
            raise ValueError("The data set 'table' needs a file: --data.path FILE.")
        targets = [target] if isinstance(target, str) else list(target)
        self.targets_named = [t for t in targets if t]
        if aim == "density":
            self.refuse_idle("a density is that of all columns; choose them with --data.columns", target=target)
        elif not self.targets_named or (aim == "classification" and len(self.targets_named) > 1):
            raise ValueError(f"Table: {aim} needs to know its column: --data.target COLUMN.")
        self.path, self.aim, self.columns = path, aim, list(columns or [])
        self.categorical, self.missing = categorical, missing
        self.val_fraction, self.test_fraction = val_fraction, test_fraction

    def prepare_data(self) -> None:
        find_file("table", self.path, self.root)

    def read(self) -> dict[str, Split]:
        file = find_file("table", self.path, self.root)
        table = read_columns(file)
        targets = chosen(table, self.targets_named, "column", file)
        names = chosen(table, self.columns, "column", file) or [n for n in table if n not in targets]
        if both := [n for n in names if n in targets]:
            raise DataError(f"{file}: the column {both[0]!r} is the target, so it cannot be looked at too.")
        if not names:
            raise DataError(f"{file} has no column but the target; there is nothing to predict it from.")
        table = self._whole({n: table[n] for n in [*names, *targets]}, targets, file)
        labels = self._labels(table[targets[0]], file) if self.aim == "classification" else None
        rows = cut_rows(len(table[names[0]]), self.val_fraction, self.test_fraction, labels)
        self._made = self._preprocessing(table, names, targets, rows["train"], file)
        x = self._made({n: self._filled(table[n], rows["train"]) for n in names})
        if self.aim == "density":
            y = torch.zeros(len(x))
        elif labels is not None:
            y = torch.from_numpy(labels)
        else:
            given = np.stack([table[t] for t in targets], 1)
            y = torch.from_numpy(
                ((given - np.array(self._made.target_mean)) / np.array(self._made.target_std)).astype(np.float32)
            )
        return {part: (x[index], y[index]) for part, index in ((p, torch.from_numpy(i)) for p, i in rows.items())}

    def _whole(self, table: Columns, targets: Sequence[str], file: Path) -> Columns:
        """Return the table without rows that lack a cell; raise DataError where they are not to be dropped."""
        count = len(next(iter(table.values())))
        keep = np.ones(count, dtype=bool)
        for name, values in table.items():
            if values.dtype.kind == "f":
                if self.missing == "drop":
                    keep &= np.isfinite(values)
                elif self.missing == "refuse" or name in targets:
                    refuse_empty(values, name, file)
                elif not np.isfinite(values).any():
                    raise DataError(f"{file}: column {name!r} holds no number at all; leave it out.")
        if not keep.any():
            raise DataError(f"{file}: every row lacks a cell; leave columns out with --data.columns.")
        return {name: values[keep] for name, values in table.items()}

    def _labels(self, cells: np.ndarray, file: Path) -> np.ndarray:
        name = self.targets_named[0]
        if cells.dtype.kind == "f":
            if bad := [c for c in cells if c != round(c)]:
                raise DataError(
                    f"{file}: the target {name!r} holds {bad[0]:g}, and a class is a text or a whole number. For "
                    "numbers take a model of regression, as deq_mlp_regressor."
                )
            cells = cells.astype(np.int64)
        kinds, labels = np.unique(cells, return_inverse=True)
        if not 2 <= len(kinds) <= max(2, len(cells) // 2):
            raise DataError(f"{file}: the target {name!r} has {len(kinds)} classes in {len(cells)} rows; two at least, "
                            "with some rows of each, can be learned.")  # fmt: skip
        self.classes = tuple(str(k) for k in kinds)
        return labels.astype(np.int64)

    def _filled(self, cells: np.ndarray, train: np.ndarray) -> np.ndarray:
        if cells.dtype.kind != "f":
            return cells
        return np.where(np.isfinite(cells), cells, np.nanmean(cells[train])) if self.missing == "mean" else cells

    def _preprocessing(
        self, table: Columns, names: Sequence[str], targets: Sequence[str], train: np.ndarray, file: Path
    ) -> TablePreprocessing:
        mean, std, values = [], [], {}
        for name in names:
            cells = table[name]
            if cells.dtype.kind == "f":
                seen = cells[train][np.isfinite(cells[train])]
                mean.append(float(seen.mean()) if len(seen) else 0.0)
                std.append(float(seen.std()) or 1.0 if len(seen) else 1.0)
                continue
            kinds = sorted(set(cells.tolist()))
            if self.categorical == "refuse" or self.aim == "density":
                what = "a density is one of numbers" if self.aim == "density" else "--data.categorical is refuse"
                raise DataError(f"{file}: column {name!r} holds text, {kinds[0]!r} for one, and {what}. Leave it out "
                                "with --data.columns.")  # fmt: skip
            if len(kinds) > MOST:
                raise DataError(f"{file}: column {name!r} has {len(kinds):,} different texts, and at most {MOST} are "
                                "encoded. Leave it out with --data.columns.")  # fmt: skip
            values[name] = tuple(kinds)
            mean.append(0.0)
            std.append(1.0)
        made: dict[str, Any] = {"target": ",".join(targets), "data": "table"}
        if self.aim == "classification":
            made["classes"] = self.classes
        if self.aim == "regression":
            for name in targets:
                if table[name].dtype.kind != "f":
                    raise DataError(f"{file}: the target {name!r} holds text; a regression predicts numbers.")
            given = np.stack([table[t][train] for t in targets], 1)
            made["target_mean"] = tuple(float(v) for v in given.mean(0))
            made["target_std"] = tuple(float(v) or 1.0 for v in given.std(0))
        return TablePreprocessing(columns=tuple(names), mean=tuple(mean), std=tuple(std), values=values, **made)

    @property
    def preprocessing(self) -> dict[str, Any]:
        """Plain values from which `TablePreprocessing` turns rows into what the trained model sees."""
        self.setup()
        return self._made.as_dict()

    def model_arguments(self) -> dict[str, int]:
        self.setup()
        found = {"features": self._made.features}
        if self.aim == "classification":
            found["num_classes"] = len(self.classes)
        if self.aim == "regression":
            found["targets"] = len(self.targets_named)
        return found
