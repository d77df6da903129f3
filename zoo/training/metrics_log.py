"""The metrics of a run as a table, ``metrics.csv``, written so that a crash leaves whole rows."""

from __future__ import annotations

import csv
import errno
import io
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from zoo.storage.files import Whole


class MetricsLog(Logger):
    """``metrics.csv``: one row a step, one column a metric, an empty cell where nothing was logged.

    Unlike Lightning's, it continues the file of a run that is resumed, without the rows after the checkpoint. A row is
    appended as it is logged, and only a new column writes the file anew; memory holds the newest row alone.

    Args:
        folder: the run folder.
        before: ``metrics.csv`` of the run that is resumed, its rows below the step ``below`` being kept.
        clock: seconds of training so far; noted beside each validation as ``seconds``.
    """

    def __init__(
        self,
        folder: Path,
        before: Path | None = None,
        below: float = math.inf,
        clock: Callable[[], float] | None = None,
    ) -> None:
        super().__init__()
        self.file, self.before, self.below, self.clock = folder / "metrics.csv", before, below, clock
        self._columns: list[str] = []  # of the file; none: it was not begun
        self._older = 0  # rows in the file before the newest one
        self._newest: dict[str, float] = {}
        self._at = 0  # where the newest row begins, in bytes
        self._due = False  # the newest row was not written as it is now

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.begin()
        values = {k: float(v) for k, v in metrics.items()}
        if self.clock is not None and any(k.startswith("val/") for k in values):
            values["seconds"] = round(self.clock(), 2)
        place = int(step) if step is not None else int(self._newest.get("step", 0))
        if self._newest and self._newest["step"] != place:
            self.save()
            self._older, self._at = self._older + 1, self.file.stat().st_size
            self._newest = {}
        self._newest = {"step": place, **self._newest, **values}
        self._due = True

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: ``config.yaml`` holds them."""

    @rank_zero_only
    def save(self) -> None:
        if not self._columns or not self._due:
            return
        self._due = False  # a disk that is full is not tried again
        if self._newest.keys() <= set(self._columns) and self.file.is_file():
            self._append()
        else:
            self._columns = _ordered({*self._columns, *self._newest})
            self._rewrite(islice(_cells(self.file), self._older))

    def finalize(self, status: str) -> None:
        self.save()

    def rows(self, most: int = 5000) -> list[dict[str, float]]:
        """The rows, evenly thinned to about ``most`` where there are more; those of a validation all stay."""
        if not self._columns:
            return []  # the run never began
        self.save()
        every = max(1, (self._older + 1) // most)
        rows = enumerate(_numbers(self.file))
        return [row for i, row in rows if i % every == 0 or any(k.startswith("val/") for k in row)]

    @rank_zero_only
    def begin(self) -> None:
        """Write the file of a run that starts, or cut that of the run that is resumed to where it goes on.

        Until then a run's file is left as it was: a run that cannot be resumed keeps it.
        """
        if self._columns:
            return
        self._columns = ["step", "epoch"]
        if self.before is not None and self.before.is_file():
            with self.before.open(newline="") as stream:
                self._columns = _ordered({*self._columns, *next(csv.reader(stream), [])})
        self._rewrite(self._taken_over())

    def _taken_over(self) -> Iterator[Mapping[str, Any]]:
        for row in _numbers(self.before, self.below) if self.before is not None else ():
            if self._newest:
                self._older += 1
                yield self._newest
            self._newest = row

    def _rewrite(self, older: Iterable[Mapping[str, Any]]) -> None:
        with Whole(self.file) as part, part.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, self._columns)
            writer.writeheader()
            writer.writerows(older)
            self._at = stream.tell()
            if self._newest:
                writer.writerow(self._newest)

    def _append(self) -> None:
        """Write the newest row in its place, the file's end; of a row that does not fit, nothing stays."""
        text = io.StringIO(newline="")
        csv.DictWriter(text, self._columns).writerow(self._newest)
        row = text.getvalue().encode()
        with self.file.open("r+b", buffering=0) as stream:
            stream.truncate(self._at)
            stream.seek(self._at)
            try:
                if stream.write(row) < len(row):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.file))
            except OSError:
                stream.truncate(self._at)
                raise


def _ordered(columns: Iterable[str]) -> list[str]:
    return ["step", "epoch", *sorted({*columns} - {"step", "epoch"})]


def read_metrics(file: Path, below: float = math.inf) -> list[dict[str, float]]:
    """The rows of a ``metrics.csv`` whose step lies below a number."""
    return list(_numbers(file, below))


def _numbers(file: Path, below: float = math.inf) -> Iterator[dict[str, float]]:
    for row in _cells(file):
        if float(row["step"]) < below:
            yield {**{k: float(v) for k, v in row.items() if v}, "step": int(row["step"])}


def _cells(file: Path) -> Iterator[dict[str, str]]:
    """The rows of a ``metrics.csv`` as text, without one that a crash cut short: its line has no end."""
    if not file.is_file():
        return
    with file.open(newline="", encoding="utf-8") as stream:
        yield from csv.DictReader(line for line in stream if line.endswith("\n"))
