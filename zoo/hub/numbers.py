"""Ask models about numbers: the density of points, and what irregular series will be."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zoo.hub.answers import Answer, Forecast, LogDensity, Prediction, Solved, ranked
from zoo.hub.inputs import Inputs
from zoo.hub.pictures import array_of
from zoo.storage.arrays import read_npz
from zoo.storage.guards import GiB, read_file


class Points(Inputs):
    """Points for a flow: their log density, in the units that it was trained in.

    Args:
        given: an array (N, D) or one point (D,), or a file of them: ``.npy``, ``.npz``, or ``.csv`` with a line a point
            and, if wanted, a head.
    """

    noun = "point"

    def __init__(self, model: nn.Module, given: Any, top: int) -> None:
        super().__init__(model, top)
        self.path = str(given) if isinstance(given, (str, Path)) else ""
        x = np.asarray(_points(Path(given)) if self.path else given, dtype=np.float64)
        self.several = x.ndim != 1
        x = x if self.several else x[None]
        features = int(model.features)  # type: ignore[arg-type]
        if x.ndim != 2 or x.shape[1] != features or not len(x):
            raise ValueError(f"The model takes points (N, {features}), at least one; got the shape {x.shape}.")
        self.items = list(torch.from_numpy(x))

    def source(self, i: int) -> str:
        return f"{self.path}:{i}" if self.path else ""

    def prepare(self, i: int) -> tuple[Tensor, ...]:
        point = self.items[i]
        if not torch.isfinite(point).all():
            raise ValueError(f"it is not finite: {point.tolist()[:8]}.")
        return (point[None],)

    def ask(self, batch: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (self.model(batch[0].to(self.device, self.dtype)),)

    def answer(self, out: tuple[Tensor, ...], i: int, solved: Solved) -> Answer:
        return LogDensity(float(out[0]), source=self.source(i), **vars(solved))

    def unread(self, i: int, error: str) -> Answer:
        return LogDensity(math.nan, converged=False, source=self.source(i), error=error)

    def columns(self) -> tuple[str, ...]:
        return LogDensity.columns


def _points(path: Path) -> np.ndarray:
    if path.suffix.lower() in (".npy", ".npz"):
        return array_of(path)
    lines = [(n, row) for n, row in enumerate(_table(path), 1) if row]
    if lines and not all(_is_number(cell) for cell in lines[0][1]):
        lines = lines[1:]  # the head
    if not lines:
        raise ValueError(f"{path} holds no points: a line of numbers is expected for each.")
    width = len(lines[0][1])
    for n, row in lines:
        if len(row) != width or not all(_is_number(cell) for cell in row):
            raise ValueError(f"{path}, line {n}: {width} numbers are expected; got {','.join(row)[:60]!r}.")
    return np.array([[float(cell) for cell in row] for _, row in lines])


class SeriesInputs(Inputs):
    """Irregular series for a model of them; times and values in the units that it was trained in.

    Args:
        given: a mapping (or ``.npz``) of ``times`` (N, T), ``values`` (N, T, D), and, if wanted, ``mask`` (N, T, D)
            bool (else: where the values are finite) and ``query`` (N, Q), the times that are asked for; or a ``.csv``
            with the columns ``id, time`` and D more, a line a row of a series, where empty cells were not seen and a
            line without any is a time that is asked for.
        classes: how many the model tells apart; 0: it predicts values.
    """

    noun = "series"

    def __init__(self, model: nn.Module, given: Any, top: int) -> None:
        super().__init__(model, top)
        self.features, self.classes = int(model.features), int(model.num_classes)  # type: ignore[arg-type]
        self.several = True
        self.path = str(given) if isinstance(given, (str, Path)) else ""
        if self.path.lower().endswith(".csv"):
            self.items, self.names = _series(Path(given), self.features)
        else:
            if not self.path and not isinstance(given, Mapping) and hasattr(given, "_asdict"):
                given = given._asdict()
            self.items = _stacked(read_npz(Path(given)) if self.path else given)
            self.names = [str(i) for i in range(len(self.items))]

    def source(self, i: int) -> str:
        return f"{self.path}:{self.names[i]}" if self.path else self.names[i]

    def prepare(self, i: int) -> tuple[Tensor, ...]:
        times, values, mask, query = (torch.as_tensor(x)[None] for x in self.items[i])
        if not self.classes and not query.shape[1]:
            raise ValueError("no time is asked for: give a query, or a line without values.")
        return times.double(), values.double(), mask.bool(), query.double()

    def ask(self, batch: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        times, values, mask, query = batch
        asked = None if self.classes else query.to(self.device, self.dtype)
        seen = times.to(self.device, self.dtype), values.to(self.device, self.dtype), mask.to(self.device)
        out = self.model(*seen, asked)
        return (out.logits.float().softmax(1),) if self.classes else (query, out.values)

    def answer(self, out: tuple[Tensor, ...], i: int, solved: Solved) -> Answer:
        if not self.classes:
            return Forecast(out[0], out[1], source=self.source(i), **vars(solved))
        p, order = out[0].topk(min(self.top, self.classes))
        named = tuple((str(k), float(v)) for k, v in zip(order.tolist(), p, strict=True))
        return Prediction(named[0][0], named[0][1], named, source=self.source(i), **vars(solved))

    def unread(self, i: int, error: str) -> Answer:
        told = {"converged": False, "source": self.source(i), "error": error}
        if self.classes:
            return Prediction("", 0.0, (), **told)  # type: ignore[arg-type]
        return Forecast(torch.zeros(0), torch.zeros(0, self.features), **told)  # type: ignore[arg-type]

    def columns(self) -> tuple[str, ...]:
        values = tuple(f"value_{i}" for i in range(self.features))
        return ranked(self.top) if self.classes else (*Forecast.columns, *values)


def _stacked(given: Any) -> list[tuple[Any, ...]]:
    if not isinstance(given, Mapping) or not {"times", "values"} <= set(given):
        got = f"the arrays {', '.join(sorted(map(str, given)))}" if isinstance(given, Mapping) else type(given).__name__
        raise ValueError(f"Series are a mapping of times (N, T) and values (N, T, D), at least; got {got}.")
    times, values = (torch.as_tensor(given[k]) for k in ("times", "values"))
    mask = torch.as_tensor(given["mask"]) if given.get("mask") is not None else torch.isfinite(values)
    query = torch.as_tensor(given["query"]) if given.get("query") is not None else times[:, :0]
    if times.dim() != 2 or values.dim() != 3 or len({len(x) for x in (times, values, mask, query)}) != 1:
        raise ValueError(
            "times are (N, T), values and mask (N, T, D) and query (N, Q), of as many series; got "
            + ", ".join(str(tuple(x.shape)) for x in (times, values, mask, query))
        )
    return list(zip(times, values, mask, query, strict=True))


def _series(path: Path, features: int) -> tuple[list[tuple[Any, ...]], list[str]]:
    """The series of a long table, in the order of their first lines."""
    rows = _table(path)
    head = [name.strip().lower() for name in rows[0]] if rows else []
    if head[:2] != ["id", "time"] or len(head) != features + 2:
        raise ValueError(
            f"{path}: the head must be id,time and {features} columns of values; got {','.join(head)[:80]!r}."
        )
    found: dict[str, list[tuple[float, list[float]]]] = {}
    for n, row in enumerate(rows[1:], 2):
        if not row:
            continue
        if len(row) != len(head) or not all(_is_number(c) or (not c.strip() and j > 1) for j, c in enumerate(row) if j):
            raise ValueError(
                f"{path}, line {n}: an id, a time and {features} numbers (or empty cells) are expected; got "
                f"{','.join(row)[:60]!r}."
            )
        cells = [float(c) if c.strip() else math.nan for c in row[2:]]
        found.setdefault(row[0], []).append((float(row[1]), cells))
    if not found:
        raise ValueError(f"{path} holds no series: only its head is there.")
    items: list[tuple[Any, ...]] = []
    for lines in found.values():
        lines.sort(key=lambda line: line[0])
        seen = [line for line in lines if not all(math.isnan(v) for v in line[1])]
        values = torch.tensor([v for _, v in seen], dtype=torch.float64).view(len(seen), features)
        asked = torch.tensor([t for t, v in lines if all(map(math.isnan, v))], dtype=torch.float64)
        items.append((torch.tensor([t for t, _ in seen], dtype=torch.float64), values, torch.isfinite(values), asked))
    return items, list(found)


def _table(path: Path) -> list[list[str]]:
    try:
        return list(csv.reader(io.StringIO(read_file(path, GiB).decode("utf-8-sig"))))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is no table of comma-separated text: {error}.") from error


def _is_number(cell: str) -> bool:
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False
