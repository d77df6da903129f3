"""ETT: hourly load and oil temperature of two electricity transformers over two years, for forecasting."""

from __future__ import annotations

import csv
import io
from typing import ClassVar, Literal

import numpy as np

from zoo.data.files import corrupt, missing, read_bytes
from zoo.data.series import Series, SeriesData, as_series
from zoo.storage.guards import MiB, is_file, reason

COLUMNS = ("HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT")


class ETT(SeriesData):
    """Windows of seven hourly series: ``lookback`` hours are seen, the ``horizon`` hours after them are predicted.

    The published split is by time: twelve months of 30 days to train, four to validate, four to test; what is asked of
    a window lies within its split, what is seen may reach back into the one before. Channels are standardized by the
    training months, and errors are in that unit, as is usual for this set. A time of 1 is the whole lookback.

    Args:
        root: the folder of the data sets, which holds ETT/ETTh1.csv and ETTh2.csv; None: ZOO_DATA, else ./data.
        batch_size: windows a batch.
        seed: of the order; the windows are the same for all.
        aim: ``extrapolation``.
        which: the transformer, ``h1`` or ``h2``.
        lookback, horizon: hours seen, and asked.
        stride: hours from one window of training to the next; validation and test have one at every hour.
        drop: share of the values seen that is hidden, at random but for all runs alike: it makes the series irregular.

    Raises:
        DataError: at ``setup``: a file is missing, or is not what was published.

    Reference: Zhou et al., "Informer: Beyond Efficient Transformer for Long Sequence Time-Series Forecasting", 2021,
    https://arxiv.org/abs/2012.07436
    """

    features = len(COLUMNS)
    num_classes = 0
    aims = ("extrapolation",)
    parts: ClassVar[dict[str, int]] = {"train": 8640, "val": 2880, "test": 2880}  # hours

    def __init__(
        self,
        root: str | None = None,
        batch_size: int = 64,
        seed: int = 0,
        aim: Literal["extrapolation"] = "extrapolation",
        which: Literal["h1", "h2"] = "h1",
        lookback: int = 48,
        horizon: int = 24,
        stride: int = 4,
        drop: float = 0.0,
    ) -> None:
        super().__init__(root, batch_size, seed, aim)
        if which not in ("h1", "h2"):
            raise ValueError(f"ETT: which must be 'h1' or 'h2'; got {which!r}.")
        far, long = self.parts["train"] - horizon, min(self.parts.values())
        if not (0 < lookback <= far and 0 < horizon <= long and stride > 0 and 0 <= drop < 1):
            raise ValueError(
                f"ETT: horizon must be 1 to {long} hours, lookback 1 to {far}, stride at least 1 and drop in [0, 1); "
                f"got {horizon}, {lookback}, {stride} and {drop}."
            )
        self.which, self.lookback, self.horizon, self.stride, self.drop = which, lookback, horizon, stride, drop

    def prepare_data(self) -> None:
        self.table()

    def read(self) -> dict[str, Series]:
        table = self.table()
        first = table[: self.parts["train"]]
        table = (table - first.mean(0)) / np.maximum(first.std(0), 1e-12)
        out, start = {}, 0
        for key, (name, hours) in enumerate(self.parts.items()):
            low = max(start, self.lookback)  # of the first hour asked
            begins = np.arange(low, start + hours - self.horizon + 1, self.stride if name == "train" else 1)
            out[name] = self.windows(table, begins, key)
            start += hours
        return out

    def windows(self, table: np.ndarray, begins: np.ndarray, key: int) -> Series:
        """Return the windows whose asked hours begin there."""
        seen = begins[:, None] + np.arange(-self.lookback, 0)
        asked = begins[:, None] + np.arange(self.horizon)
        random = np.random.Generator(np.random.PCG64(key))
        mask = random.random((*seen.shape, self.features)) >= self.drop
        mask[:, -1] = True  # a window without any observation could not be used
        times, query = ((x - begins[:, None] + self.lookback) / self.lookback for x in (seen, asked))
        return as_series(times, table[seen], mask, query, table[asked], np.ones(asked.shape, dtype=bool))

    def table(self) -> np.ndarray:
        """Return the hours (n, 7) of the file, as many as the split needs at least."""
        file = self.root / "ETT" / f"ETT{self.which}.csv"
        if not is_file(file):
            raise missing("ETT", [file], "ETT/", "It is not downloaded: see github.com/zhouhaoyi/ETDataset.")
        try:
            lines = csv.reader(io.StringIO(read_bytes(file, 64 * MiB).decode("utf-8"), newline=""))
            if tuple(next(lines, ())) != ("date", *COLUMNS):
                raise corrupt(file, f"its first line does not name date,{','.join(COLUMNS)}")
            table = np.array([row[1:] for row in lines], dtype=np.float64)
        except (ValueError, csv.Error) as error:
            raise corrupt(file, f"a row does not hold {len(COLUMNS)} numbers ({reason(error)})") from error
        need = sum(self.parts.values())
        if table.shape[1:] != (len(COLUMNS),) or len(table) < need:
            raise corrupt(file, f"it holds {table.shape[0]:,} complete hours; {need:,} are needed")
        if not np.isfinite(table).all():
            raise corrupt(
                file, f"its row {int(np.argmin(np.isfinite(table).all(1))) + 2} holds a value that is not finite"
            )
        return table
