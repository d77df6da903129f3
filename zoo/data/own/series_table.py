"""Series of the user's own: a long table with one row for each series and time."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import numpy as np

from zoo.data.files import DataError
from zoo.data.own.columns import chosen, find_file, read_columns
from zoo.data.own.splits import check_fractions, cut_rows
from zoo.data.series import Series, SeriesData, as_series


class Track(NamedTuple):
    """One series: times (T,) that increase, and values (T, D), NaN where nothing was seen."""

    times: np.ndarray
    values: np.ndarray


class SeriesTable(SeriesData):
    """Irregular series out of a long table, CSV or Parquet: a row is a series' name, a time, and what was seen then.

        id,time,temperature,pressure,label
        a,0.0,20.1,,well
        a,0.7,20.3,1.02,well
        b,0.1,19.8,1.01,ill

    An empty cell was not seen. Times may be numbers or dates; each series begins at 0, and the longest of training
    lasts 1. Channels are standardized by the training series. Whole series are cut into training, validation and test.

    Args:
        path: the file, ``.csv``, ``.tsv`` or ``.parquet``: absolute, from the present folder, or from the root.
        root: the folder of the data sets; None: the environment's ZOO_DATA, else ./data.
        batch_size: series a batch.
        aim: ``extrapolation``: the last rows are predicted from those before; ``interpolation``: hidden rows between
            others are; ``classification``: the label is.
        id, time: the columns that name the series and the time.
        columns: the channels, ``[temperature,pressure]``; none: all other columns.
        label: the column of the classes, the same in all rows of a series; for classification.
        share: the share of each series' rows that is predicted.
        val_fraction: the part of the series that is held out for validation.
        test_fraction: the part of the series that is held out for the test.
        seed: of the order; not of the parts, nor of what is hidden.

    Raises:
        DataError: at ``setup``: the file is missing or no such table; a time stands twice in a series; a series has one
            row, or nothing that was seen; its rows have several labels.
        ValueError: an argument is out of range, or does nothing.
    """

    aims: ClassVar[tuple[str, ...]] = ("extrapolation", "interpolation", "classification")  # type: ignore[misc]

    def __init__(
        self,
        path: str = "",
        root: str | None = None,
        batch_size: int = 32,
        aim: Literal["extrapolation", "interpolation", "classification"] = "extrapolation",
        id: str = "id",
        time: str = "time",
        columns: list[str] | None = None,
        label: str = "",
        share: float = 0.3,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__(root, batch_size, seed, aim)
        check_fractions("SeriesTable", val_fraction, test_fraction)
        if not path:
            raise ValueError("The data set 'series_table' needs a file: --data.path FILE.")
        if aim == "classification":
            self.refuse_idle("nothing is predicted but the label", share=share)
            if not label:
                raise ValueError("SeriesTable: classification needs to know its column: --data.label COLUMN.")
        if not 0 < share < 1:
            raise ValueError(f"SeriesTable: share must lie in (0, 1); got {share}.")
        self.path, self.id, self.time, self.columns, self.label = path, id, time, list(columns or []), label
        self.share, self.val_fraction, self.test_fraction = share, val_fraction, test_fraction

    def prepare_data(self) -> None:
        self.setup()  # what is wrong with the file is said before a run begins

    def model_arguments(self) -> dict[str, int]:
        self.setup()
        return {"features": self.features, "num_classes": self.num_classes}

    def read(self) -> dict[str, Series]:
        file = find_file("series_table", self.path, self.root)
        tracks, labels = self._tracks(file)
        rows = cut_rows(len(tracks), self.val_fraction, self.test_fraction, labels)
        train = [tracks[i] for i in rows["train"]]
        self.horizon = max(float(t.times[-1]) for t in train) or 1.0
        seen = np.concatenate([t.values for t in train])
        if empty := [n for n, column in zip(self.channels, seen.T, strict=True) if not np.isfinite(column).any()]:
            raise DataError(f"{file}: column {empty[0]!r} is empty in every training series; leave it out.")
        self.mean, deviation = np.nanmean(seen, 0), np.nanstd(seen, 0)
        self.std = np.where(deviation > 0, deviation, 1.0)
        return {
            part: self._series([tracks[i] for i in index], None if labels is None else labels[index], key)
            for key, (part, index) in enumerate(rows.items())
        }

    def _tracks(self, file: Path) -> tuple[list[Track], np.ndarray | None]:
        """Return the series in the order of their names, and the label of each."""
        table = read_columns(file)
        keys = chosen(table, [self.id, self.time, *([self.label] if self.label else [])], "column", file)
        self.channels = chosen(table, self.columns, "column", file) or [n for n in table if n not in keys]
        if not self.channels:
            raise DataError(f"{file} has no columns but {', '.join(keys)}: nothing was seen.")
        for name in self.channels:
            if table[name].dtype.kind != "f":
                raise DataError(f"{file}: column {name!r} holds text, {str(table[name][0])!r} for one; channels are "
                                "numbers. Leave it out with --data.columns.")  # fmt: skip
        self.features = len(self.channels)
        times = self._times(table[self.time], file)
        values = np.stack([table[n] for n in self.channels], 1)
        if np.isinf(values).any():
            row = int(np.argmax(np.isinf(values).any(1)))
            raise DataError(f"{file}, row {row + 1}: a value is infinite. Leave the cell empty where nothing was seen.")
        names, which = np.unique(table[self.id], return_inverse=True)
        order = np.lexsort((times, which))
        ends = np.searchsorted(which[order], np.arange(len(names) + 1))
        tracks, labels = [], []
        for i, name in enumerate(names):
            mine = order[ends[i] : ends[i + 1]]
            t = times[mine]
            if len(t) < 2:
                raise DataError(f"{file}: series {name} has one row; two at least are needed.")
            if (again := np.flatnonzero(np.diff(t) == 0)).size:
                raise DataError(f"{file}: series {name} has the time {t[again[0]]:g} twice, in rows "
                                f"{mine[again[0]] + 1} and {mine[again[0] + 1] + 1}. Keep one of them, or average "
                                "them.")  # fmt: skip
            if not np.isfinite(values[mine]).any():
                raise DataError(f"{file}: nothing was seen in series {name}; remove it.")
            tracks.append(Track(t - t[0], values[mine]))
            if self.label:
                kinds = np.unique(table[self.label][mine])
                if len(kinds) > 1:
                    raise DataError(f"{file}: series {name} has the labels {kinds[0]} and {kinds[1]}; give it one.")
                labels.append(kinds[0])
        if self.aim != "classification":
            self.num_classes = 0
            return tracks, None
        self.classes, found = np.unique(np.array(labels), return_inverse=True)
        self.num_classes = len(self.classes)
        if self.num_classes < 2:
            raise DataError(f"{file}: all series have the label {labels[0]}; a classifier needs two at least.")
        return tracks, found

    def _times(self, cells: np.ndarray, file: Path) -> np.ndarray:
        if cells.dtype.kind != "f":
            try:
                cells = cells.astype("datetime64[us]").astype(np.int64) / 1e6
            except ValueError as error:
                raise DataError(
                    f"{file}: column {self.time!r} holds {str(cells[0])!r}; times are numbers, or dates such as "
                    f"2024-05-01T13:00 ({error})."
                ) from error
        if not np.isfinite(cells).all():
            row = int(np.argmin(np.isfinite(cells)))
            raise DataError(f"{file}, row {row + 1}: the time is missing or not finite.")
        return cells

    def _series(self, tracks: list[Track], labels: np.ndarray | None, key: int) -> Series:
        """Return a part as one padded batch."""
        random = np.random.Generator(np.random.PCG64(key))
        seen, asked = zip(*(self._cut(len(t.times), random, t) for t in tracks), strict=True)
        times, values, mask = self._padded([Track(t.times[i], t.values[i]) for t, i in zip(tracks, seen, strict=True)])
        query, target, target_mask = self._padded(
            [Track(t.times[i], t.values[i]) for t, i in zip(tracks, asked, strict=True)]
        )
        return as_series(times, values, mask, query, target, target_mask, labels)

    def _cut(self, count: int, random: np.random.Generator, track: Track) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows that are seen, and those that are asked for."""
        rows = np.arange(count)
        if self.aim == "classification":
            return rows, rows[:0]
        full = np.flatnonzero(np.isfinite(track.values).any(1))  # an empty row cannot be predicted
        few = min(max(1, round(self.share * count)), max(len(full) - 1, 1))
        held = full[-few:] if self.aim == "extrapolation" else np.sort(random.permutation(full[1:])[:few])
        if self.aim == "extrapolation":
            return rows[rows < held[0]] if held[0] else rows[:1], held
        return np.setdiff1d(rows, held), held

    def _padded(self, tracks: list[Track]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return times (n, T), values (n, T, D) and a mask of these, the last time repeated."""
        longest = max(len(t.times) for t in tracks)
        times = np.zeros((len(tracks), longest))
        values = np.full((len(tracks), longest, self.features), np.nan)
        for i, track in enumerate(tracks):
            n = len(track.times)
            if n:
                times[i, :n], times[i, n:] = track.times / self.horizon, track.times[-1] / self.horizon
                values[i, :n] = (track.values - self.mean) / self.std
        mask = np.isfinite(values)
        return times, np.where(mask, values, 0.0), mask
